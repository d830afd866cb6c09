"""DICOM, by highdicom (the extra ``[formats]``): a folder with the slices of a series in, a segmentation object out."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing
from brainseg_tf.images.dicom_files import EXPORT, START_BYTES, import_highdicom, is_dicom, is_series, silence
from brainseg_tf.images.dicom_series import CONVERT, Series, find_series, geometry_of, numbers_of, set_missing
from brainseg_tf.images.readers import reading

if TYPE_CHECKING:
    from highdicom import Volume
    from highdicom.seg import Segmentation
    from pydicom import Dataset

__all__ = [
    "START_BYTES",
    "check_segmentation",
    "find_series",
    "import_highdicom",
    "is_dicom",
    "is_series",
    "read_series",
    "write_segmentation",
]

# Attributes that DICOM demands but allows to be empty; anonymisers delete them.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_LEAVE_OUT = "leave out --save-dicom-seg"
_NOT_REFERABLE = f"its headers are incomplete or invalid, so that no DICOM segmentation can refer to it; {_LEAVE_OUT}"
# Attributes that a segmentation refers to its series by, and their names in the standard.
_REFERENCES = {
    "FrameOfReferenceUID": "Frame of Reference UID",
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
    "SOPInstanceUID": "SOP Instance UID",
    "SOPClassUID": "SOP Class UID",
}


def read_series(series: Series) -> nib.Nifti1Image:
    """The volume of a series, with its place in the world.

    Padding that the header names (Pixel Padding Value) becomes 0, or the smallest value if there are negative ones.

    Raises:
        InputError: the pixels of a slice are damaged, or no decoder for them is installed.
    """
    silence()
    slices = [_decoded(file) for file in series.files]
    with reading(series.folder, f"its slices make no volume; {CONVERT}"):
        volume = _volume(series, slices)
        array = np.asarray(volume.array, np.float32)
        affine = volume.get_affine("RAS")
        # The frames of a multi-frame image need not be in the order of their places.
        if not series.is_multiframe:
            _fill_padding(array, np.stack([_padding(one) for one in slices]), _runs_along(series, volume))
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    return image


def check_segmentation(folder: Path) -> None:
    """Refuses a series of which no segmentation object can be written, before any work; reads no pixels.

    Raises:
        InputError: a segmentation could not refer to it, or as ``find_series``.
    """
    series = find_series(folder)
    geometry = geometry_of(series)
    mask = np.zeros(series.shape, np.uint8)
    mask[0, 0, 0] = 1
    segmentation = _segmentation(series, mask, geometry.get_affine("RAS"))
    with reading(folder, _NOT_REFERABLE):
        segmentation.save_as(io.BytesIO())


def write_segmentation(path: Path, mask: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """Writes a mask as a DICOM segmentation object that refers to the series it is of.

    Args:
        path: ends in .dcm.
        mask: bool, on the grid of ``read_series``; ``affine``: of that.
        folder: the series. Patient and study are copied from it, as DICOM wants. What an anonymiser removed of them
            stays empty.

    Raises:
        InputError: the place cannot be written to, or as ``check_segmentation``.
    """
    series = find_series(folder)
    segmentation = _segmentation(series, mask, affine)
    with replacing(path) as beside:
        segmentation.save_as(beside)


def _decoded(file: Path) -> "Dataset":
    """A data set whose pixels are decoded.

    Raises:
        InputError: they are damaged, or no decoder is installed.
    """
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = None
    try:
        one = dcmread(file, force=True)
        if "TransferSyntaxUID" not in one.file_meta:
            implicit, little = one.original_encoding
            explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        syntax = one.file_meta.TransferSyntaxUID
        _ = one.pixel_array
    except MemoryError:
        raise
    except PermissionError as error:
        raise InputError(f"{printable(file)}: no permission to read it; change its permissions") from error
    except Exception as error:
        if syntax is not None and syntax.is_compressed and syntax.is_encapsulated:
            raise InputError(
                f"{printable(file)}: its pixels ({printable(syntax.name)}) cannot be decoded here; pip install "
                "pylibjpeg[all], or decompress the series (for instance with gdcmconv --raw)"
            ) from error
        raise InputError(f"{printable(file)}: its pixels are damaged or cut off; {EXPORT}") from error
    return one


def _volume(series: Series, slices: "list[Dataset]") -> "Volume":
    """The slices as one array of true values: rescaled, MONOCHROME1 turned about."""
    import highdicom as hd
    from highdicom.image import get_volume_from_series

    for one in slices:
        set_missing(one)
    if series.is_multiframe:
        return hd.Image.from_dataset(slices[0], copy=False).get_volume(dtype=np.float32)
    for one in slices:
        # ``find_series`` has found them alike; what is left is rounding.
        for keyword in ("FrameOfReferenceUID", "SeriesInstanceUID", "ImageOrientationPatient", "PixelSpacing"):
            setattr(one, keyword, getattr(slices[0], keyword))
    return get_volume_from_series(slices, dtype=np.float32, atol=series.step_mm / 2, perpendicular_tol=0.1)


def _fill_padding(array: np.ndarray, padding: np.ndarray, along: bool) -> None:
    """Replaces padding by 0, or by the smallest other value if that is negative.

    Args:
        array: (slices, rows, columns), changed in place.
        padding: bool, of that shape.
        along: whether the slices of both are in the same order, not in the opposite one.
    """
    padding = padding if along else padding[::-1]
    if padding.any() and not padding.all():
        array[padding] = min(float(array[~padding].min()), 0.0)


def _padding(one: "Dataset") -> np.ndarray:
    """(rows, columns) bool: where a scanner filled up a slice with a value that its header names."""
    stored = one.pixel_array
    ends = [one.get("PixelPaddingValue"), one.get("PixelPaddingRangeLimit")]
    ends = [int(end) for end in ends if isinstance(end, int | float)]
    if not ends:
        return np.zeros(stored.shape, bool)
    if int(one.get("PixelRepresentation") or 0) == 1:  # signed, but often written as if not
        half = 2 ** (int(one.BitsAllocated) - 1)
        ends = [end - 2 * half if end >= half else end for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def _runs_along(series: Series, volume: "Volume") -> bool:
    """Whether a volume runs from the series' first slice to its last, not back."""
    start = np.array(numbers_of(series.headers[0], "ImagePositionPatient", 3))
    affine = volume.get_affine("LPS")
    ends = affine[:3, 3], affine[:3, 3] + affine[:3, 0] * (series.shape[0] - 1)
    return bool(np.linalg.norm(start - ends[0]) <= np.linalg.norm(start - ends[1]))


def _segmentation(series: Series, mask: np.ndarray, affine: np.ndarray) -> "Segmentation":
    import highdicom as hd
    from pydicom.sr.codedict import codes

    sources = [_referable(series, header) for header in series.headers]
    with reading(series.folder, _NOT_REFERABLE):
        volume = hd.Volume(
            mask.astype(np.uint8), affine, "PATIENT", sources[0].FrameOfReferenceUID, from_reference_convention="RAS"
        )
        segment = hd.seg.SegmentDescription(
            segment_number=1,
            segment_label="Lesion",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type="AUTOMATIC",
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name="brainseg-tf", family=codes.DCM.ArtificialIntelligence, version=__version__
            ),
        )
        return hd.seg.Segmentation(
            sources,
            volume,
            "BINARY",
            [segment],
            series_instance_uid=hd.UID(),
            series_number=9000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="brainseg-tf",
            manufacturer_model_name="brainseg-tf",
            software_versions=__version__,
            device_serial_number="0",
            content_description="Lesions, for research only",
            # A mask without a lesion has frames too, all empty.
            omit_empty_frames=bool(mask.any()),
        )


def _referable(series: Series, header: "Dataset") -> "Dataset":
    """Makes a header, in place, fit to be a segmentation's source: what may be empty is so if missing or invalid.

    Raises:
        InputError: what a segmentation refers to is missing.
    """
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    original = series.headers[0]
    for keyword, name in _REFERENCES.items():
        if not header.get(keyword):
            raise InputError(
                f"{printable(series.folder)}: has no {name}, which a DICOM segmentation refers to; {_LEAVE_OUT}"
            )
        shared = keyword not in ("SOPInstanceUID", "SOPClassUID")
        if shared and header.get(keyword) != original.get(keyword):
            raise InputError(
                f"{printable(series.folder)}: its slices differ in their {name}, which a DICOM segmentation refers to; "
                f"{_LEAVE_OUT}"
            )
    for keyword in _MAY_BE_EMPTY:
        value = header.get(keyword)
        try:
            if value is None:
                raise ValueError("missing")
            validate_value(header[keyword].VR, value, RAISE)
            if keyword == "PatientSex" and value not in ("", "M", "F", "O"):
                raise ValueError("no such sex")
        except Exception:
            setattr(header, keyword, "")
    if not header.get("Modality"):
        header.Modality = "OT"
    return header
