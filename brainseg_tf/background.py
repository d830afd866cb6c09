"""Telling a scan's background from the head in it."""

import numpy as np

# What differs from the background by less than this share of the brightest tissue is background too: interpolation
# leaves small values around a stripped brain. On 30 BraTS scans the share costs 0.9 % of a brain at most, 0.01 % in
# the median.
_NEGLIGIBLE = 0.01
# The border of a stripped scan is uniform within this share; the noise of air around a head is stronger.
_UNIFORM = 0.001


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
    border = np.concatenate([data[[0, -1]].ravel(), data[:, [0, -1]].ravel(), data[:, :, [0, -1]].ravel()])
    value = float(np.median(border))
    bright = float(np.percentile(np.abs(data - value), 99))
    uniform = np.count_nonzero(np.abs(border - value) <= _UNIFORM * bright) > 0.5 * border.size
    return (value, _NEGLIGIBLE * bright) if uniform else None
