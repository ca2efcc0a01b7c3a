"""The other DICOM objects that are written, and what they take from the series that they belong to."""
