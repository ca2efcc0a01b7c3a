"""The nouns: what an image, a label map and a record are. No input or output, no torch."""
