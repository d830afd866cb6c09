"""Writes maps and masks on the grid of the scan that they belong to, as NIfTI or DICOM."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing
from brainseg_tf.images import dicom, rtstruct
from brainseg_tf.images.formats import NIFTI, unit_of
from brainseg_tf.images.labels import Label
from brainseg_tf.images.readers import check_kind
from brainseg_tf.images.volume import ORIENTATION, Volume

# Header fields with the position and orientation of a scan. Only these are copied to the maps.
_POSITION_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
# The text in the header of each map, and where NIfTI has it, by the size of the header: NIfTI-1 and NIfTI-2.
_DESCRIPTION, _DESCRIBED = b"brainseg-tf", {348: slice(148, 228), 540: slice(240, 320)}


def is_map(path: Path) -> bool:
    """Whether a file is a map or mask of ``write_map``; False if it cannot be read."""
    name = path.name.lower()
    if not name.endswith(NIFTI):
        return False
    try:
        check_kind(path)
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as file:
            start = file.read(max(where.stop for where in _DESCRIBED.values()))
    except (OSError, EOFError, zlib.error, InputError):
        return False
    # A map has the byte order of its scan.
    sizes = (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    return any(start[_DESCRIBED[size]].rstrip(b"\0") == _DESCRIPTION for size in sizes if size in _DESCRIBED)


def write_map(path: Path, data: np.ndarray, like: Volume) -> None:
    """Writes a map as NIfTI on the grid of the file that a scan was read from.

    Affine, sform, qform, their codes and the unit of length are copied from the scan. No other header field is copied:
    its text fields may contain the patient's name, and the intent of the map is a different one.

    Args:
        path: the file, with the suffix .nii or .nii.gz.
        data: (X, Y, Z), in LPS like ``like.data``; further axes are kept. The file has its dtype, uint8 for bool.
        like: the scan.

    Raises:
        InputError: the file cannot be written, or its name does not end in .nii or .nii.gz.
    """
    path = Path(path)
    check_name(path)
    content = map_image(data, like).to_bytes()
    with replacing(path) as temporary:
        # nib.save is not used because it leaves its file open when the disk is full. Without a time stamp, equal masks
        # give equal files.
        temporary.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)


def map_image(data: np.ndarray, like: Volume) -> nib.Nifti1Image:
    """A map as an image on the grid of the file that a scan was read from; parameters as for ``write_map``."""
    data = data.astype(np.uint8) if data.dtype == bool else data
    source = like.source
    kind: Any = nib.Nifti2Image if isinstance(source.header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(_to_source_orientation(data, like), source.affine, _map_header(source, kind.header_class))
    image.set_data_dtype(data.dtype)
    return image


def write_dicom(path: Path, mask: np.ndarray, like: Volume) -> None:
    """Writes a mask as a DICOM segmentation of the series that a scan was read from.

    Args:
        path: the file, with the suffix .dcm.
        mask: (X, Y, Z) bool, in LPS.
        like: the scan.

    Raises:
        InputError: as for ``dicom.write_segmentation``.
    """
    dicom.write_segmentation(Path(path), _to_source_orientation(mask, like), like.source.affine, like.path)


def write_structures(path: Path, numbers: np.ndarray, labels: Sequence[Label], like: Volume) -> None:
    """Writes a label map as a DICOM RT structure set of the series that a scan was read from.

    Args:
        path: the file, with the suffix .dcm.
        numbers: (X, Y, Z) integers, in LPS.
        labels: the values of ``numbers``.
        like: the scan.

    Raises:
        InputError: as for ``rtstruct.write_structures``.
    """
    rtstruct.write_structures(Path(path), _to_source_orientation(numbers, like), labels, like.source.affine, like.path)


def check_name(path: Path) -> None:
    """Checks that the name of an output file has a NIfTI suffix.

    Raises:
        InputError: it does not end in .nii or .nii.gz.
    """
    if not str(path).endswith(NIFTI):
        raise InputError(f"{printable(path)}: the name must end in .nii or .nii.gz")


def _map_header(source: nib.Nifti1Pair, kind: Any) -> nib.Nifti1Header:
    """A new header with the position, orientation and unit of length of a scan."""
    original = source.header
    header = kind(endianness=original.endianness)
    # The header must have three axes before voxel sizes can be set.
    header.set_data_shape(source.shape[:3])
    for field in _POSITION_FIELDS:
        header[field] = original[field]
    header["pixdim"][:4] = original["pixdim"][:4]
    if header["sform_code"] > 0 and header["qform_code"] == 0:
        header["pixdim"][1:4] = nib.affines.voxel_sizes(source.affine)
    try:
        stated = original.get_xyzt_units()[0]
    except KeyError:
        stated = "unknown"
    used = unit_of(source)
    header.set_xyzt_units("unknown" if stated == "unknown" and used == "mm" else used)
    header["descrip"] = _DESCRIPTION
    return header


def _to_source_orientation(data: np.ndarray, like: Volume) -> np.ndarray:
    """Data in LPS with the axes of the file that a scan was read from."""
    return apply_orientation(data, ornt_transform(axcodes2ornt(ORIENTATION), io_orientation(like.source.affine)))
