"""Resampling of volumes to the model's slices and back, normalisation, and selection of slices.

All scans are resampled to a common grid with fixed pixel and slice spacing. The brain is in its centre. Its axes point
left, posterior and superior along the axes of the scan, or along those of the head if the head is rotated in the scan
(``brainseg_tf.brain.head_alignment``). Position, size and direction of the brain on the slices therefore do not depend
on the scanner's grid. A result is resampled once to return to the scan's grid.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainseg_tf.brain.head_alignment import head_axes
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import Volume
from brainseg_tf.masks import affine_of_box, bounding_box, in_field_of_view, within_box
from brainseg_tf.options import Normalisation, SliceOptions

# Pixels between the brain and the edge of trimmed slices, so that border effects of the network do not reach the brain.
_EDGE_MARGIN = 8
# Shares of the brain that a further modality must cover, and that one without a warning covers.
_LEAST_COVERAGE, _USUAL_COVERAGE = 0.5, 0.95
# On a scale from the 1st percentile (0) to the 99th percentile (1), the median of brain tissue is 0.2 to 0.7, and that
# of a mask that is mostly air is 0. Masks with a lower median than this are refused.
_SMALLEST_MEDIAN = 0.02
# Robust normalisation maps the brain's median to this value. Values above 1 / 0.3 = 3.3 times the median are clipped.
MEDIAN_LEVEL = 0.3
# Voxels over which a cubic spline falls to 0.268 ** 16, below the precision of float32.
_SPLINE_REACH = 16
# By which share of its size a stack is made larger when a map is resampled to the scan, far below float32's precision.
_INWARDS = 1e-11
# Voxels that are this much smaller than a whole number of steps, by rounding errors of their affine, have that number.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Stack:
    """The slices of one patient on the common grid.

    Attributes:
        images: (N, H, W, C) float32 in [0, 1], one channel per modality, 0 outside the brain.
        brain: (N, H, W) bool.
        affine: (4, 4), from indices (column, row, slice) to millimetres in RAS world space.
    """

    images: np.ndarray
    brain: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in millimetres along (slice, row, column)."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_), float(row), float(column)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return math.prod(self.spacing) / 1000.0


def to_stack(
    volumes: Sequence[Volume],
    brain: np.ndarray,
    options: SliceOptions,
    trim: int = 0,
    rotation: np.ndarray | None = None,
) -> Stack:
    """Resamples the modalities of one patient to the common grid and normalises them.

    Args:
        volumes: one volume per channel, all on the same grid.
        brain: (X, Y, Z) bool, on the volumes' grid.
        options: the slice options of the model.
        trim: rows and columns far from the brain are removed in multiples of this number, half of them at each edge;
            0 removes none. See ``ModelCard.trim``.
        rotation: (3, 3), from the axes of the head to those of the slices; None if they are the same.

    Raises:
        InputError: no voxel of the grid is mostly brain, or the brain mask is mostly background.
    """
    axes = head_axes(brain, volumes[0].affine)
    if rotation is not None:
        axes = axes @ rotation
    affine, shape = _common_grid(brain, volumes[0].affine, axes, options, trim)
    # If the scan's voxels are larger than those of the grid, linear interpolation blurs the image, and the networks
    # detect blurred tissue as lesion. Cubic splines do not blur. If the scan's voxels are smaller, the image is blurred
    # against aliasing first, and linear interpolation is sufficient.
    order = 3 if (_ratio(affine, volumes[0].affine) < 0.95).any() else 1
    with ThreadPoolExecutor() as pool:
        share, *images = pool.map(
            lambda data, origin: _resample(data, origin, affine, shape, order),
            [brain, *(np.where(brain, volume.data, 0) for volume in volumes)],
            [volume.affine for volume in (volumes[0], *volumes)],
        )
    inside = share > 0.5
    if not inside.any():
        raise InputError(
            f"{volumes[0].path}: the brain is thinner than a voxel of the model's grid; check --brain-mask"
        )
    channels = []
    for volume, image in zip(volumes, images, strict=True):
        # The division by the share of brain removes the contribution of the background at the brain's surface.
        image = np.where(inside, image / np.maximum(share, 0.5), 0)
        try:
            channels.append(normalise(image, inside, options.normalisation))
        except InputError as error:
            raise InputError(f"{volume.path}: {error}") from error
    return Stack(np.stack(channels, axis=-1), inside, affine)


def check_coverage(volumes: Sequence[Volume], brain: np.ndarray) -> list[str]:
    """Checks that the scans of further modalities cover the brain; outside their field of view they are 0.

    Args:
        volumes: of one patient, on one grid.
        brain: (X, Y, Z) bool, not empty.

    Returns:
        A warning for each scan that is 0 in more than 5 % of the brain.

    Raises:
        InputError: a scan is 0 in more than half of the brain.
    """
    warnings = []
    for volume in volumes[1:]:
        covered = float((volume.data[brain] != 0).mean())
        problem = f"{volume.path}: covers {covered:.0%} of the brain; outside it is 0"
        if covered < _LEAST_COVERAGE:
            raise InputError(f"{problem}, so the scan cannot be used; give one that covers the brain")
        if covered < _USUAL_COVERAGE:
            warnings.append(f"{problem}, and the mask may be wrong there")
    return warnings


def normalise(image: np.ndarray, brain: np.ndarray, method: Normalisation) -> np.ndarray:
    """Scales the intensities of the brain to [0, 1].

    Args:
        image: (N, H, W), one channel.
        brain: (N, H, W) bool.
        method: see ``SliceOptions.normalisation``.

    Returns:
        (N, H, W) float32, 0 outside the brain.

    Raises:
        InputError: the method is "robust", and the median of the brain is close to its 1st percentile.
    """
    if method == "slice":
        low = np.min(image, axis=(1, 2), where=brain, initial=np.inf, keepdims=True)
        high = np.max(image, axis=(1, 2), where=brain, initial=-np.inf, keepdims=True)
        low, high = np.where(brain.any(axis=(1, 2), keepdims=True), (low, high), 0)
    elif method == "volume":
        low, high = image[brain].min(), image[brain].max()
    else:
        low, median, bright = np.percentile(image[brain], [1, 50, 99])
        if median - low < _SMALLEST_MEDIAN * (bright - low):
            # With such a mask, nearly half of the voxels would be clipped to 1.
            raise InputError(
                "half of the brain mask is as dark as its darkest voxels, so the mask covers background; give a tight "
                "mask with --brain-mask"
            )
        high = low + (median - low) / MEDIAN_LEVEL
    scale = np.where(high > low, high - low, 1)
    return np.where(brain, np.clip((image - low) / scale, 0, 1), 0).astype(np.float32)


def select_slices(brain: np.ndarray, options: SliceOptions, pixels: int | None = None) -> np.ndarray:
    """Selects slices with enough brain near the centre of the brain (section 5.1).

    Args:
        brain: (N, H, W) bool; can be trimmed.
        options: the smallest brain share and the central range.
        pixels: of a whole slice; by default those of ``options``.

    Returns:
        (N,) bool.
    """
    area = np.count_nonzero(brain, axis=(1, 2)) / (pixels or options.size**2)
    occupied = np.flatnonzero(area)
    if occupied.size == 0:
        return np.zeros(len(brain), bool)
    middle = (occupied[0] + occupied[-1]) / 2
    reach = options.central * (occupied[-1] - occupied[0] + 1) / 2
    return (area >= options.min_brain) & (np.abs(np.arange(len(brain)) - middle) <= reach)


def onto_stack(mask: np.ndarray, volume: Volume, stack: Stack) -> np.ndarray:
    """Resamples a mask to a stack.

    Args:
        mask: (X, Y, Z) bool, on the grid of ``volume``.
        volume: the scan.
        stack: the slices.

    Returns:
        (N, H, W) float32, the share of each voxel that the mask covers.
    """
    return _resample(mask.astype(np.float32), volume.affine, stack.affine, stack.brain.shape)


def from_stack(values: np.ndarray, stack: Stack, volume: Volume) -> np.ndarray:
    """Resamples a map from a stack to the grid of a scan by linear interpolation.

    Args:
        values: (N, H, W), the map.
        stack: its slices.
        volume: the scan.

    Returns:
        (X, Y, Z) float32, 0 outside the stack.
    """
    whole = np.zeros(volume.data.shape, np.float32)
    to_scan = np.linalg.inv(volume.affine) @ stack.affine
    # Linear interpolation extends a value by less than one voxel.
    ends = [(one.start - 1, one.stop) for one in bounding_box(values.T != 0)]
    corners = nib.affines.apply_affine(to_scan, list(product(*ends)))
    start = np.clip(np.floor(corners.min(axis=0)), 0, whole.shape).astype(int)
    stop = np.clip(np.ceil(corners.max(axis=0)) + 1, start, whole.shape).astype(int)
    box = tuple(map(slice, start, stop))
    part = whole[box]
    if part.size:
        to_stack = np.linalg.inv(stack.affine) @ volume.affine
        matrix, offset = to_stack[:3, :3], to_stack[:3, 3] + to_stack[:3, :3] @ start
        # Towards the middle by a tiny share, so that rounding errors do not lose voxels at the ends of the stack.
        middle = (np.array(values.T.shape) - 1) / 2
        matrix, offset = (1 - _INWARDS) * matrix, middle + (1 - _INWARDS) * (offset - middle)
        ndimage.affine_transform(values.T.astype(np.float32), matrix, offset, part.shape, part, order=1)
    return whole


def sample(values: np.ndarray, stack: Stack, affine: np.ndarray, where: np.ndarray, order: int = 1) -> np.ndarray:
    """Resamples a map like ``from_stack``, but only at selected voxels.

    Args:
        values, stack: as for ``from_stack``.
        affine: (4, 4), of the scan or of a part of it.
        where: (X, Y, Z) bool, the selected voxels, on the grid of ``affine``.
        order: 1 interpolates linearly, 0 takes the nearest value.

    Returns:
        (X, Y, Z) float32, 0 at all other voxels.
    """
    sampled = np.zeros(where.shape, np.float32)
    points = nib.affines.apply_affine(np.linalg.inv(stack.affine) @ affine, np.argwhere(where))
    sampled[where] = ndimage.map_coordinates(values, points[:, ::-1].T, order=order)
    return sampled


def _common_grid(
    brain: np.ndarray, affine: np.ndarray, axes: np.ndarray, options: SliceOptions, trim: int
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape (N, H, W) of the common grid along ``axes``, the columns of (3, 3), around the brain.

    The grid is larger than ``options.size`` if the brain does not fit, and smaller if ``trim`` allows it.
    """
    # The extent of the brain is measured along the axes of the grid. They can differ from those of the scan, so all
    # voxels of the surface are needed, not only the bounding box.
    surface = within_box(brain, lambda part: part & ~ndimage.binary_erosion(part))
    positions = nib.affines.apply_affine(affine, np.argwhere(surface)) @ axes
    low, high = positions.min(axis=0), positions.max(axis=0)
    step = np.array([options.pixel, options.pixel, options.spacing])
    # The outermost voxels reach half their size beyond their centres. Only whole steps are added, so that a grid with
    # the spacing of the scan keeps the positions of its slices.
    beyond = np.abs(axes.T @ affine[:3, :3]).sum(axis=1) / 2
    shape = np.ceil((high - low) / step).astype(int) + 1 + 2 * np.floor(beyond / step + _ROUNDING).astype(int)
    unused = np.maximum(options.size - shape[:2] - 2 * _EDGE_MARGIN, 0)
    shape[:2] = np.maximum(shape[:2], options.size - (unused // trim * trim if trim else 0))
    grid = np.eye(4)
    grid[:3, :3] = axes * step
    grid[:3, 3] = axes @ (low + high) / 2 - grid[:3, :3] @ ((shape - 1) / 2)
    columns, rows, slices = (int(n) for n in shape)
    return grid, (slices, rows, columns)


def _resample(
    data: np.ndarray, affine: np.ndarray, grid: np.ndarray, shape: tuple[int, int, int], order: int = 1
) -> np.ndarray:
    """Resamples (X, Y, Z) to the common grid, (N, H, W); axes on which the grid is coarser are blurred first."""
    # The standard deviation that skimage.transform.resize uses against aliasing.
    stddev = np.maximum(0, (_ratio(grid, affine) - 1) / 2)
    # So far from the voxels that are not 0, the filter and the interpolation have an effect.
    reach = np.ceil(4 * stddev).astype(int) + (1 if order == 1 else _SPLINE_REACH)
    box = bounding_box(data != 0, reach)
    if not data[box].size:
        return np.zeros(shape, np.float32)
    blurred = ndimage.gaussian_filter(np.asarray(data[box], np.float32), stddev)
    origin = affine_of_box(affine, box)
    ends = [(int(one.start == 0), int(one.stop == size)) for one, size in zip(box, data.shape, strict=True)]
    if not np.any(ends):
        return _interpolate(nib.Nifti1Image(blurred, origin), shape[::-1], grid, order).T
    # Outside the array, interpolation gives 0, also between the centre of an outermost voxel and its edge. Repeated
    # values keep the end slices of a scan whose field of view cuts the brain.
    padded = np.pad(blurred, ends, mode="edge")
    origin = origin @ nib.affines.from_matvec(np.eye(3), [-before for before, _ in ends])
    sampled = _interpolate(nib.Nifti1Image(padded, origin), shape[::-1], grid, order)
    return np.where(in_field_of_view(np.linalg.inv(affine) @ grid, data.shape, shape[::-1]), sampled, 0).T


def _ratio(grid: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The ratio of the voxel sizes of two LPS grids along each axis, (3,)."""
    return nib.affines.voxel_sizes(grid) / nib.affines.voxel_sizes(affine)


def _interpolate(image: nib.Nifti1Image, shape: tuple[int, ...], affine: np.ndarray, order: int = 1) -> np.ndarray:
    from nibabel.processing import resample_from_to

    return resample_from_to(image, (shape, affine), order=order).get_fdata(dtype=np.float32)
