"""Telling a scan's background from the head in it."""

import numpy as np
from scipy import ndimage

# What differs from the background by less than this share of the brightest tissue is background too: interpolation
# leaves small values around a stripped brain. On 30 BraTS scans the share costs 0.9 % of a brain at most, 0.01 % in
# the median.
_NEGLIGIBLE = 0.01
# The border of a stripped scan is uniform within this share; the noise of air around a head is stronger.
_UNIFORM = 0.001
# The noise of air, as a share of the brightest tissue: of 55 raw heads with their brain masks, this share takes at most
# 6 % of a mask for air, an Otsu threshold 88 %.
_NOISE = 0.05


def head(data: np.ndarray) -> np.ndarray:
    """The head with its skull, or the brain of a stripped scan, (X, Y, Z) bool: what is no air, holes filled.

    Around a head that was not stripped lies noise. What is brighter than most of the volume's border by more than that
    counts as head, and dark fluid in the head is no air.
    """
    background = find_background(data)
    if background is None:
        border, bright = _border(data)
        background = border, _NOISE * bright
    value, tolerance = background
    return ndimage.binary_fill_holes(np.abs(data - value) > tolerance)


def foreground(data: np.ndarray) -> np.ndarray:
    """What is not background, (X, Y, Z) bool."""
    background = find_background(data)
    if background is None:
        from skimage.filters import threshold_otsu

        return data > threshold_otsu(data)
    value, tolerance = background
    return np.abs(data - value) > tolerance


def find_background(data: np.ndarray) -> tuple[float, float] | None:
    """The background's value and what is no more than noise on it; None if the volume's border is not uniform."""
    value, bright = _border(data)
    sides = (data[[0, -1]], data[:, [0, -1]], data[:, :, [0, -1]])
    near = sum(np.count_nonzero(np.abs(side - value) <= _UNIFORM * bright) for side in sides)
    return (value, _NEGLIGIBLE * bright) if near > 0.5 * sum(side.size for side in sides) else None


def _border(data: np.ndarray) -> tuple[float, float]:
    """The median of the volume's border, and how far the brightest hundredth of the volume is from it."""
    border = np.concatenate([data[[0, -1]].ravel(), data[:, [0, -1]].ravel(), data[:, :, [0, -1]].ravel()])
    value = float(np.median(border))
    return value, float(np.percentile(np.abs(data - value), 99))
