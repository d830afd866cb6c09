"""Reads NRRD and MetaImage files with SimpleITK (the extra ``[formats]``)."""

import importlib.util
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.readers import check_shape, reading
from brainseg_tf.links import is_utf8, linked

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
# Suffixes of headers that name a second file with the data.
_DETACHED = (".nhdr", ".mhd")
_META = (".mha", ".mhd")
# The fields of a MetaImage header with one number per dimension.
_META_VECTORS = {
    *("DimSize", "TransformMatrix", "Offset", "Position", "Origin", "Orientation", "Rotation", "CenterOfRotation"),
    *("ElementSpacing", "ElementSize", "AnatomicalOrientation"),
}
# Bytes per value of each MetaImage element type.
_META_TYPES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
# Upper limit on the length of a line in a MetaImage header.
_META_LINE_BYTES = 2**16
_DAMAGED = "is damaged or cut off; copy or convert it again"


def read(path: Path) -> nib.Nifti1Image:
    """Reads a file as a NIfTI image in millimetres.

    Raises:
        InputError: SimpleITK is not installed, or the file is damaged, has several values per voxel, or is too large.
    """
    if importlib.util.find_spec("SimpleITK") is None:
        raise InputError(
            f"{printable(path)}: {printable(path.suffix)} needs SimpleITK; pip install 'brainseg-tf[formats]'"
        )
    import SimpleITK

    # Without this, ITK writes warnings to standard error.
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    if path.suffix.lower() in _META:
        _check_meta(path)
    with reading(path, _DAMAGED), _usable_name(path) as name:
        reader.SetFileName(name)
        reader.ReadImageInformation()
        check_shape(reader.GetSize(), path)
        if reader.GetNumberOfComponents() > 1:
            raise InputError(f"{printable(path)}: contains colours or vectors; convert it to one real value per voxel")
        image = reader.Execute()
    data = SimpleITK.GetArrayFromImage(image).T
    affine, dimensions = np.eye(4), image.GetDimension()
    if dimensions >= 3:  # A fourth dimension, that of the frames, has a position and a direction too.
        directions = np.array(image.GetDirection()).reshape(dimensions, dimensions)[:3, :3]
        axes, origin = directions * image.GetSpacing()[:3], np.array(image.GetOrigin()[:3])
        # World coordinates are LPS in ITK and RAS in NIfTI.
        affine[:3, :3], affine[:3, 3] = np.diag([-1, -1, 1]) @ axes, origin * [-1, -1, 1]
    if not np.issubdtype(data.dtype, np.floating):
        data = data.astype(np.float32 if data.dtype.itemsize < 4 else np.float64)
    result = nib.Nifti1Image(data, affine)
    result.header.set_xyzt_units("mm")
    return result


def _check_meta(path: Path) -> None:
    """Checks that the header and the data of a MetaImage are complete.

    ITK's reader prints errors about incomplete files to standard error, so they are detected before it is called.

    Raises:
        InputError: the file is damaged, truncated or too large.
    """
    fields: dict[str, str] = {}
    with reading(path, _DAMAGED):
        with path.open("rb") as content:
            for line in iter(lambda: content.readline(_META_LINE_BYTES), b""):
                name, *value = (part.strip() for part in re.split("[=:]", os.fsdecode(line), maxsplit=1))
                if not value or (name in _META_VECTORS and "NDims" not in fields):
                    break
                fields[name] = value[0]
                if name == "ElementDataFile":
                    break
            start = content.tell()
        sizes = [int(size) for size in fields["DimSize"].split()]
        if len(sizes) != int(fields["NDims"]) or min(sizes) < 1 or "ElementType" not in fields:
            raise ValueError("incomplete header")
        check_shape(sizes, path)
        data = fields["ElementDataFile"]
        # Lists of files and patterns of file names are left to ITK's reader.
        if not data.startswith("LIST") and "%" not in data:
            if data.upper() != "LOCAL" and not (path.parent / data).exists():
                raise InputError(f"{printable(path)}: {printable(data)}, which has its voxels, is missing; restore it")
            size = path.stat().st_size - start if data.upper() == "LOCAL" else (path.parent / data).stat().st_size
            if size < _meta_bytes(fields):
                raise EOFError("truncated")


def _meta_bytes(fields: dict[str, str]) -> int:
    """The size in bytes of the data that a MetaImage header describes."""
    if fields.get("CompressedData", "").lower() == "true":
        return int(fields.get("CompressedDataSize", 1))
    channels = int(fields.get("ElementNumberOfChannels", 1))
    return math.prod(int(size) for size in fields["DimSize"].split()) * channels * _META_TYPES[fields["ElementType"]]


@contextmanager
def _usable_name(path: Path) -> Iterator[str]:
    """A file name that ITK accepts.

    SimpleITK needs names in UTF-8, and some of its readers need a suffix in lower case. Other files are opened through
    a symbolic link in a temporary folder.
    """
    if path.suffix.islower() and is_utf8(str(path)):
        yield str(path)
        return
    with linked(path, f"scan{path.suffix.lower()}") as link:
        if link.suffix in _DETACHED:
            for other in path.absolute().parent.iterdir():
                if other.name not in (path.name, link.name):
                    link.with_name(other.name).symlink_to(other)
        yield str(link)
