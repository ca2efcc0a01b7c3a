"""The pictures of a report: planned first, then drawn."""
