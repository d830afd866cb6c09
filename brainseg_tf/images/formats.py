"""Opens scans in all supported formats: those of nibabel, NRRD and MetaImage, and folders of DICOM slices."""

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
# Suffixes of scans in a folder. Files with other suffixes that nibabel reads can be named one by one.
SCANS = (*NIFTI, ".mgz", ".mgh", ".hdr", *itk.SUFFIXES)
# Headers whose voxels are in a file of the same name beside them, and the suffixes of that file.
_HEADERS, _VOXELS_BESIDE = (".hdr", ".mhd", ".nhdr"), (".img", ".img.gz", ".raw", ".raw.gz", ".zraw")
# The largest field of view of a scanner. The model's grid grows with the field of view, so a larger one is refused.
LARGEST_FIELD_MM = 2000.0
# A field of view that is smaller than this in two directions cannot contain a human brain: the brain of a child born at
# 24 weeks is 60 mm wide. A slab of a few slices is small in one direction only.
SMALLEST_FIELD_MM = 40.0
_UNITS_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
_GZIP = b"\x1f\x8b"
_UNREADABLE = "is not a readable NIfTI file; convert it (for instance with dcm2niix)"

# nibabel logs every header field that it corrects to standard error. This module has warnings of its own.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


# Invalid header values are detected by checks of the results. NumPy's warnings about them do not help the user.
@np.errstate(all="ignore")
def open_image(path: Path) -> tuple[nib.Nifti1Pair, list[str]]:
    """Opens a scan as a NIfTI image.

    The voxels are read later where the format allows it. The header keeps the file's unit of length; see ``affine_mm``.

    Returns:
        The image, and warnings about its header, one sentence each.

    Raises:
        InputError: the file is missing, empty, not readable or of an unknown format, or the package that reads the
            format is not installed.
    """
    check_kind(path)
    if path.is_dir():
        if not dicom.is_series(path):
            raise InputError(f"{printable(path)}: is a folder without DICOM slices; give a scan file or a DICOM folder")
        series = dicom.find_series(path)
        check_shape(series.shape, path)
        return dicom.read_series(series), list(series.notes)
    name = path.name.lower()
    with reading(path, _UNREADABLE):
        with path.open("rb") as content:
            start = content.read(dicom.START_BYTES)
        if dicom.is_dicom(start, needs_preamble=name.endswith(_PAIR)):
            raise InputError(f"{printable(path)}: is a DICOM file; give the folder that contains the series")
        if name.endswith(itk.SUFFIXES):
            return itk.read(path), []
        if name.endswith((*NIFTI, *_PAIR)):
            opened = _open_nifti(path)
            if opened is not None:
                image, repairs = opened
                check_shape(image.shape, path)
                return image, _warnings(image, repairs, path)
        other = _open_mgh(path) if name.endswith(_MGH) else nib.load(path)
        if not isinstance(other, SpatialImage):
            raise InputError(f"{printable(path)}: contains no volume; convert the scan to .nii.gz")
        check_shape(other.shape, path)
        return as_nifti(other, path)


def as_nifti(image: SpatialImage, path: Path) -> tuple[nib.Nifti1Pair, list[str]]:
    """An image of nibabel as NIfTI, with what ``open_image`` repairs in a header, and the same warnings.

    Args:
        image: of any format.
        path: its file, or a name for messages.
    """
    if isinstance(image, nib.Nifti1Pair):
        header = image.header.copy()
        if repairs := _repair_orientation(header):
            image = type(image)(image.dataobj, header.get_best_affine(), header)
        return image, _warnings(image, repairs, path)
    converted = nib.Nifti1Image.from_image(image)
    converted.header.set_xyzt_units("mm")
    # The Analyze header has no orientation. SPM stores it in a .mat file beside the image.
    if isinstance(image, AnalyzeImage) and not path.with_suffix(".mat").exists():
        warning = (
            f"{printable(path)}: the Analyze format does not store which side is left; the first axis is assumed to "
            "run from right to left"
        )
        return converted, [warning]
    return converted, []


def _warnings(image: nib.Nifti1Pair, repairs: Sequence[str], path: Path) -> list[str]:
    """Sentences for the user about a header, which begin with the name of the file."""
    warnings = (*repairs, *_unit_warnings(image), *_orientation_warnings(image))
    return [f"{printable(path)}: {warning}" for warning in warnings]


def stem(path: Path) -> str:
    """The name of a scan's file or folder without the suffix of its format."""
    for suffix in sorted(SCANS, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def files_of(scan: Path) -> list[Path]:
    """The files of a scan: those in the folder of a series, otherwise the file itself and that of its voxels.

    Hidden files and those that file managers leave in a folder do not count.

    Raises:
        OSError: the folder cannot be read.
    """
    if scan.is_dir():
        return sorted(file for file in scan.iterdir() if not _is_of_system(file) and file.is_file())
    beside = (scan.with_name(stem(scan) + suffix) for suffix in _VOXELS_BESIDE if scan.suffix.lower() in _HEADERS)
    return [scan, *(file for file in beside if file.is_file())]


def _is_of_system(file: Path) -> bool:
    return file.name.startswith(".") or file.name.lower() in ("thumbs.db", "desktop.ini")


def unit_of(image: nib.Nifti1Pair) -> str:
    """The unit of length of an image's voxel sizes and affine: "mm", "meter" or "micron".

    A header without a known unit is read in millimetres. Some tools write "meter" although the sizes are in
    millimetres. Metres and micrometres are therefore replaced if the resulting field of view is not plausible for a
    head and that of another unit is.
    """
    stated = _stated_unit(image)
    if stated == "mm" or _is_plausible(image, stated):
        return stated
    return next((unit for unit in _UNITS_MM if _is_plausible(image, unit)), stated)


def affine_mm(image: nib.Nifti1Pair) -> np.ndarray:
    """The (4, 4) affine from voxel indices to millimetres, converted from the header's unit."""
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _UNITS_MM[unit_of(image)]
    return affine


def field_mm(image: nib.Nifti1Pair, affine: np.ndarray) -> np.ndarray:
    """The three extents of the field of view in millimetres, in ascending order.

    Args:
        image: its first three axes are used.
        affine: (4, 4), voxel indices to millimetres.
    """
    return np.sort(np.linalg.norm(affine[:3, :3], axis=0) * image.shape[:3])


def corners(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """World coordinates of the centres of a grid's corner voxels, (8, 3)."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]])).reshape(3, -1).T
    return nib.affines.apply_affine(affine, ends)


def spans_space(affine: np.ndarray) -> bool:
    """Whether the three axes of a (4, 4) affine are finite, not zero, and not nearly in one plane."""
    axes = affine[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    # The determinant is compared with the voxel's size, so that axes that are nearly in one plane are refused too.
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(axes)) > 1e-3 * np.prod(sizes) > 0)


def _stated_unit(image: nib.Nifti1Pair) -> str:
    """The unit of length in the header; "mm" if it has none."""
    try:
        stated = image.header.get_xyzt_units()[0]
    except KeyError:  # The code is not defined in the NIfTI standard.
        stated = "unknown"
    return stated if stated in _UNITS_MM else "mm"


def _is_plausible(image: nib.Nifti1Pair, unit: str) -> bool:
    """Whether the field of view is plausible for a head if the header's sizes are in a unit."""
    if len(image.shape) < 3:
        return True
    extents = field_mm(image, image.affine * _UNITS_MM[unit])
    return bool(extents[1] >= SMALLEST_FIELD_MM and extents[2] <= LARGEST_FIELD_MM)


def _open_nifti(path: Path) -> tuple[nib.Nifti1Pair, list[str]] | None:
    """Opens a NIfTI file or pair of files; compression is detected from the content, not from the name.

    Returns:
        The image, and warnings about repaired header fields; None if the header is not a NIfTI header.
    """
    single = path.name.lower().endswith(NIFTI)
    image_file = header_file = path
    if not single:
        files = nib.Nifti1Pair.filespec_to_file_map(str(path))
        image_file, header_file = (Path(str(files[name].filename)) for name in ("image", "header"))
    for file in {image_file, header_file} - {path}:
        check_kind(file)
    with _opened(header_file) as content:
        start = content.read(nib.Nifti2Header.sizeof_hdr)
        content.seek(0)
        kinds = (nib.Nifti1Image, nib.Nifti2Image) if single else (nib.Nifti1Pair, nib.Nifti2Pair)
        kind = next((one for one in kinds if one.header_class.may_contain_header(start)), None)
        if kind is None:
            return None
        header = kind.header_class.from_fileobj(content)
    check_shape(header.get_data_shape(), path)
    repairs = [*_repair_scaling(header, path), *_repair_orientation(header)]
    image_class: Any = kind
    return image_class(_voxels(image_file, header), header.get_best_affine(), header), repairs


def _open_mgh(path: Path) -> Any:
    """Opens an MGH image; compression is detected from the content, not from the name."""
    if _is_gzip(path) == path.name.lower().endswith(".mgz"):
        return nib.load(path)
    with _opened(path) as content:
        kind: Any = nib.MGHImage
        header = kind.header_class.from_fileobj(content)
        check_shape(header.get_data_shape(), path)
        return kind(np.asanyarray(ArrayProxy(content, header)), header.get_affine(), header)


def _voxels(path: Path, header: nib.Nifti1Header) -> Any:
    """The voxels as a nibabel proxy, or as an array if the file's suffix does not match its compression.

    The array is needed because nibabel's proxy detects gzip by the suffix alone.
    """
    if _is_gzip(path) == path.name.lower().endswith(".gz"):
        return ArrayProxy(str(path), header)
    with _opened(path) as content:
        proxy = ArrayProxy(content, header)
        if header.get_slope_inter() in ((None, None), (1.0, 0.0)):
            return proxy.get_unscaled()
        return np.asarray(proxy, np.float32 if header.get_data_dtype().kind in "iu" else None)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a file for reading in binary mode; the content is decompressed if it is gzip."""
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as content:
        yield content


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(len(_GZIP)) == _GZIP


def _repair_scaling(header: nib.Nifti1Header, path: Path) -> list[str]:
    """Removes a scaling that is not a number from a header, and returns warnings.

    The values are then read as with a slope of 0, for which the NIfTI standard defines that there is no scaling.

    Raises:
        InputError: the scaling is infinite.
    """
    slope, offset = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isinf(slope) or (np.isinf(offset) and slope):
        raise InputError(
            f"{printable(path)}: the header's scaling (scl_slope, scl_inter) is infinite; set it to 1 and 0"
        )
    if np.isnan(slope) or np.isnan(offset):
        header["scl_slope"], header["scl_inter"] = np.nan, np.nan
        # Many tools write NaN if there is no scaling. Only a slope that would have changed the values needs a warning.
        if np.isfinite(slope) and slope not in (0, 1):
            return ["the header's scaling (scl_slope, scl_inter) is not a number; the values are read without scaling"]
    return []


def _repair_orientation(header: nib.Nifti1Header) -> list[str]:
    """Unsets an invalid sform or qform if the other one is valid, and returns warnings."""
    valid = {}
    for name in ("sform", "qform"):
        try:
            affine = getattr(header, f"get_{name}")()
            valid[name] = int(header[f"{name}_code"]) > 0 and spans_space(affine)
        except Exception:  # The quaternion of the qform is not a unit quaternion.
            valid[name] = False
    if valid["qform"] and header["sform_code"] > 0 and not valid["sform"]:
        header.set_sform(None, 0)
        return ["the sform is not a valid orientation; the qform is used"]
    if valid["sform"] and header["qform_code"] > 0 and not valid["qform"]:
        header["qform_code"] = 0
        return ["the qform is not a valid orientation; the sform is used"]
    return []


def _unit_warnings(image: nib.Nifti1Pair) -> Iterator[str]:
    stated, used = _stated_unit(image), unit_of(image)
    if stated != used:
        names = {"mm": "millimetres", "meter": "metres", "micron": "micrometres"}
        largest = field_mm(image, image.affine * _UNITS_MM[stated])[-1]
        yield (
            f"the header's unit is {names[stated]}, which gives a field of view of {format_length(largest)}; "
            f"the sizes are read as {names[used]}"
        )


def _orientation_warnings(image: nib.Nifti1Pair) -> Iterator[str]:
    if len(image.shape) < 3:
        return
    header = image.header
    (sform, sform_code), (qform, qform_code) = header.get_sform(coded=True), header.get_qform(coded=True)
    if sform_code == 0 and qform_code == 0:
        yield (
            "neither sform nor qform is set; the axes are assumed to run from right to left, posterior to anterior and "
            "inferior to superior"
        )
    if sform_code and qform_code and sform is not None and qform is not None:
        unit = _UNITS_MM[unit_of(image)]
        distance = np.linalg.norm(corners(sform, image.shape) - corners(qform, image.shape), axis=1).max() * unit
        if distance > 1.0:
            yield f"sform and qform differ by {distance:.0f} mm; the sform is used"


def format_length(millimetres: float) -> str:
    """A length as text, in metres, millimetres or micrometres."""
    if millimetres >= 1000:
        return f"{millimetres / 1000:.3g} m"
    return f"{millimetres:.3g} mm" if millimetres >= 1 else f"{millimetres * 1000:.3g} micrometres"
