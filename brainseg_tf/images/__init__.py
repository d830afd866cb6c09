"""Image files: NIfTI, DICOM and other formats, read into volumes with axes and units, and written."""
