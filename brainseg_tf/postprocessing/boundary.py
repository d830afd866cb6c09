"""The boundary of a mask. Not in the paper.

Network, median filter and closing locate a lesion and blur its boundary. The image is sharp there: near the boundary,
each voxel is classified by an intensity threshold between the lesion and the brain.
"""

import math

import numpy as np
from scipy import ndimage

from brainseg_tf.masks import bounding_box, fill_holes
from brainseg_tf.postprocessing.residual import median_exceeds

# Position of the threshold between the brain's intensity (0) and the lesion's (1). Lesions fade into the tissue around
# them, so it is less than half.
_SHARE = 0.4


def refine_boundary(
    mask: np.ndarray, image: np.ndarray, brain: np.ndarray, spacing: tuple[float, float, float], reach_mm: float
) -> np.ndarray:
    """Classifies the voxels near a mask's boundary again.

    The intensity of a connected component (26 neighbours) is its median, that of the brain the median outside the mask.
    A voxel within ``reach_mm`` of the boundary belongs to the nearest component if the majority of the 27 voxels around
    it are brighter than a threshold between the two. A component that is not brighter than the brain is not changed.

    Args:
        mask, brain: (N, H, W) bool.
        image: (N, H, W), in which the lesion is bright.
        spacing: millimetres along each axis.
        reach_mm: 0 returns the mask as it is.

    Returns:
        (N, H, W) bool, without holes, within the brain.
    """
    healthy = brain & ~mask
    if reach_mm <= 0 or not mask.any() or not healthy.any():
        return mask
    level = np.median(image[healthy])
    box = bounding_box(mask, [math.ceil(reach_mm / step) + 1 for step in spacing])
    near, bright = mask[box], image[box]
    components, count = ndimage.label(near, np.ones((3, 3, 3)))
    medians = np.array([0.0, *ndimage.median(bright, components, np.arange(1, count + 1))])
    inwards = ndimage.distance_transform_edt(near, spacing)
    outwards, nearest = ndimage.distance_transform_edt(~near, spacing, return_indices=True)
    lesion = medians[components[tuple(nearest)]]
    uncertain = (inwards + outwards <= reach_mm) & (lesion > level)
    inside = np.where(uncertain, bright > level + _SHARE * (lesion - level), near)
    refined = mask.copy()
    refined[box] = np.where(uncertain, median_exceeds(inside, 0.5, np.ones_like(inside), (3, 3, 3)), near)
    return fill_holes(refined & brain) & brain
