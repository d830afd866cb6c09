"""Unsupervised lesion segmentation in brain MR images.

The path of the data::

    scan.nii.gz -> images.volume -> brain -> slices -> models -> postprocessing -> mask.nii.gz

``segmentation.segment`` follows this path; ``training.fit.fit`` trains the models. Nothing heavy is imported here.
"""

__version__ = "0.12.0"
