"""Binary morphology (section 5.3, step 4), and the components of a mask."""

import math
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np
from scipy import ndimage
from skimage.measure import label, regionprops
from skimage.morphology import remove_small_objects

Side = Literal["left", "right", "midline"]

# A centroid within this distance of the brain's centre, in millimetres, is on neither side.
_MIDLINE_MM = 5.0


@dataclass(frozen=True)
class Lesion:
    """One connected component.

    Attributes:
        ml: volume in millilitres.
        centroid_mm: in RAS world space; ``side``: of the patient, relative to the centre of the brain.
        mean_residual: input minus reconstruction, on the model's intensity scale, where the brain's median is 0.3.
    """

    ml: float
    centroid_mm: tuple[float, float, float]
    side: Side
    mean_residual: float


def close(mask: np.ndarray, spacing: tuple[float, float, float], radius: float) -> np.ndarray:
    """Binary closing with a ball of ``radius`` millimetres, then filling of enclosed holes; mask (N, H, W) bool."""
    if not mask.any():
        return mask
    reach = [math.floor(radius / step) for step in spacing]
    grid = np.meshgrid(*(np.arange(-r, r + 1) * step for r, step in zip(reach, spacing, strict=True)), indexing="ij")
    ball = sum(axis**2 for axis in grid) <= radius**2
    margin = [(r + 1, r + 1) for r in reach]
    closed = ndimage.binary_closing(np.pad(mask, margin), ball)
    inner = tuple(slice(before, -after) for before, after in margin)
    return ndimage.binary_fill_holes(closed)[inner]


def remove_small(mask: np.ndarray, voxel_ml: float, smallest_ml: float) -> np.ndarray:
    """Removes connected components (26 neighbours) below ``smallest_ml`` millilitres."""
    voxels = math.ceil(smallest_ml / voxel_ml - 1e-9)
    return remove_small_objects(mask, max_size=voxels - 1, connectivity=3) if voxels > 1 else mask


def remove_low(mask: np.ndarray, values: np.ndarray, least: float, neighbour_share: float = 1.0) -> np.ndarray:
    """Removes connected components (26 neighbours) in which the mean of ``values`` is below a limit.

    Args:
        mask: (N, H, W) bool; ``values``: (N, H, W).
        least: the limit.
        neighbour_share: the share of the limit that is sufficient if another component reaches the limit.
    """
    components, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count == 0:
        return mask
    means = ndimage.mean(values, components, np.arange(1, count + 1))
    return np.array([False, *(means >= (least * neighbour_share if means.max() >= least else least))])[components]


def numbered_components(mask: np.ndarray) -> np.ndarray:
    """Numbers the connected components (26 neighbours) of a mask by size.

    Args:
        mask: (X, Y, Z) bool.

    Returns:
        (X, Y, Z), 1 in the largest component, 2 in the next one and so on, 0 outside; uint8 for up to 255 components.
    """
    components = label(mask, connectivity=3)
    sizes = np.bincount(components.ravel())[1:]
    numbers = np.zeros(len(sizes) + 1, np.min_scalar_type(len(sizes)))
    numbers[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    return numbers[components]


def lesions(mask: np.ndarray, residual: np.ndarray, affine: np.ndarray, middle_mm: float) -> list[Lesion]:
    """The connected components of a mask, largest first: in the order of ``numbered_components``.

    Args:
        mask: (X, Y, Z) bool.
        residual: (X, Y, Z); only the values in the mask are used.
        affine: maps their indices to millimetres in RAS world space.
        middle_mm: the first world coordinate of the brain's centre; left is smaller.
    """
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000.0
    found = []
    for region in regionprops(numbered_components(mask), intensity_image=residual):
        x, y, z = (round(float(mm), 2) for mm in nib.affines.apply_affine(affine, region.centroid))
        side: Side = "midline" if abs(x - middle_mm) < _MIDLINE_MM else "left" if x < middle_mm else "right"
        mean = round(float(region.intensity_mean), 4)
        found.append(Lesion(float(region.area * voxel_ml), (x, y, z), side, mean))
    return found
