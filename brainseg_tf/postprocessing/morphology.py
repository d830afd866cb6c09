"""Binary morphology (section 5.3, step 4)."""

import math

import numpy as np
from scipy import ndimage
from skimage.morphology import remove_small_objects

from brainseg_tf.masks import bounding_box, fill_holes, within_box


def close(mask: np.ndarray, spacing: tuple[float, float, float], radius: float) -> np.ndarray:
    """Binary closing with a ball of ``radius`` millimetres, then filling of enclosed holes; mask (N, H, W) bool."""
    reach = [math.floor(radius / step) for step in spacing]
    grid = np.meshgrid(*(np.arange(-r, r + 1) * step for r, step in zip(reach, spacing, strict=True)), indexing="ij")
    ball = sum(axis**2 for axis in grid) <= radius**2
    inner = tuple(slice(r + 1, -r - 1) for r in reach)

    def closing(part: np.ndarray) -> np.ndarray:
        closed = ndimage.binary_closing(np.pad(part, [(r + 1, r + 1) for r in reach]), ball)
        return fill_holes(closed[inner])

    return within_box(mask, closing)


def remove_small(mask: np.ndarray, voxel_ml: float, smallest_ml: float) -> np.ndarray:
    """Removes connected components (26 neighbours) below ``smallest_ml`` millilitres."""
    voxels = math.ceil(smallest_ml / voxel_ml - 1e-9)
    if voxels <= 1:
        return mask
    return within_box(mask, lambda part: remove_small_objects(part, max_size=voxels - 1, connectivity=3))


def remove_low(mask: np.ndarray, values: np.ndarray, least: float) -> np.ndarray:
    """Removes connected components (26 neighbours) in which the mean of ``values`` is below a limit.

    Args:
        mask: (N, H, W) bool; ``values``: (N, H, W).
        least: the limit.
    """
    box = bounding_box(mask)

    def remove(part: np.ndarray) -> np.ndarray:
        components, count = ndimage.label(part, np.ones((3, 3, 3)))
        means = ndimage.mean(values[box], components, np.arange(1, count + 1))
        return np.array([False, *(means >= least)])[components]

    return within_box(mask, remove)
