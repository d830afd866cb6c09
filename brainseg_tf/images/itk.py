"""NRRD and MetaImage, by SimpleITK (the extra ``[formats]``)."""

import importlib.util
import math
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.readers import check_shape, reading

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
# Those whose header names a second file, which lies beside it.
_DETACHED = (".nhdr", ".mhd")
_META = (".mha", ".mhd")
# The fields of a MetaImage header that take one number per dimension, and its types with their bytes.
_META_VECTORS = {
    *("DimSize", "TransformMatrix", "Offset", "Position", "Origin", "Orientation", "Rotation", "CenterOfRotation"),
    *("ElementSpacing", "ElementSize", "AnatomicalOrientation"),
}
_META_TYPES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
# No line of a MetaImage header is longer.
_META_LINE_BYTES = 2**16
_DAMAGED = "is damaged or cut off; copy or convert it again"


def read(path: Path) -> nib.Nifti1Image:
    """The volume of a file, as NIfTI in millimetres.

    Raises:
        InputError: SimpleITK is missing, or the file is damaged, no image of real values, or too large.
    """
    if importlib.util.find_spec("SimpleITK") is None:
        raise InputError(
            f"{printable(path)}: {printable(path.suffix)} needs SimpleITK; pip install 'brainseg-tf[formats]'"
        )
    import SimpleITK

    # ITK would write its warnings to standard error.
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    if path.suffix.lower() in _META:
        _check_meta(path)
    with reading(path, _DAMAGED), _usable_name(path) as name:
        reader.SetFileName(name)
        reader.ReadImageInformation()
        check_shape(reader.GetSize(), path)
        if reader.GetNumberOfComponents() > 1:
            raise InputError(f"{printable(path)}: holds colours or vectors; convert it to one real value per voxel")
        image = reader.Execute()
    data = SimpleITK.GetArrayFromImage(image).T
    affine = np.eye(4)
    if image.GetDimension() == 3:
        axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        # ITK's world is LPS, NIfTI's RAS.
        affine[:3, :3], affine[:3, 3] = np.diag([-1, -1, 1]) @ axes, np.array(image.GetOrigin()) * [-1, -1, 1]
    if not np.issubdtype(data.dtype, np.floating):
        data = data.astype(np.float32 if data.dtype.itemsize < 4 else np.float64)
    result = nib.Nifti1Image(data, affine)
    result.header.set_xyzt_units("mm")
    return result


def _check_meta(path: Path) -> None:
    """Refuses a MetaImage that is incomplete: its reader prints to standard error what is wrong with it."""
    known: dict[str, str] = {}
    with reading(path, _DAMAGED):
        with path.open("rb") as content:
            for line in iter(lambda: content.readline(_META_LINE_BYTES), b""):
                name, *value = (part.strip() for part in re.split("[=:]", os.fsdecode(line), maxsplit=1))
                if not value or (name in _META_VECTORS and "NDims" not in known):
                    break
                known[name] = value[0]
                if name == "ElementDataFile":
                    break
            start = content.tell()
        sizes = [int(size) for size in known["DimSize"].split()]
        if len(sizes) != int(known["NDims"]) or min(sizes) < 1 or "ElementType" not in known:
            raise ValueError("incomplete header")
        check_shape(sizes, path)
        data = known["ElementDataFile"]
        # A list of files, or a pattern of names, is left to the reader.
        if not data.startswith("LIST") and "%" not in data:
            there = path.stat().st_size - start if data.upper() == "LOCAL" else (path.parent / data).stat().st_size
            if there < _meta_bytes(known):
                raise EOFError("cut off")


def _meta_bytes(known: dict[str, str]) -> int:
    """How many bytes of data a MetaImage header asks for."""
    if known.get("CompressedData", "").lower() == "true":
        return int(known.get("CompressedDataSize", 1))
    channels = int(known.get("ElementNumberOfChannels", 1))
    return math.prod(int(size) for size in known["DimSize"].split()) * channels * _META_TYPES[known["ElementType"]]


@contextmanager
def _usable_name(path: Path) -> Iterator[str]:
    """A name under which ITK opens a file: SimpleITK takes UTF-8 only, and some readers a suffix in lower case only."""
    if path.suffix.islower() and _is_utf8(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="brainseg-tf-") as folder:
        link = Path(folder, f"scan{path.suffix.lower()}")
        link.symlink_to(path.absolute())
        if link.suffix in _DETACHED:
            for beside in path.absolute().parent.iterdir():
                if beside.name not in (path.name, link.name):
                    Path(folder, beside.name).symlink_to(beside)
        yield str(link)


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
