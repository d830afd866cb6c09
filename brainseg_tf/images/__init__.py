"""Reading of NIfTI, DICOM and other image files into volumes with axes and units, and writing of results."""
