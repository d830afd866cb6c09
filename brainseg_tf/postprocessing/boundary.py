"""Where a mask ends, and how it stands out from what surrounds it. Not in the paper.

Network, median filter and closing tell where a lesion is and blur where it ends. The image is sharp there: near the
edge it decides, voxel by voxel, by a brightness between the lesion's and the brain's.
"""

import numpy as np
from scipy import ndimage

# Of the way from the brain's brightness to a lesion's: lesions fade into the tissue around them, so less than half.
_SHARE = 0.4
# What surrounds a lesion: this far from it, in millimetres.
_NEAR, _FAR = 3.0, 10.0
# No tissue is darker; it keeps a division from failing.
_DARK = 1e-3


def refine_boundary(
    mask: np.ndarray, image: np.ndarray, brain: np.ndarray, spacing: tuple[float, float, float], reach: float
) -> np.ndarray:
    """Decides anew what lies near a mask's edge.

    Each connected component (26 neighbours) has its own brightness, its median; the brain's is that of what is outside
    the mask. A voxel within ``reach`` of the edge belongs to the component nearest to it if most of its 26 neighbours
    and itself are brighter than a value between the two. A component that is no brighter than the brain keeps its edge.

    Args:
        mask, brain: (N, H, W) bool.
        image: (N, H, W), what the lesion is bright in.
        spacing: millimetres along each axis.
        reach: millimetres; 0 gives back the mask.

    Returns:
        (N, H, W) bool, without holes, within the brain.
    """
    healthy = brain & ~mask
    if reach <= 0 or not mask.any() or not healthy.any():
        return mask
    level = np.median(image[healthy])
    box = tuple(
        slice(max(0, place.start - margin), place.stop + margin)
        for place, margin in zip(
            ndimage.find_objects(mask.astype(np.uint8))[0],
            (int(np.ceil(reach / step)) + 1 for step in spacing),
            strict=True,
        )
    )
    near, bright = mask[box], image[box]
    components, count = ndimage.label(near, np.ones((3, 3, 3)))
    medians = np.array([0.0, *ndimage.median(bright, components, np.arange(1, count + 1))])
    inwards = ndimage.distance_transform_edt(near, spacing)
    outwards, nearest = ndimage.distance_transform_edt(~near, spacing, return_indices=True)
    lesion = medians[components[tuple(nearest)]]
    unsettled = (inwards + outwards <= reach) & (lesion > level)
    inside = np.where(unsettled, bright > level + _SHARE * (lesion - level), near)
    settled = mask.copy()
    settled[box] = np.where(unsettled, ndimage.median_filter(inside, 3), near)
    return ndimage.binary_fill_holes(settled & brain) & brain


def local_contrast(
    mask: np.ndarray, image: np.ndarray, brain: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """How much brighter a mask's voxels are than what surrounds them, as a share of that.

    A connected component (26 neighbours) is held against the median of the brain 3 to 10 mm away from it and outside
    the mask, or of all the brain outside the mask if there is none.

    Args:
        mask, brain: (N, H, W) bool.
        image: (N, H, W).
        spacing: millimetres along each axis.

    Returns:
        (N, H, W); 0 outside the mask.
    """
    components, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    healthy = brain & ~mask
    usual = np.median(image[healthy]) if healthy.any() else np.inf
    brighter = np.zeros(image.shape)
    margin = [int(np.ceil(_FAR / step)) for step in spacing]
    for number, place in enumerate(ndimage.find_objects(components), start=1):
        box = tuple(slice(max(0, one.start - m), one.stop + m) for one, m in zip(place, margin, strict=True))
        here = components[box] == number
        away = ndimage.distance_transform_edt(~here, spacing)
        around = image[box][healthy[box] & (away >= _NEAR) & (away <= _FAR)]
        level = max(float(np.median(around)) if around.size else usual, _DARK)
        brighter[box][here] = image[box][here] / level - 1
    return brighter
