"""Separation of a scan's background from the head or brain."""

from collections.abc import Sequence

import numpy as np

from brainseg_tf.masks import fill_holes

# Voxels that differ from the background by less than this share of the brightest tissue are background: interpolation
# leaves small values around a stripped brain. On 30 BraTS scans this removes at most 0.9 % of a brain, 0.01 % in the
# median.
_NEGLIGIBLE = 0.01
# The border of a stripped scan is constant within this share of the brightest tissue. Noise in the air around a head is
# stronger.
_UNIFORM = 0.001
# Noise level of air, as a share of the brightest tissue. On 55 raw heads with brain masks, this threshold classifies at
# most 6 % of a mask as air; an Otsu threshold classifies up to 88 %.
_NOISE = 0.05
# Air, within the noise level, is at least 66 % of the border of 49 raw heads. In seven of them, cut inside the brain,
# at most 35 % of the border are near its median.
_LEAST_AIR_SHARE = 0.5
# The edges of the field of view are background in a stripped scan that was cropped to the brain, apart from this share.
_EDGES_IN_TISSUE = 0.1
# The sides of such a scan are background or tissue; a smaller share is as dark as the noise of air.
_LARGEST_NOISE_SHARE = 0.05


def head_mask(data: np.ndarray) -> np.ndarray:
    """Mask of the head, or of the brain if the scan is skull-stripped; holes are filled.

    The air around a head with skull is noisy. There, voxels belong to the head if they differ from the median of the
    volume's border by more than the noise level. Filling the holes keeps dark fluid inside the head. If the border is
    tissue, because the field of view is smaller than the brain, there is no air.

    Args:
        data: (X, Y, Z), the intensities.

    Returns:
        (X, Y, Z) bool.
    """
    background = find_background(data)
    if background is None:
        border, bright = _border(data)
        if _share(_sides(data), border, bright, _NOISE) < _LEAST_AIR_SHARE:
            return np.ones(data.shape, bool)
        background = border, _NOISE * bright
    value, tolerance = background
    return fill_holes(np.abs(data - value) > tolerance)


def foreground_mask(data: np.ndarray, background: tuple[float, float] | None) -> np.ndarray:
    """Mask of the voxels that are not background, (X, Y, Z) bool; those above an Otsu threshold if there is none.

    Args:
        data: (X, Y, Z), the intensities.
        background: of ``find_background``.
    """
    if background is None:
        from skimage.filters import threshold_otsu

        return data > threshold_otsu(data)
    value, tolerance = background
    return np.abs(data - value) > tolerance


def find_background(data: np.ndarray) -> tuple[float, float] | None:
    """The background's value, and the largest deviation from it that is still background.

    Background is what is uniform on more than half of the six sides of the volume, or on nearly all of its twelve
    edges: the first and the last slice of a slab show tissue.

    Returns:
        Both numbers; None if neither is uniform.
    """
    value, bright = _border(data)
    sides = _sides(data)
    if _share(sides, value, bright) > 0.5:
        return value, _NEGLIGIBLE * bright
    edges = (data[[0, -1]][:, [0, -1]], data[[0, -1]][:, :, [0, -1]], data[:, [0, -1]][:, :, [0, -1]])
    value = float(np.median(np.concatenate([one.ravel() for one in edges])))
    # Measuring the brightness of a volume takes a quarter of a second, and the edges of most heads are noise.
    if _share(edges, value, 0.0) < 1 - _EDGES_IN_TISSUE:
        return None
    bright = float(np.percentile(np.abs(data - value), 99))
    # Around a head, the noise of the air is on the sides, also if the edges were set to zero.
    noise = _share(sides, value, bright, _NOISE) - _share(sides, value, bright, _NEGLIGIBLE)
    return (value, _NEGLIGIBLE * bright) if noise < _LARGEST_NOISE_SHARE else None


def _share(parts: Sequence[np.ndarray], value: float, bright: float, tolerance: float = _UNIFORM) -> float:
    """The share of voxels that have a value, up to a share of the brightest tissue."""
    near = sum(np.count_nonzero(np.abs(part - value) <= tolerance * bright) for part in parts)
    return near / sum(part.size for part in parts)


def _sides(data: np.ndarray) -> tuple[np.ndarray, ...]:
    """The voxels of the six sides of the volume, in three arrays."""
    return data[[0, -1]], data[:, [0, -1]], data[:, :, [0, -1]]


def _border(data: np.ndarray) -> tuple[float, float]:
    """The median of the volume's border, and the 99th percentile of the absolute difference from it."""
    value = float(np.median(np.concatenate([side.ravel() for side in _sides(data)])))
    return value, float(np.percentile(np.abs(data - value), 99))
