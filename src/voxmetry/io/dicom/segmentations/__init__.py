"""DICOM SEG and RTSTRUCT, read and written."""
