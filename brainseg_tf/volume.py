"""Scans in, NIfTI out: any orientation in, a map back in the input's own grid with its header."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from brainseg_tf import dicom
from brainseg_tf.errors import InputError
from brainseg_tf.files import replacing
from brainseg_tf.formats import DAMAGE, NIFTI, check_shape, open_image

# Slices of an LPS volume, transposed to rows and columns, show the patient as radiologists draw him: the nose up,
# his right on the viewer's left. It is also how BraTS stores its volumes.
ORIENTATION = "LPS"
# Millimetres that no scanner's field of view exceeds; the model's grid would grow with it.
LARGEST_FIELD = 2000.0


@dataclass(frozen=True)
class Volume:
    """A 3D scan, turned (never resampled) to LPS.

    Attributes:
        path: where it came from.
        data: (X, Y, Z) float32, axes pointing left, posterior and superior as nearly as the grid allows.
        affine: (4, 4), voxel indices of ``data`` to millimetres in RAS world space.
        source: the image as it is on disk, or as NIfTI holds it, for its grid and header.
        doubts: what its file leaves open, sentences for the user.
    """

    path: Path
    data: np.ndarray
    affine: np.ndarray
    source: nib.Nifti1Pair
    doubts: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along each axis."""
        x, y, z = (float(step) for step in nib.affines.voxel_sizes(self.affine))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@np.errstate(all="ignore")
def read_volume(path: Path) -> Volume:
    """Reads a 3D scan: a file of any format that ``formats`` knows, or a folder of DICOM slices.

    Raises:
        InputError: the file is missing, empty, cut off, of no known format, not 3D, not real-valued, holds NaN or
            infinities, or is the same everywhere.
    """
    path = Path(path)
    image, doubts = open_image(path)
    shape = _shape_3d(image, path)
    _check_affine(image, shape, path)
    if image.get_data_dtype().fields is not None or np.issubdtype(image.get_data_dtype(), np.complexfloating):
        raise InputError(f"{path}: holds colours or complex numbers; convert it to one real value per voxel")
    try:
        data = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    except DAMAGE as error:
        raise InputError(f"{path}: is damaged or cut off ({_first_line(error)}); copy or convert it again") from error
    if not np.isfinite(data).all():
        raise InputError(f"{path}: holds NaN or infinite values; replace them (for instance by 0) first")
    if data.min() == data.max():
        raise InputError(f"{path}: is {data.flat[0]:g} everywhere; there is no brain in it, check the export")
    turn = _turn_to_lps(image)
    affine = image.affine @ nib.orientations.inv_ornt_aff(turn, shape)
    return Volume(path, np.ascontiguousarray(apply_orientation(data, turn)), affine, image, tuple(doubts))


def read_mask(path: Path, like: Volume) -> np.ndarray:
    """Reads a mask (anything above 0) that must lie on ``like``'s grid; returns (X, Y, Z) bool in LPS.

    Raises:
        InputError: as ``read_volume``, or the grid is another one. An empty mask is allowed.
    """
    path = Path(path)
    image, _ = open_image(path)
    shape = _shape_3d(image, path)
    _check_same_grid(image, shape, path, like)
    try:
        data = np.asanyarray(image.dataobj).reshape(shape) > 0
    except DAMAGE as error:
        raise InputError(f"{path}: is damaged or cut off ({_first_line(error)}); copy or convert it again") from error
    return apply_orientation(data, _turn_to_lps(image))


def read_on_same_grid(path: Path, like: Volume) -> Volume:
    """Reads a further modality, which must lie on ``like``'s grid.

    Raises:
        InputError: as ``read_volume``, or the grid is another one.
    """
    volume = read_volume(path)
    _check_same_grid(volume.source, _shape_3d(volume.source, volume.path), volume.path, like)
    return volume


def is_whole(path: Path) -> bool:
    """Whether a NIfTI file can be read to its end."""
    try:
        np.asanyarray(open_image(path)[0].dataobj)
    except (InputError, *DAMAGE):
        return False
    return True


def write_map(path: Path, data: np.ndarray, like: Volume) -> None:
    """Writes ``data`` (X, Y, Z, in LPS as ``like.data``) in the grid of the file that ``like`` was read from.

    Affine, sform, qform, their codes and the units are the input's; the dtype is ``data``'s (bool as uint8).

    Raises:
        InputError: the place cannot be written to, or its name does not end in .nii or .nii.gz.
    """
    path = Path(path)
    check_name(path)
    data = data.astype(np.uint8) if data.dtype == bool else data
    source = like.source
    header = source.header.copy()
    header.extensions.clear()
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    # Free text of the scan's, where names of patients have been seen, does not go on.
    header["descrip"], header["aux_file"], header["intent_name"] = b"brainseg-tf", b"", b""
    if "db_name" in header:
        header["db_name"] = b""
    kind: Any = nib.Nifti2Image if isinstance(source.header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(_turn_back(data, like), source.affine, header)
    content = image.to_bytes()
    with replacing(path) as beside:
        # Not nib.save: it leaves its file open when the disk is full. No time stamp: the same mask, the same bytes.
        beside.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)


def write_dicom(path: Path, mask: np.ndarray, like: Volume) -> None:
    """Writes a mask (X, Y, Z) bool in LPS as a DICOM segmentation of the series that ``like`` was read from.

    Raises:
        InputError: see ``dicom.write_segmentation``.
    """
    dicom.write_segmentation(Path(path), _turn_back(mask, like), like.source.affine, like.path)


def check_name(path: Path) -> None:
    """Refuses an output name that is not a NIfTI file's.

    Raises:
        InputError: it does not end in .nii or .nii.gz.
    """
    if not str(path).endswith(NIFTI):
        raise InputError(f"{path}: the name must end in .nii or .nii.gz")


def _shape_3d(image: nib.Nifti1Pair, path: Path) -> tuple[int, int, int]:
    """The shape without trailing axes of length 1; refused unless that leaves three axes."""
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 1 in shape:
        raise InputError(f"{path}: has shape {image.shape}; one 3D volume is needed, extract it first")
    check_shape(shape, path)
    return shape


def _check_affine(image: nib.Nifti1Pair, shape: tuple[int, int, int], path: Path) -> None:
    axes = image.affine[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    # Relative to the voxel: axes that all but lie in one plane span nothing either.
    spanned = np.isfinite(image.affine).all() and abs(np.linalg.det(axes)) > 1e-3 * np.prod(sizes) > 0
    if not spanned or np.isnan(io_orientation(image.affine)).any():
        raise InputError(f"{path}: the header has no usable orientation (affine); repair its sform or qform")
    reach = float((sizes * shape).max())
    if reach > LARGEST_FIELD:
        raise InputError(f"{path}: the header claims a field of {reach / 1000:.3g} m; repair its voxel sizes")


def _check_same_grid(image: nib.Nifti1Pair, shape: tuple[int, int, int], path: Path, like: Volume) -> None:
    expected = like.source
    if shape != _shape_3d(expected, like.path) or not np.allclose(image.affine, expected.affine, atol=1e-2):
        raise InputError(f"{path}: lies on another grid than {like.path}; resample it to that scan first")


def _turn_back(data: np.ndarray, like: Volume) -> np.ndarray:
    """From LPS to the axes of the file that ``like`` was read from."""
    return apply_orientation(data, ornt_transform(axcodes2ornt(ORIENTATION), io_orientation(like.source.affine)))


def _turn_to_lps(image: nib.Nifti1Pair) -> np.ndarray:
    return ornt_transform(io_orientation(image.affine), axcodes2ornt(ORIENTATION))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
