"""How conspicuous a lesion is: how sure the network is, and its contrast to the tissue around it. Not in the paper."""

import numpy as np
from scipy import ndimage

# The surroundings of a lesion: from and to this distance, in millimetres, and the fewest voxels that are enough.
_NEAR_MM, _FAR_MM, _FEWEST = 3.0, 10.0, 50
# No tissue is darker; avoids a division by 0.
_DARKEST = 1e-3


def conspicuity(probability: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Conspicuity of each voxel: p (1 + c / 2).

    Args:
        probability: p, of a lesion.
        contrast: c, relative contrast to the surroundings, see ``local_contrast``.

    Returns:
        An array of the same shape.
    """
    return probability * (1 + contrast / 2)


def local_contrast(
    mask: np.ndarray, image: np.ndarray, healthy: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """Relative contrast of a mask's voxels to the tissue around them: intensity / surroundings - 1.

    The surroundings of a connected component (26 neighbours) are the healthy voxels 3 to 10 mm away from it. Their
    median is used, or that of all healthy voxels if there are fewer than 50.

    Args:
        mask: (N, H, W) bool.
        image: (N, H, W).
        healthy: (N, H, W) bool, brain outside the mask. Leave out what else is suspicious: the tissue around a partly
            outlined tumour is tumour too.
        spacing: millimetres along each axis.

    Returns:
        (N, H, W); 0 outside the mask.
    """
    components, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    usual = float(np.median(image[healthy])) if healthy.any() else np.inf
    contrast = np.zeros(image.shape)
    margin = [int(np.ceil(_FAR_MM / step)) for step in spacing]
    for number, place in enumerate(ndimage.find_objects(components), start=1):
        box = tuple(slice(max(0, one.start - m), one.stop + m) for one, m in zip(place, margin, strict=True))
        here = components[box] == number
        distance = ndimage.distance_transform_edt(~here, spacing)
        around = image[box][healthy[box] & (distance >= _NEAR_MM) & (distance <= _FAR_MM)]
        level = max(float(np.median(around)) if around.size >= _FEWEST else usual, _DARKEST)
        contrast[box][here] = image[box][here] / level - 1
    return contrast
