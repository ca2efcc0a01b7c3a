"""DICOM in and out of the service: C-STORE, DICOMweb, Orthanc, and the delivery of results to named peers."""
