"""Quality measures of a scan, for the table ``volumes.tsv``."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brainseg_tf.brain.template import LARGEST_ERROR_MM, TemplateAlignment, coverage
from brainseg_tf.images.volume import Volume
from brainseg_tf.masks import bounding_box

# Second difference along an axis. The product of two along both axes of a slice responds to noise and to hardly any
# structure; its standard deviation is that of the noise times the last number (Immerkaer 1996).
_SECOND_DIFFERENCE = (1.0, -2.0, 1.0)
_NOISE_GAIN = 6.0
# Ratio of the median magnitude to the standard deviation of a normal distribution.
_MEDIAN_TO_STDDEV = 0.6745


@dataclass(frozen=True)
class Quality:
    """What the image quality allows.

    Attributes:
        snr: median intensity of the brain, divided by the standard deviation of the noise; None if there is no noise
            or the median is not positive. Interpolation and filters lower the noise, so it is high in resampled scans.
        slice_thickness_mm: the largest voxel size in millimetres.
        coverage: share of the brain that is in the field of view, 0 to 1; None if the surfaces do not agree.
    """

    snr: float | None
    slice_thickness_mm: float
    coverage: float | None


def quality_of(scan: Volume, brain: np.ndarray, alignment: TemplateAlignment) -> Quality:
    """Measures a scan.

    Args:
        scan: the scan.
        brain: (X, Y, Z) bool.
        alignment: of ``template.to_template``.
    """
    noise, median = noise_stddev(scan, brain), float(np.median(scan.data[brain]))
    snr = round(median / noise, 2) if noise > 0 and median > 0 else None
    inside = None
    if alignment.error_mm is not None and alignment.error_mm <= LARGEST_ERROR_MM:
        inside = round(coverage(scan.data.shape, scan.affine, alignment.matrix), 3)
    return Quality(snr, round(max(scan.spacing), 3), inside)


def noise_stddev(scan: Volume, brain: np.ndarray) -> float:
    """The standard deviation of the noise in the brain, by Immerkaer's operator within slices and a robust mean.

    J. Immerkaer, Fast noise variance estimation, Computer Vision and Image Understanding 64 (1996).

    Args:
        scan: the scan.
        brain: (X, Y, Z) bool.
    """
    across = int(np.argmax(scan.spacing))
    rows, columns = (axis for axis in range(3) if axis != across)
    box = bounding_box(brain)
    data, inside = scan.data[box].astype(np.float32), brain[box]
    response = ndimage.correlate1d(ndimage.correlate1d(data, _SECOND_DIFFERENCE, rows), _SECOND_DIFFERENCE, columns)
    neighbours = np.ones([1 if axis == across else 3 for axis in range(3)])
    inner = ndimage.binary_erosion(inside, neighbours)
    return float(np.median(np.abs(response[inner if inner.any() else inside]))) / (_MEDIAN_TO_STDDEV * _NOISE_GAIN)
