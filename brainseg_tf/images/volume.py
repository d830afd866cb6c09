"""Reads scans of any orientation into LPS volumes, and masks on their grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.background import head_mask
from brainseg_tf.images.formats import (
    LARGEST_FIELD_MM,
    SMALLEST_FIELD_MM,
    affine_mm,
    corners,
    field_mm,
    format_length,
    open_image,
    spans_space,
)
from brainseg_tf.images.readers import check_shape, reading

# The rows and columns of a transposed slice of an LPS volume show the patient in radiological convention: anterior at
# the top, the patient's right side on the left. BraTS stores its volumes in this orientation.
ORIENTATION = "LPS"
# Smaller voxel sizes are refused as errors in the header.
_SMALLEST_VOXEL_MM = 0.05
# Two grids are the same if the distance between their corners is at most this.
_SAME_GRID_MM = 0.1
# Values are used unchanged if their largest magnitude is between the first two numbers: their squares are then well
# within the range of float32. Otherwise the values are scaled so that the largest magnitude is the third number.
_SMALLEST_MAXIMUM, _LARGEST_MAXIMUM, _SCALED_MAXIMUM = 1e-6, 1e12, 1000.0
# The largest difference of a label from an integer: the scaling in the header causes rounding errors.
_INTEGER_TOLERANCE = 1e-4
# A segmentation is refused if it covers more than the first share of the field of view and more than the second share
# of the head, or if it covers more than the third share of the head.
_FIELD_SHARE, _HEAD_SHARE, _WHOLE_HEAD_SHARE = 0.5, 0.8, 0.95
_DAMAGED = "is damaged or cut off; copy or convert it again"
_REPAIR_SIZES = "repair its voxel sizes"


@dataclass(frozen=True)
class Volume:
    """A 3D scan whose axes were permuted and flipped to LPS, without resampling.

    Attributes:
        path: the file or folder of the scan.
        data: (X, Y, Z) float32, with axes that point left, posterior and superior as nearly as the grid allows.
        affine: (4, 4), voxel indices of ``data`` to millimetres in RAS world space.
        source: the image as it was read, with its grid and header. Its affine is in the header's unit of length, which
            is not always the millimetre.
        warnings: sentences for the user about the file.
    """

    path: Path
    data: np.ndarray
    affine: np.ndarray
    source: nib.Nifti1Pair
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along each axis in millimetres."""
        x, y, z = (float(step) for step in nib.affines.voxel_sizes(self.affine))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def read_volume(path: Path) -> Volume:
    """Reads a 3D scan.

    Args:
        path: a file in one of the formats of ``brainseg_tf.images.formats``, or a folder of DICOM slices.

    Raises:
        InputError: the file is missing, empty, truncated or of an unknown format; or the image is not 3D, is not
            real-valued, contains NaN or infinite values, is constant, or has a field of view or voxel size that is
            impossible for a head.
    """
    path = Path(path)
    image, warnings = open_image(path)
    return volume_of(image, path, warnings)


@np.errstate(all="ignore")
def volume_of(image: nib.Nifti1Pair, path: Path, warnings: Sequence[str] = ()) -> Volume:
    """The volume of an image that is open or in memory.

    Args:
        image: a NIfTI image.
        path: its file, or a name for messages.
        warnings: sentences for the user about the file.

    Raises:
        InputError: as for ``read_volume``.
    """
    shape = _shape_3d(image, path)
    affine = affine_mm(image)
    _check_affine(image, affine, path)
    _check_real(image, path)
    data, scaling_warnings = _values(image, shape, path)
    if data.min() == data.max():
        raise InputError(f"{printable(path)}: is {data.flat[0]:g} everywhere and contains no brain; check the export")
    transform = _orientation_to_lps(image)
    affine = affine @ nib.orientations.inv_ornt_aff(transform, shape)
    data = np.ascontiguousarray(apply_orientation(data, transform))
    return Volume(path, data, affine, image, (*warnings, *scaling_warnings))


def mask_of(image: nib.Nifti1Pair, path: Path, like: Volume) -> np.ndarray:
    """The mask of an image that is in memory, (X, Y, Z) bool, in LPS; otherwise as ``read_mask``.

    Args:
        image: voxels above 0 belong to the mask.
        path: a name for messages.
        like: the scan.
    """
    return _labels_of(image, path, like) > 0


def read_mask(path: Path, like: Volume) -> np.ndarray:
    """Reads a mask on the grid of a scan. An empty mask is allowed.

    Args:
        path: the file; voxels above 0 belong to the mask.
        like: the scan.

    Returns:
        (X, Y, Z) bool, in LPS.

    Raises:
        InputError: the file cannot be read, see ``read_volume``; or it has another grid than the scan, is not
            real-valued, or contains NaN or infinite values.
    """
    return _read_labels(Path(path), like) > 0


def read_segmentation(path: Path, like: Volume) -> np.ndarray:
    """Reads a manual lesion segmentation (ground truth) on the grid of a scan. An empty one is allowed.

    Args:
        path: the file, with integer labels; 0 is healthy, all labels above 0 are lesion.
        like: the scan.

    Returns:
        (X, Y, Z) bool, in LPS.

    Raises:
        InputError: as for ``read_mask``; or the file contains fractions or negative numbers, or covers nearly the
            whole head.
    """
    return segmentation_of(open_image(path)[0], path, like)


def segmentation_of(image: nib.Nifti1Pair, path: Path, like: Volume) -> np.ndarray:
    """The lesions of an image that is open or in memory, (X, Y, Z) bool, in LPS; otherwise as ``read_segmentation``.

    Args:
        image: integer labels; 0 is healthy, all labels above 0 are lesion.
        path: its file, or a name for messages.
        like: the scan.
    """
    path = Path(path)
    labels = _labels_of(image, path, like)
    if labels.min() < -_INTEGER_TOLERANCE:
        raise InputError(f"{printable(path)}: contains negative numbers; give a segmentation with the labels 0, 1, ...")
    if labels.dtype.kind == "f" and (np.abs(labels - np.rint(labels)) > _INTEGER_TOLERANCE).any():
        raise InputError(
            f"{printable(path)}: contains fractions, like a probability map; give a segmentation with the labels "
            "0, 1, ..."
        )
    mask = labels > 0.5
    head = head_mask(like.data)
    covered = float(mask[head].mean()) if head.any() else 0.0
    if (covered > _HEAD_SHARE and mask.mean() > _FIELD_SHARE) or covered > _WHOLE_HEAD_SHARE:
        raise InputError(
            f"{printable(path)}: covers {100 * covered:.0f} % of the head and {100 * mask.mean():.0f} % of the field "
            "of view, which is too much for lesions; give a segmentation of the lesions"
        )
    return mask


def read_on_same_grid(path: Path, like: Volume) -> Volume:
    """Reads a scan of a further modality on the grid of a scan.

    Args:
        path: as for ``read_volume``.
        like: the scan.

    Raises:
        InputError: as for ``read_volume``, or the grids differ.
    """
    volume = read_volume(path)
    check_same_grid(volume, like)
    return volume


def has_same_grid(volume: Volume, like: Volume) -> bool:
    """Whether two scans are on the same grid."""
    try:
        check_same_grid(volume, like)
    except InputError:
        return False
    return True


def check_same_grid(volume: Volume, like: Volume) -> None:
    """Checks that two scans are on the same grid. They can be stored with other axes.

    Raises:
        InputError: they are not.
    """
    if volume.data.shape == like.data.shape and _distance(volume.affine, like) <= _SAME_GRID_MM:
        return
    _check_same_grid(volume.source, _shape_3d(volume.source, volume.path), volume.path, like)
    if not np.array_equal(_orientation_to_lps(volume.source), _orientation_to_lps(like.source)):
        raise InputError(
            f"{printable(volume.path)}: its axes are between two directions, and are not those of "
            f"{printable(like.path)}; resample it to that scan"
        )


def is_whole(path: Path) -> bool:
    """Whether a file exists and can be read to its end."""
    path = Path(path)
    try:
        with reading(path, "is damaged"):
            np.asanyarray(open_image(path)[0].dataobj)
    except InputError:
        return False
    return True


def _shape_3d(image: nib.Nifti1Pair, path: Path) -> tuple[int, int, int]:
    """The shape of an image without trailing axes of length 1.

    Raises:
        InputError: the image is not a 3D volume, or is too large.
    """
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 1 in shape:
        raise InputError(f"{printable(path)}: has shape {image.shape}; one 3D volume is needed, extract one")
    check_shape(shape, path)
    return shape


def _check_affine(image: nib.Nifti1Pair, affine: np.ndarray, path: Path) -> None:
    """Checks that the axes of an image are valid, and that field of view and voxel size are possible for a head.

    Raises:
        InputError: they are not.
    """
    if not spans_space(affine) or np.isnan(io_orientation(affine)).any():
        raise InputError(f"{printable(path)}: the header has no usable orientation (affine); repair its sform or qform")
    extents = field_mm(image, affine)
    smallest = float(nib.affines.voxel_sizes(affine).min())
    if extents[2] > LARGEST_FIELD_MM:
        raise InputError(
            f"{printable(path)}: the header claims a field of {format_length(extents[2])}, too large for a head; "
            f"{_REPAIR_SIZES}"
        )
    if extents[1] < SMALLEST_FIELD_MM:
        field = " x ".join(format_length(extent) for extent in extents)
        raise InputError(
            f"{printable(path)}: the header claims a field of {field}, too small for a head; {_REPAIR_SIZES}"
        )
    if smallest < _SMALLEST_VOXEL_MM:
        raise InputError(
            f"{printable(path)}: the header claims a voxel size of {format_length(smallest)}; {_REPAIR_SIZES}"
        )


def _check_real(image: nib.Nifti1Pair, path: Path) -> None:
    dtype = image.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        raise InputError(
            f"{printable(path)}: contains colours or complex numbers; convert it to one real value per voxel"
        )


def _values(image: nib.Nifti1Pair, shape: tuple[int, int, int], path: Path) -> tuple[np.ndarray, list[str]]:
    """Reads the values of a scan as float32.

    Values that are too large or too small for float32 are scaled.

    Returns:
        (X, Y, Z) float32, and a warning if the values were scaled.

    Raises:
        InputError: the values cannot be read, some are not finite, or a few are far outside the range of the others.
    """
    data = _read(image, np.float32, shape, path)
    maximum = _largest_magnitude(data)
    as_stored = image.get_data_dtype().kind in "iu" and getattr(image.dataobj, "slope", 1.0) == 1.0
    if _SMALLEST_MAXIMUM <= maximum <= _LARGEST_MAXIMUM or (maximum == 0 and as_stored):
        return data, []
    del data
    exact = _read(image, np.float64, shape, path)
    maximum = _largest_magnitude(exact)
    if not np.isfinite(maximum):
        raise InputError(f"{printable(path)}: contains NaN or infinite values; replace them, for instance by 0")
    if maximum == 0:
        return exact.astype(np.float32), []
    data = np.divide(exact, maximum, out=np.empty(shape, np.float32), casting="same_kind")
    magnitude = np.abs(data)
    ordinary = np.count_nonzero((magnitude > 1e-9) & (magnitude < 0.9))
    tiny = np.count_nonzero(exact) - ordinary - np.count_nonzero(magnitude >= 0.9)
    if ordinary < 0.01 * tiny:
        raise InputError(
            f"{printable(path)}: contains values of magnitude {maximum:.3g}, far outside the range of the others; "
            "replace them by 0"
        )
    warning = (
        f"{printable(path)}: the largest magnitude of its values is {maximum:.3g}; they are scaled to a maximum of "
        f"{_SCALED_MAXIMUM:.0f}"
    )
    data *= _SCALED_MAXIMUM
    return data, [warning]


def _largest_magnitude(data: np.ndarray) -> float:
    """The largest absolute value; not finite if the data contain NaN or infinite values."""
    return float(np.maximum(np.abs(np.float64(data.max())), np.abs(np.float64(data.min()))))


def _read(image: nib.Nifti1Pair, dtype: type, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    with reading(path, _DAMAGED):
        return image.get_fdata(dtype=dtype, caching="unchanged").reshape(shape)


def _read_labels(path: Path, like: Volume) -> np.ndarray:
    """The values of a mask on the grid of a scan, (X, Y, Z) in LPS."""
    return _labels_of(open_image(path)[0], path, like)


def _labels_of(image: nib.Nifti1Pair, path: Path, like: Volume) -> np.ndarray:
    shape = _shape_3d(image, path)
    # The axes of the scan: at 45 degrees, between two of them, those of the mask depend on how its affine is rounded.
    orientation = _orientation_to_lps(like.source)
    if _is_lps_grid(image, shape, like):
        orientation = _orientation_to_lps(image)
    else:
        _check_same_grid(image, shape, path, like)
    _check_real(image, path)
    with reading(path, _DAMAGED):
        data = np.asanyarray(image.dataobj).reshape(shape)
    if not np.isfinite(data).all():
        raise InputError(f"{printable(path)}: contains NaN or infinite values; replace them, for instance by 0")
    return apply_orientation(data, orientation)


def _is_lps_grid(image: nib.Nifti1Pair, shape: tuple[int, int, int], like: Volume) -> bool:
    """Whether an image has the voxels of a scan once both have the axes LPS: it can be stored with other axes."""
    if not spans_space(image.affine):
        return False
    orientation = _orientation_to_lps(image)
    axes = np.argsort(orientation[:, 0])
    affine = affine_mm(image) @ inv_ornt_aff(orientation, shape)
    return tuple(shape[int(axis)] for axis in axes) == like.data.shape and _distance(affine, like) <= _SAME_GRID_MM


def _distance(affine: np.ndarray, like: Volume) -> float:
    """Largest distance between the corners of a grid and those of a scan of the same shape, in millimetres."""
    differences = corners(affine, like.data.shape) - corners(like.affine, like.data.shape)
    return float(np.linalg.norm(differences, axis=1).max())


def _check_same_grid(image: nib.Nifti1Pair, shape: tuple[int, int, int], path: Path, like: Volume) -> None:
    """Checks that an image has the shape of a scan, and that the corners of both grids agree.

    The corners are compared because a small difference of the voxel sizes adds up across the volume.

    Raises:
        InputError: the grids differ.
    """
    expected = _shape_3d(like.source, like.path)
    distance = np.inf
    if shape == expected:
        differences = corners(affine_mm(image), shape) - corners(affine_mm(like.source), shape)
        distance = float(np.linalg.norm(differences, axis=1).max())
    if not distance <= _SAME_GRID_MM:
        detail = f" (corners differ by up to {format_length(distance)})" if np.isfinite(distance) else ""
        raise InputError(
            f"{printable(path)}: lies on another grid than {printable(like.path)}{detail}; resample it to that scan"
        )


def _orientation_to_lps(image: nib.Nifti1Pair) -> np.ndarray:
    """The transform from the axes of an image to LPS, for ``apply_orientation``."""
    return ornt_transform(io_orientation(image.affine), axcodes2ornt(ORIENTATION))
