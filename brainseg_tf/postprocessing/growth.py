"""Growth of lesions into the bright tissue that is connected to them. Not in the paper.

As in the lesion growth algorithm (Schmidt et al. 2012, NeuroImage 59:3774): a few certain voxels of a lesion are grown
into what appears hyperintense in FLAIR.
"""

import numpy as np
from scipy import ndimage

from brainseg_tf.postprocessing.residual import erode, smooth

# The modality in which lesions grow. In T2, fluid is as bright as a lesion.
GROWS_IN = "flair"
# The edge of the brain is not entered: cortex, remains of dura, and interpolation make it bright.
_EDGE_MM = 2.0
# Voxels along (slice, row, column) of the median filter, which removes noise.
_MEDIAN = (3, 3, 3)
# Standard deviations of a normal distribution between its median and its 75th percentile.
_QUARTILE = 0.6745


def grow(
    mask: np.ndarray,
    image: np.ndarray,
    brain: np.ndarray,
    spacing: tuple[float, float, float],
    deviations: float,
) -> np.ndarray:
    """Adds to each component of a mask the bright voxels that are connected to it (6 neighbours).

    A voxel is bright if, after a median filter, it exceeds the median of the brain outside the mask by more than
    ``deviations`` standard deviations. The standard deviation is that of a normal distribution with the same median and
    75th percentile, which lesions and fluid hardly change.

    Args:
        mask: (N, H, W) bool.
        image: (N, H, W), an image in which lesions are brighter than all healthy tissue, such as FLAIR.
        brain: (N, H, W) bool.
        spacing: millimetres along each axis.
        deviations: above the median; 0 returns the mask.

    Returns:
        (N, H, W) bool.
    """
    if not deviations or not mask.any():
        return mask
    filtered = smooth(image, brain, _MEDIAN)
    healthy = brain & ~mask
    median, quartile = np.percentile(filtered[healthy if healthy.any() else brain], [50, 75])
    limit = median + deviations * (quartile - median) / _QUARTILE
    bright = erode(brain, spacing, _EDGE_MM) & (filtered > limit)
    return ndimage.binary_propagation(mask, mask=mask | bright)
