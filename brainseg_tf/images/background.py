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
# The edges of the field of view are air, also in slabs: in 49 raw heads and 441 slabs of them, at least 83 % of the
# edges are within the noise level of their median, which is above the darkest voxels by at most 3 % of the brightest
# tissue. In the same heads, cut inside the brain, it is at most 50 % of the edges, and at least 37 %.
_LEAST_AIR_SHARE, _LARGEST_BRIGHTNESS_OF_AIR = 0.5, 0.2
# The edges of the field of view are background in a stripped scan that was cropped to the brain, apart from this share.
_EDGES_IN_TISSUE = 0.1
# The sides of such a scan are background or tissue; a smaller share is as dark as the noise of air.
_LARGEST_NOISE_SHARE = 0.05


def head_mask(data: np.ndarray) -> np.ndarray:
    """Mask of the head, or of the brain if the scan is skull-stripped; holes are filled.

    The air around a head with skull is noisy. There, voxels belong to the head if they differ from the median of the
    volume's border by more than the noise level. Filling the holes keeps dark fluid inside the head. If the edges of
    the volume are tissue, because the field of view is smaller than the brain, there is no air.

    Args:
        data: (X, Y, Z), the intensities.

    Returns:
        (X, Y, Z) bool.
    """
    background = find_background(data)
    if background is None:
        border, bright = _border(data)
        if not _has_air(data, bright):
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
    edges = _edges(data)
    value = _median(edges)
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


def _edges(data: np.ndarray) -> tuple[np.ndarray, ...]:
    """The voxels of the twelve edges of the volume, in three arrays."""
    return data[[0, -1]][:, [0, -1]], data[[0, -1]][:, :, [0, -1]], data[:, [0, -1]][:, :, [0, -1]]


def _has_air(data: np.ndarray, bright: float) -> bool:
    """Whether the edges of the volume are uniform, up to noise, or dark, compared with the brightest tissue."""
    edges = _edges(data)
    value = _median(edges)
    if _share(edges, value, bright, _NOISE) >= _LEAST_AIR_SHARE:
        return True
    return value - float(np.percentile(data, 1)) <= _LARGEST_BRIGHTNESS_OF_AIR * bright


def _median(parts: Sequence[np.ndarray]) -> float:
    return float(np.median(np.concatenate([part.ravel() for part in parts])))


def _border(data: np.ndarray) -> tuple[float, float]:
    """The median of the volume's border, and the 99th percentile of the absolute difference from it."""
    value = _median(_sides(data))
    return value, float(np.percentile(np.abs(data - value), 99))
