"""Lesion segmentation in brain MR images, learned without a label.

The way of the data, one module each::

    scan.nii.gz -> volume -> slices -> models -> postprocessing -> mask.nii.gz

``segmentation.segment`` walks that road; ``training.fit`` makes the models. Nothing heavy is imported here.
"""

__version__ = "0.9.0"
