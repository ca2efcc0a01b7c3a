"""From DICOM files to volumes."""
