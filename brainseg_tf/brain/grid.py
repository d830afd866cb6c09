"""The grid of the brain network: the whole field of view on voxels of about 2 mm, with intensities from 0 to 1."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainseg_tf.images.background import find_background, head_mask
from brainseg_tf.masks import bounding_box
from brainseg_tf.options import HeadGridOptions

# The brightest and the darkest voxels, in percent, are clipped.
_CLIPPED = 0.5


@dataclass(frozen=True)
class HeadGrid:
    """A scan on the grid of the brain network.

    Attributes:
        data: (x, y, z) float32 in [0, 1].
        start: (3,), the position of the first voxel in voxels of the scan.
        step: (3,), the size of a voxel in voxels of the scan.
    """

    data: np.ndarray
    start: np.ndarray
    step: np.ndarray


def to_head_grid(data: np.ndarray, affine: np.ndarray, options: HeadGridOptions) -> HeadGrid:
    """Resamples a scan to the grid of the brain network, along its own axes.

    Args:
        data: (X, Y, Z), the scan in LPS.
        affine: (4, 4), voxel indices to millimetres.
        options: the size of the voxels.
    """
    spacing = nib.affines.voxel_sizes(affine)
    extent = spacing * data.shape
    # Voxel sizes in a header can be wrong. The largest number of voxels limits time and memory.
    step = np.maximum(options.voxel_mm, extent / options.most) / spacing
    shape = np.maximum(1, np.rint(data.shape / step)).astype(int)
    step = data.shape / shape
    start = (step - 1) / 2
    return HeadGrid(normalise(_resample(data, start, step, shape)), start, step)


def from_head_grid(values: np.ndarray, grid: HeadGrid, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolates values on the grid of the brain network linearly at the voxels of the scan.

    Args:
        values: (x, y, z).
        grid: of the scan.
        shape: of the scan, (X, Y, Z).

    Returns:
        (X, Y, Z) float32.
    """
    whole = np.zeros(shape, np.float32)
    # Linear interpolation extends a value by less than one voxel of the grid, but beyond its ends without limit.
    box = bounding_box(values != 0)
    first = [-np.inf if one.start == 0 else one.start - 1 for one in box]
    last = [np.inf if one.stop == size else one.stop for one, size in zip(box, values.shape, strict=True)]
    start = np.clip(np.floor(grid.start + grid.step * first), 0, shape).astype(int)
    stop = np.clip(np.ceil(grid.start + grid.step * last), start, shape).astype(int)
    part = whole[tuple(map(slice, start, stop))]
    offset = (start - grid.start) / grid.step
    ndimage.affine_transform(
        values.astype(np.float32), 1 / grid.step, offset, part.shape, output=part, order=1, mode="nearest"
    )
    return whole


def normalise(data: np.ndarray) -> np.ndarray:
    """Scales intensities so that air is 0 and nearly the brightest tissue is 1, float32."""
    inside, background = head_mask(data), find_background(data)
    head = data[inside]
    if not head.size:
        return np.zeros(data.shape, np.float32)
    low = min(float(np.percentile(data, _CLIPPED)), float(np.percentile(head, _CLIPPED)))
    high = float(np.percentile(head, 100 - _CLIPPED))
    scaled = np.clip((data - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    # After a z-score the background of a stripped scan is as bright as the average tissue.
    return np.where(inside, scaled, 0) if background and background[0] - background[1] > low else scaled


def _resample(data: np.ndarray, start: np.ndarray, step: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Means over the voxels of the scan that a voxel of the grid covers, then linear interpolation."""
    factor = np.maximum(1, np.floor(step + 1e-6)).astype(int)
    if (factor > 1).any():
        data = block_means(data, factor)
        start, step = (start - (factor - 1) / 2) / factor, step / factor
    return ndimage.affine_transform(data.astype(np.float32), step, start, tuple(shape), order=1, mode="nearest")


def block_means(data: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Means over blocks of voxels, float32.

    Args:
        data: (X, Y, Z).
        factor: (3,) int, edges of the blocks. The last layers are repeated to fill the last blocks.
    """
    padded = np.pad(data, [(0, -size % by) for size, by in zip(data.shape, factor, strict=True)], mode="edge")
    (x, i), (y, j), (z, k) = ((size // by, by) for size, by in zip(padded.shape, factor, strict=True))
    return padded.reshape(x, i, y, j, z, k).mean(axis=(1, 3, 5), dtype=np.float32)
