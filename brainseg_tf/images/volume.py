"""Scans in, NIfTI out: any orientation in, a map back in the input's own grid with its header."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing
from brainseg_tf.images import dicom
from brainseg_tf.images.background import head
from brainseg_tf.images.formats import (
    LARGEST_FIELD_MM,
    NIFTI,
    SMALLEST_FIELD_MM,
    affine_mm,
    corners,
    field_mm,
    length,
    open_image,
    spans_space,
    unit_of,
)
from brainseg_tf.images.readers import check_shape, reading

# Slices of an LPS volume, transposed to rows and columns, show the patient as radiologists draw him: the nose up,
# his right on the viewer's left. It is also how BraTS stores its volumes.
ORIENTATION = "LPS"
# No scanner has voxels below this, in millimetres.
_SMALLEST_VOXEL_MM = 0.05
# How far two grids may lie apart at a corner, in millimetres, and be taken for the same.
_SAME_GRID_MM = 0.1
# Values whose largest magnitude is between these are computed with as they are: their squares fit into float32 with
# room to spare. Others are scaled to the third.
_SMALLEST_TOP, _LARGEST_TOP, _SCALED_TOP = 1e-6, 1e12, 1000.0
# A label may differ from a whole number by this: what a header's scaling leaves.
_WHOLE = 1e-4
# A segmentation that covers more than these shares of the field and of the head is no lesion; nor is one that covers
# more than the last share of the head alone.
_FIELD_SHARE, _HEAD_SHARE, _WHOLE_HEAD_SHARE = 0.5, 0.8, 0.95
_DAMAGED = "is damaged or cut off; copy or convert it again"
_REPAIR_SIZES = "repair its voxel sizes"
# Header fields that say where a scan lies; all others stay with the scan.
_PLACE_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True)
class Volume:
    """A 3D scan, turned (never resampled) to LPS.

    Attributes:
        path: where it came from.
        data: (X, Y, Z) float32, axes pointing left, posterior and superior as nearly as the grid allows.
        affine: (4, 4), voxel indices of ``data`` to millimetres in RAS world space.
        source: the image as it is on disk, or as NIfTI holds it, for its grid and header. Its affine is in the
            header's unit of length, which need not be the millimetre.
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
            infinities, is the same everywhere, or has a size that no head has.
    """
    path = Path(path)
    image, doubts = open_image(path)
    shape = _shape_3d(image, path)
    affine = affine_mm(image)
    _check_affine(image, affine, path)
    _check_real(image, path)
    data, scaled = _values(image, shape, path)
    if data.min() == data.max():
        raise InputError(
            f"{printable(path)}: is {data.flat[0]:g} everywhere; there is no brain in it, check the export"
        )
    turn = _turn_to_lps(image)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    return Volume(path, np.ascontiguousarray(apply_orientation(data, turn)), affine, image, (*doubts, *scaled))


def read_mask(path: Path, like: Volume) -> np.ndarray:
    """Reads a mask (anything above 0) that must lie on ``like``'s grid; returns (X, Y, Z) bool in LPS.

    Raises:
        InputError: as ``read_volume``, or the grid is another one. An empty mask is allowed.
    """
    return _read_labels(Path(path), like) > 0


def read_segmentation(path: Path, like: Volume) -> np.ndarray:
    """Reads a lesion segmentation by hand, the ground truth, on ``like``'s grid; returns (X, Y, Z) bool in LPS.

    Its labels are whole numbers from 0, of which all above 0 are lesion. It may be empty.

    Raises:
        InputError: as ``read_mask``, or it holds fractions or negative numbers, or covers (nearly) the whole head.
    """
    path = Path(path)
    labels = _read_labels(path, like)
    if labels.min() < -_WHOLE:
        raise InputError(f"{printable(path)}: holds negative numbers; give a segmentation with labels 0, 1, ...")
    if labels.dtype.kind == "f" and (np.abs(labels - np.rint(labels)) > _WHOLE).any():
        raise InputError(
            f"{printable(path)}: holds fractions, as a probability map does; give a segmentation with labels 0, 1, ..."
        )
    mask = labels > 0.5
    inside = head(like.data)
    covered = float(mask[inside].mean()) if inside.any() else 0.0
    if (covered > _HEAD_SHARE and mask.mean() > _FIELD_SHARE) or covered > _WHOLE_HEAD_SHARE:
        raise InputError(
            f"{printable(path)}: covers {100 * covered:.0f} % of the head and {100 * mask.mean():.0f} % of the field, "
            "as no lesion does; give a segmentation of the lesions"
        )
    return mask


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
    path = Path(path)
    try:
        with reading(path, "is damaged"):
            np.asanyarray(open_image(path)[0].dataobj)
    except InputError:
        return False
    return True


def write_map(path: Path, data: np.ndarray, like: Volume) -> None:
    """Writes ``data`` (X, Y, Z, in LPS as ``like.data``) in the grid of the file that ``like`` was read from.

    Affine, sform, qform, their codes and the unit of length are the input's; the dtype is ``data``'s (bool as uint8).
    Nothing else of the input's header goes on: names of patients have been seen in its free text, and its intent is
    not that of the map.

    Raises:
        InputError: the place cannot be written to, or its name does not end in .nii or .nii.gz.
    """
    path = Path(path)
    check_name(path)
    data = data.astype(np.uint8) if data.dtype == bool else data
    source = like.source
    kind: Any = nib.Nifti2Image if isinstance(source.header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(_turn_back(data, like), source.affine, _header_of_map(source, kind.header_class))
    image.set_data_dtype(data.dtype)
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
        raise InputError(f"{printable(path)}: the name must end in .nii or .nii.gz")


def _shape_3d(image: nib.Nifti1Pair, path: Path) -> tuple[int, int, int]:
    """The shape without trailing axes of length 1; refused unless that leaves three axes."""
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 1 in shape:
        raise InputError(f"{printable(path)}: has shape {image.shape}; one 3D volume is needed, extract it first")
    check_shape(shape, path)
    return shape


def _check_affine(image: nib.Nifti1Pair, affine: np.ndarray, path: Path) -> None:
    """Refuses axes that span no space, and a field of view in which no head fits or which no scanner has."""
    if not spans_space(affine) or np.isnan(io_orientation(affine)).any():
        raise InputError(f"{printable(path)}: the header has no usable orientation (affine); repair its sform or qform")
    extents = field_mm(image, affine)
    smallest = float(nib.affines.voxel_sizes(affine).min())
    if extents[2] > LARGEST_FIELD_MM:
        raise InputError(f"{printable(path)}: the header claims a field of {length(extents[2])}; {_REPAIR_SIZES}")
    if extents[1] < SMALLEST_FIELD_MM:
        field = " x ".join(length(extent) for extent in extents)
        raise InputError(f"{printable(path)}: the header claims a head within {field}; {_REPAIR_SIZES}")
    if smallest < _SMALLEST_VOXEL_MM:
        raise InputError(f"{printable(path)}: the header claims voxels of {length(smallest)}; {_REPAIR_SIZES}")


def _check_real(image: nib.Nifti1Pair, path: Path) -> None:
    dtype = image.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        raise InputError(f"{printable(path)}: holds colours or complex numbers; convert it to one real value per voxel")


def _values(image: nib.Nifti1Pair, shape: tuple[int, int, int], path: Path) -> tuple[np.ndarray, list[str]]:
    """A scan's values as float32, scaled if they are too large or too small for it; and a sentence that says so.

    Raises:
        InputError: they cannot be read, some are not finite, or a few are out of all proportion to the others.
    """
    data = _read(image, np.float32, shape, path)
    top = _top(data)
    as_stored = image.get_data_dtype().kind in "iu" and getattr(image.dataobj, "slope", 1.0) == 1.0
    if _SMALLEST_TOP <= top <= _LARGEST_TOP or (top == 0 and as_stored):
        return data, []
    del data
    exact = _read(image, np.float64, shape, path)
    top = _top(exact)
    if not np.isfinite(top):
        raise InputError(f"{printable(path)}: holds NaN or infinite values; replace them (for instance by 0) first")
    if top == 0:
        return exact.astype(np.float32), []
    data = np.divide(exact, top, out=np.empty(shape, np.float32), casting="same_kind")
    magnitude = np.abs(data)
    ordinary = np.count_nonzero((magnitude > 1e-9) & (magnitude < 0.9))
    tiny = np.count_nonzero(exact) - ordinary - np.count_nonzero(magnitude >= 0.9)
    if ordinary < 0.01 * tiny:
        raise InputError(
            f"{printable(path)}: holds values of {top:.3g} in size, far from all others; replace them by 0"
        )
    doubt = f"{printable(path)}: its values reach {top:.3g} in size; they are scaled to {_SCALED_TOP:.0f}"
    data *= _SCALED_TOP
    return data, [doubt]


def _top(data: np.ndarray) -> float:
    """The largest magnitude; NaN or infinite if a value is."""
    return float(np.maximum(np.abs(np.float64(data.max())), np.abs(np.float64(data.min()))))


def _read(image: nib.Nifti1Pair, dtype: type, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    with reading(path, _DAMAGED):
        return image.get_fdata(dtype=dtype, caching="unchanged").reshape(shape)


def _read_labels(path: Path, like: Volume) -> np.ndarray:
    """The values of a mask on ``like``'s grid, turned to LPS."""
    image, _ = open_image(path)
    shape = _shape_3d(image, path)
    _check_same_grid(image, shape, path, like)
    _check_real(image, path)
    with reading(path, _DAMAGED):
        data = np.asanyarray(image.dataobj).reshape(shape)
    if not np.isfinite(data).all():
        raise InputError(f"{printable(path)}: holds NaN or infinite values; replace them (for instance by 0) first")
    return apply_orientation(data, _turn_to_lps(image))


def _check_same_grid(image: nib.Nifti1Pair, shape: tuple[int, int, int], path: Path, like: Volume) -> None:
    """Refuses another shape, and a grid whose corners lie elsewhere: a small difference of voxel sizes adds up."""
    expected = _shape_3d(like.source, like.path)
    apart = np.inf
    if shape == expected:
        distances = corners(affine_mm(image), shape) - corners(affine_mm(like.source), shape)
        apart = float(np.linalg.norm(distances, axis=1).max())
    if not apart <= _SAME_GRID_MM:
        how = f", {length(apart)} away at a corner" if np.isfinite(apart) else ""
        raise InputError(
            f"{printable(path)}: lies on another grid than {printable(like.path)}{how}; resample it to that scan first"
        )


def _header_of_map(source: nib.Nifti1Pair, kind: Any) -> nib.Nifti1Header:
    """A header with the place of a scan and nothing else of it."""
    theirs = source.header
    header = kind(endianness=theirs.endianness)
    # It must have three axes before it takes voxel sizes.
    header.set_data_shape(source.shape[:3])
    for field in _PLACE_FIELDS:
        header[field] = theirs[field]
    header["pixdim"][:4] = theirs["pixdim"][:4]
    if header["sform_code"] > 0 and header["qform_code"] == 0:
        header["pixdim"][1:4] = nib.affines.voxel_sizes(source.affine)
    try:
        named = theirs.get_xyzt_units()[0]
    except KeyError:
        named = "unknown"
    taken = unit_of(source)
    header.set_xyzt_units("unknown" if named == "unknown" and taken == "mm" else taken)
    header["descrip"] = b"brainseg-tf"
    return header


def _turn_back(data: np.ndarray, like: Volume) -> np.ndarray:
    """From LPS to the axes of the file that ``like`` was read from."""
    return apply_orientation(data, ornt_transform(axcodes2ornt(ORIENTATION), io_orientation(like.source.affine)))


def _turn_to_lps(image: nib.Nifti1Pair) -> np.ndarray:
    return ornt_transform(io_orientation(image.affine), axcodes2ornt(ORIENTATION))
