"""From a volume to the model's slices and back: brain mask, common grid, normalisation, slice choice.

The common grid has the scan's axes, in the order left, posterior, superior, or those of a head that lies turned in
the scan (``head_alignment``), fixed pixel and slice spacing, and the brain in its middle. So a model sees a brain in
the same place, size and direction whatever the scanner's grid was, and one resampling brings a result back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainseg_tf.brain.head_alignment import head_axes
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import Volume
from brainseg_tf.options import Normalisation, SliceOptions

# Pixels between the brain and the edge of trimmed slices: what a network holds of the edge stays out of the brain.
_CLEAR = 8
# The median of brain tissue, from its 1st to its 99th percentile, lies at 0.2 to 0.7; that of a mask over air at 0.
_LEAST_MEDIAN = 0.02
# Robust normalisation puts the brain's median here; what lies 1 / 0.3 = 3.3 times as high is clipped.
MEDIAN_LEVEL = 0.3


@dataclass(frozen=True)
class Stack:
    """The slices of one patient on the common grid.

    Attributes:
        images: (N, H, W, C) float32 in [0, 1], one channel per modality, 0 outside the brain.
        brain: (N, H, W) bool.
        affine: (4, 4), indices (column, row, slice) to millimetres in RAS world space.
    """

    images: np.ndarray
    brain: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along (slice, row, column)."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_), float(row), float(column)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return math.prod(self.spacing) / 1000.0


def to_stack(volumes: Sequence[Volume], brain: np.ndarray, options: SliceOptions, trim: int = 0) -> Stack:
    """Brings the modalities of one patient, which share a grid, to the common grid and normalises them.

    Args:
        volumes: one per channel.
        brain: (X, Y, Z) bool, on the volumes' grid.
        options: of the model.
        trim: rows and columns that are far from the brain are left out, this many at a time, half of them at either
            edge; 0 leaves out none. See ``ModelCard.trim``.
    """
    affine, shape = _common_grid(brain, volumes[0].affine, options, trim)
    # Between voxels larger than the grid's a line blurs, and the networks take what is blurred for lesion; a cubic
    # spline does not. Finer voxels are blurred on purpose, against aliasing, and a line between them does no harm.
    order = 3 if (_ratio(affine, volumes[0].affine) < 0.95).any() else 1
    share = _resample(brain.astype(np.float32), volumes[0].affine, affine, shape, order)
    inside = share > 0.5
    if not inside.any():
        raise InputError(
            f"{volumes[0].path}: the brain is thinner than a voxel of the model's grid; check --brain-mask"
        )
    channels = []
    for volume in volumes:
        # Dividing by the share of brain keeps the background out of the voxels at the brain's edge.
        image = _resample(np.where(brain, volume.data, 0), volume.affine, affine, shape, order)
        image = np.where(inside, image / np.maximum(share, 0.5), 0)
        try:
            channels.append(normalise(image, inside, options.normalisation))
        except InputError as error:
            raise InputError(f"{volume.path}: {error}") from error
    return Stack(np.stack(channels, axis=-1), inside, affine)


def normalise(image: np.ndarray, brain: np.ndarray, method: Normalisation) -> np.ndarray:
    """Maps the brain's intensities of (N, H, W) to [0, 1], see ``SliceOptions.normalisation``; 0 outside the brain.

    Raises:
        InputError: for ``robust``, half of the brain is about as dark as its darkest hundredth.
    """
    if method == "slice":
        low = np.min(image, axis=(1, 2), where=brain, initial=np.inf, keepdims=True)
        high = np.max(image, axis=(1, 2), where=brain, initial=-np.inf, keepdims=True)
        low, high = np.where(brain.any(axis=(1, 2), keepdims=True), (low, high), 0)
    elif method == "volume":
        low, high = image[brain].min(), image[brain].max()
    else:
        low, median, bright = np.percentile(image[brain], [1, 50, 99])
        if median - low < _LEAST_MEDIAN * (bright - low):
            # Nearly every other voxel would be clipped to 1.
            raise InputError(
                "half of the brain mask is as dark as its darkest voxels; it covers background: give a tight "
                "--brain-mask"
            )
        high = low + (median - low) / MEDIAN_LEVEL
    scale = np.where(high > low, high - low, 1)
    return np.where(brain, np.clip((image - low) / scale, 0, 1), 0).astype(np.float32)


def select_slices(brain: np.ndarray, options: SliceOptions) -> np.ndarray:
    """Which slices are used (section 5.1); (N,) bool from (N, H, W)."""
    area = brain.mean(axis=(1, 2))
    occupied = np.flatnonzero(area)
    if occupied.size == 0:
        return np.zeros(len(brain), bool)
    middle = (occupied[0] + occupied[-1]) / 2
    reach = options.central * (occupied[-1] - occupied[0] + 1) / 2
    return (area >= options.min_brain) & (np.abs(np.arange(len(brain)) - middle) <= reach)


def onto_stack(mask: np.ndarray, volume: Volume, stack: Stack) -> np.ndarray:
    """How much of each voxel of ``stack`` a mask (X, Y, Z) on the volume's grid covers; (N, H, W) in [0, 1]."""
    return _resample(mask.astype(np.float32), volume.affine, stack.affine, stack.brain.shape)


def from_stack(values: np.ndarray, stack: Stack, volume: Volume) -> np.ndarray:
    """Brings a map (N, H, W) back to the volume's grid by linear interpolation; (X, Y, Z) float32, 0 outside."""
    image = nib.Nifti1Image(np.ascontiguousarray(values.T, dtype=np.float32), stack.affine)
    return _interpolate(image, volume.data.shape, volume.affine)


def sample(values: np.ndarray, stack: Stack, volume: Volume, where: np.ndarray) -> np.ndarray:
    """As ``from_stack``, at the voxels ``where`` (X, Y, Z) bool is True alone; (X, Y, Z) float32, 0 elsewhere."""
    sampled = np.zeros(where.shape, np.float32)
    points = nib.affines.apply_affine(np.linalg.inv(stack.affine) @ volume.affine, np.argwhere(where))
    sampled[where] = ndimage.map_coordinates(values, points[:, ::-1].T, order=1)
    return sampled


def _common_grid(
    brain: np.ndarray, affine: np.ndarray, options: SliceOptions, trim: int
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape (N, H, W) of the grid with the brain in its middle; it grows for a brain that does not fit.

    With ``trim`` it shrinks around a brain that leaves room.
    """
    axes = head_axes(brain, affine)
    # Along the axes of the grid; of a brain that lies turned in the scan, each voxel can be the outermost.
    surface = brain & ~ndimage.binary_erosion(brain)
    places = nib.affines.apply_affine(affine, np.argwhere(surface)) @ axes
    low, high = places.min(axis=0), places.max(axis=0)
    step = np.array([options.pixel, options.pixel, options.spacing])
    shape = np.ceil((high - low) / step).astype(int) + 1
    room = np.maximum(options.size - shape[:2] - 2 * _CLEAR, 0)
    shape[:2] = np.maximum(shape[:2], options.size - (room // trim * trim if trim else 0))
    grid = np.eye(4)
    grid[:3, :3] = axes * step
    grid[:3, 3] = axes @ (low + high) / 2 - grid[:3, :3] @ ((shape - 1) / 2)
    columns, rows, slices = (int(n) for n in shape)
    return grid, (slices, rows, columns)


def _resample(
    data: np.ndarray, affine: np.ndarray, grid: np.ndarray, shape: tuple[int, int, int], order: int = 1
) -> np.ndarray:
    """Brings (X, Y, Z) to the common grid, (N, H, W), blurring first along axes where the grid is coarser."""
    # The width that skimage.transform.resize uses against aliasing.
    width = np.maximum(0, (_ratio(grid, affine) - 1) / 2)
    blurred = ndimage.gaussian_filter(np.asarray(data, np.float32), width)
    return _interpolate(nib.Nifti1Image(blurred, affine), shape[::-1], grid, order).T


def _ratio(grid: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """How many times as large the voxels of one LPS grid are as those of another, along each axis."""
    return nib.affines.voxel_sizes(grid) / nib.affines.voxel_sizes(affine)


def _interpolate(image: nib.Nifti1Image, shape: tuple[int, ...], affine: np.ndarray, order: int = 1) -> np.ndarray:
    from nibabel.processing import resample_from_to

    return resample_from_to(image, (shape, affine), order=order).get_fdata(dtype=np.float32)
