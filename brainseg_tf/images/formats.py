"""Opening a scan in any format: NIfTI and what else nibabel reads, NRRD and MetaImage, a folder of DICOM slices."""

import gzip
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images import dicom, itk
from brainseg_tf.images.readers import check_kind, check_shape, reading

NIFTI = (".nii", ".nii.gz")
_PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
_MGH = (".mgh", ".mgz")
# What a folder of scans is searched for; nibabel knows more.
SCANS = (*NIFTI, ".mgz", ".mgh", ".hdr", *itk.SUFFIXES)
# Millimetres that no scanner's field of view exceeds; the model's grid would grow with it.
LARGEST_FIELD_MM = 2000.0
# A field of view that is smaller than this in two directions holds no human brain: that of a child born at 24 weeks is
# 60 mm wide. A slab of a few slices is small in one direction only.
SMALLEST_FIELD_MM = 40.0
_UNITS_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
_GZIP = b"\x1f\x8b"
_UNREADABLE = "is not a readable NIfTI file; convert it (for instance with dcm2niix)"

# nibabel prints a line on standard error for each header field that it corrects. What matters is said here.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


# Headers that are nonsense are refused by what comes out of them; no warning helps the user.
@np.errstate(all="ignore")
def open_image(path: Path) -> tuple[nib.Nifti1Pair, list[str]]:
    """Opens a scan as NIfTI, its voxels still on disk where the format allows; and what is doubtful about it.

    The header's unit of length is as in the file; see ``affine_mm``.

    Raises:
        InputError: it is missing, empty, may not be read, is of no format that is known here, or its reader is not
            installed.
    """
    check_kind(path)
    if path.is_dir():
        if not dicom.is_series(path):
            raise InputError(f"{printable(path)}: is a folder without DICOM slices; name a scan")
        series = dicom.find_series(path)
        check_shape(series.shape, path)
        return dicom.read_series(series), list(series.notes)
    name = path.name.lower()
    with reading(path, _UNREADABLE):
        with path.open("rb") as content:
            start = content.read(dicom.START_BYTES)
        if dicom.is_dicom(start):
            raise InputError(f"{printable(path)}: is a DICOM file; name the folder that holds the series")
        if name.endswith(itk.SUFFIXES):
            return itk.read(path), []
        if name.endswith((*NIFTI, *_PAIR)):
            opened = _open_nifti(path)
            if opened is not None:
                image, repairs = opened
                check_shape(image.shape, path)
                doubts = (*repairs, *_doubts_of_unit(image), *_doubts_of_forms(image))
                return image, [f"{printable(path)}: {doubt}" for doubt in doubts]
        other = _open_mgh(path) if name.endswith(_MGH) else nib.load(path)
        if not isinstance(other, SpatialImage):
            raise InputError(f"{printable(path)}: holds no volume; convert the scan to .nii.gz first")
        check_shape(other.shape, path)
        converted = nib.Nifti1Image.from_image(other)
        converted.header.set_xyzt_units("mm")
        # Only SPM's own .mat file tells where an Analyze volume lies.
        if isinstance(other, AnalyzeImage) and not path.with_suffix(".mat").exists():
            guess = f"{printable(path)}: Analyze does not say left from right; taken as stored right to left"
            return converted, [guess]
    return converted, []


def stem(path: Path) -> str:
    """A scan's name without what its format adds to it."""
    for suffix in sorted(SCANS, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def unit_of(image: nib.Nifti1Pair) -> str:
    """The unit of length that a header's numbers are in: "mm", "meter" or "micron".

    It is the one that the header names, unless only another one makes a field of view that a head fits into: some
    tools write "meter" beside sizes in millimetres. Without a known unit it is the millimetre.
    """
    named = _named_unit(image)
    if named == "mm" or _is_plausible(image, named):
        return named
    return next((unit for unit in _UNITS_MM if _is_plausible(image, unit)), named)


def affine_mm(image: nib.Nifti1Pair) -> np.ndarray:
    """The (4, 4) affine from voxel indices to millimetres, whatever unit the header is in."""
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _UNITS_MM[unit_of(image)]
    return affine


def field_mm(image: nib.Nifti1Pair, affine: np.ndarray) -> np.ndarray:
    """The three extents of the field of view in millimetres, the smallest first."""
    return np.sort(np.linalg.norm(affine[:3, :3], axis=0) * image.shape[:3])


def corners(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Where the (8, 3) outermost voxels of a grid lie in the world."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]])).reshape(3, -1).T
    return nib.affines.apply_affine(affine, ends)


def spans_space(affine: np.ndarray) -> bool:
    """Whether the three axes of an affine are finite, not zero, and not all but in one plane."""
    axes = affine[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    # Relative to the voxel: axes that all but lie in one plane span nothing either.
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(axes)) > 1e-3 * np.prod(sizes) > 0)


def _named_unit(image: nib.Nifti1Pair) -> str:
    try:
        named = image.header.get_xyzt_units()[0]
    except KeyError:  # a code that NIfTI does not know
        named = "unknown"
    return named if named in _UNITS_MM else "mm"


def _is_plausible(image: nib.Nifti1Pair, unit: str) -> bool:
    if len(image.shape) < 3:
        return True
    extents = field_mm(image, image.affine * _UNITS_MM[unit])
    return bool(extents[1] >= SMALLEST_FIELD_MM and extents[2] <= LARGEST_FIELD_MM)


def _open_nifti(path: Path) -> tuple[nib.Nifti1Pair, list[str]] | None:
    """A NIfTI image and what of its header was put right, or None if the header is not NIfTI's.

    Whether it is compressed is seen from its content, whatever its name says.
    """
    single = path.name.lower().endswith(NIFTI)
    voxels = described = path
    if not single:
        files = nib.Nifti1Pair.filespec_to_file_map(str(path))
        voxels, described = (Path(str(files[name].filename)) for name in ("image", "header"))
    for file in {voxels, described} - {path}:
        check_kind(file)
    with _opened(described) as content:
        start = content.read(nib.Nifti2Header.sizeof_hdr)
        content.seek(0)
        kinds = (nib.Nifti1Image, nib.Nifti2Image) if single else (nib.Nifti1Pair, nib.Nifti2Pair)
        kind = next((one for one in kinds if one.header_class.may_contain_header(start)), None)
        if kind is None:
            return None
        header = kind.header_class.from_fileobj(content)
    check_shape(header.get_data_shape(), path)
    repairs = [*_repair_scaling(header, path), *_repair_forms(header)]
    made: Any = kind
    return made(_voxels(voxels, header), header.get_best_affine(), header), repairs


def _open_mgh(path: Path) -> Any:
    if _is_gzip(path) == path.name.lower().endswith(".mgz"):
        return nib.load(path)
    with _opened(path) as content:
        kind: Any = nib.MGHImage
        header = kind.header_class.from_fileobj(content)
        check_shape(header.get_data_shape(), path)
        return kind(np.asanyarray(ArrayProxy(content, header)), header.get_affine(), header)


def _voxels(path: Path, header: nib.Nifti1Header) -> Any:
    """An array, or what reads one later: nibabel's proxy takes a file for gzip by its name alone."""
    if _is_gzip(path) == path.name.lower().endswith(".gz"):
        return ArrayProxy(str(path), header)
    with _opened(path) as content:
        proxy = ArrayProxy(content, header)
        if header.get_slope_inter() in ((None, None), (1.0, 0.0)):
            return proxy.get_unscaled()
        return np.asarray(proxy, np.float32 if header.get_data_dtype().kind in "iu" else None)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a file for reading, through gzip if that is what it holds."""
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as content:
        yield content


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(len(_GZIP)) == _GZIP


def _repair_scaling(header: nib.Nifti1Header, path: Path) -> list[str]:
    """Ignores a scaling that is not a number, as NIfTI ignores a slope of 0; refuses an infinite one."""
    slope, offset = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isinf(slope) or (np.isinf(offset) and slope):
        raise InputError(
            f"{printable(path)}: the header's scaling (scl_slope, scl_inter) is infinite; set it to 1 and 0"
        )
    if np.isnan(slope) or np.isnan(offset):
        header["scl_slope"], header["scl_inter"] = np.nan, np.nan
        # Without a slope there is no scaling, and many tools write it so.
        if np.isfinite(slope) and slope not in (0, 1):
            return ["its scaling (scl_slope, scl_inter) is not a number; its values are read as stored"]
    return []


def _repair_forms(header: nib.Nifti1Header) -> list[str]:
    """Unsets that one of sform and qform which is no orientation, if the other one is."""
    forms = {}
    for name in ("sform", "qform"):
        try:
            affine = getattr(header, f"get_{name}")()
            forms[name] = int(header[f"{name}_code"]) > 0 and spans_space(affine)
        except Exception:  # the quaternion is none
            forms[name] = False
    if forms["qform"] and header["sform_code"] > 0 and not forms["sform"]:
        header.set_sform(None, 0)
        return ["its sform is no orientation; the qform is used"]
    if forms["sform"] and header["qform_code"] > 0 and not forms["qform"]:
        header["qform_code"] = 0
        return ["its qform is no orientation; the sform is used"]
    return []


def _doubts_of_unit(image: nib.Nifti1Pair) -> Iterator[str]:
    named, taken = _named_unit(image), unit_of(image)
    if named != taken:
        words = {"mm": "millimetres", "meter": "metres", "micron": "micrometres"}
        largest = field_mm(image, image.affine * _UNITS_MM[named])[-1]
        yield (
            f"its header is in {words[named]}, which makes a field of {length(largest)}; "
            f"its numbers are taken for {words[taken]}"
        )


def _doubts_of_forms(image: nib.Nifti1Pair) -> Iterator[str]:
    header = image.header
    (sform, sform_code), (qform, qform_code) = header.get_sform(coded=True), header.get_qform(coded=True)
    if sform_code == 0 and qform_code == 0:
        yield "neither sform nor qform is set; its axes are taken for right to left, back to front, up"
    if sform_code and qform_code and sform is not None and qform is not None:
        unit = _UNITS_MM[unit_of(image)]
        apart = np.linalg.norm(corners(sform, image.shape) - corners(qform, image.shape), axis=1).max() * unit
        if apart > 1.0:
            yield f"its sform and qform lie {apart:.0f} mm apart; the sform is used"


def length(millimetres: float) -> str:
    """A length in words: metres, millimetres or micrometres."""
    if millimetres >= 1000:
        return f"{millimetres / 1000:.3g} m"
    return f"{millimetres:.3g} mm" if millimetres >= 1 else f"{millimetres * 1000:.3g} micrometres"
