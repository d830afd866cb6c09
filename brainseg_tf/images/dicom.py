"""Reads folders of DICOM slices and writes DICOM segmentations, with highdicom (the extra ``[formats]``)."""

import io
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing
from brainseg_tf.images.dicom_files import EXPORT, START_BYTES, check_installed, is_dicom, is_series, silence
from brainseg_tf.images.dicom_headers import CONVERT, numbers_of, set_missing
from brainseg_tf.images.dicom_references import SEGMENTATION, referable
from brainseg_tf.images.dicom_series import Series, find_series, geometry_of
from brainseg_tf.images.readers import reading

if TYPE_CHECKING:
    from highdicom import Volume
    from highdicom.seg import Segmentation
    from pydicom import Dataset

__all__ = [
    "START_BYTES",
    "acquisition_date",
    "check_installed",
    "check_segmentation",
    "find_series",
    "is_dicom",
    "is_series",
    "read_series",
    "write_segmentation",
]


def read_series(series: Series) -> nib.Nifti1Image:
    """Reads the volume of a series as a NIfTI image in millimetres.

    Padding (Pixel Padding Value in the header) is replaced by 0, or by the smallest other value if that is negative.

    Args:
        series: the slices, from ``find_series``.

    Raises:
        InputError: the pixels of a slice are damaged or cannot be decoded, or the slices do not form a volume.
    """
    silence()
    slices = [_decoded(file) for file in series.files]
    with reading(series.folder, f"the slices do not form a volume; {CONVERT}"):
        volume = _volume(series, slices)
        array = np.asarray(volume.array, np.float32)
        affine = volume.get_affine("RAS")
        if series.is_multiframe:
            # Its frames can be stored in any order.
            padding = _padding(slices[0], _frames(slices[0], stored=True).array)
        else:
            padding = np.stack([_padding(one, one.pixel_array) for one in slices])
            padding = padding if _has_same_order(series, volume.get_affine("LPS")) else padding[::-1]
        _fill_padding(array, padding)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    return image


def acquisition_date(folder: Path) -> date | None:
    """The date of a series, from the first of the attributes that has one; None if none has.

    Args:
        folder: the series.

    Raises:
        InputError: as for ``find_series``.
    """
    header = find_series(folder).headers[0]
    for keyword in ("AcquisitionDate", "SeriesDate", "StudyDate"):
        # Anonymisers empty dates or replace them by other text.
        with suppress(ValueError):
            return datetime.strptime(str(header.get(keyword) or ""), "%Y%m%d").date()
    return None


def check_segmentation(folder: Path) -> None:
    """Checks that a DICOM segmentation of a series can be written; only the headers are read.

    Args:
        folder: the series.

    Raises:
        InputError: a segmentation cannot refer to the series, or as for ``find_series``.
    """
    series = find_series(folder)
    geometry = geometry_of(series)
    mask = np.zeros(series.shape, np.uint8)
    mask[0, 0, 0] = 1
    segmentation = _segmentation(series, mask, geometry.get_affine("RAS"))
    with reading(folder, SEGMENTATION.not_referable):
        segmentation.save_as(io.BytesIO())


def write_segmentation(path: Path, mask: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """Writes a mask as a DICOM segmentation that refers to its series.

    Args:
        path: the file, with the suffix .dcm.
        mask: (X, Y, Z) bool, on the grid of the image from ``read_series``.
        affine: (4, 4), of that image: voxel indices to millimetres in RAS world space.
        folder: the series. The attributes of patient and study are copied from it, as the standard requires. Attributes
            that an anonymiser removed are empty.

    Raises:
        InputError: the file cannot be written, or as for ``check_segmentation``.
    """
    series = find_series(folder)
    segmentation = _segmentation(series, mask, affine)
    with replacing(path) as temporary:
        segmentation.save_as(temporary)


def _decoded(file: Path) -> "Dataset":
    """Reads a file and decodes its pixels.

    Raises:
        InputError: the pixels are damaged or cannot be decoded.
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
                f"{printable(file)}: the pixels ({printable(syntax.name)}) cannot be decoded; pip install "
                "pylibjpeg[all], or decompress the series (for instance with gdcmconv --raw)"
            ) from error
        raise InputError(f"{printable(file)}: the pixels are damaged or cut off; {EXPORT}") from error
    return one


def _volume(series: Series, slices: "list[Dataset]") -> "Volume":
    """The slices as one volume, with the rescale slope and intercept applied and MONOCHROME1 inverted.

    A mapping to real-world values is not applied: it can hold for a part of the pixels only.
    """
    from highdicom.image import get_volume_from_series

    for one in slices:
        set_missing(one)
    if series.is_multiframe:
        return _frames(slices[0])
    for one in slices:
        # ``find_series`` has checked that these attributes agree apart from rounding. highdicom needs equal values.
        for keyword in ("FrameOfReferenceUID", "SeriesInstanceUID", "ImageOrientationPatient", "PixelSpacing"):
            setattr(one, keyword, getattr(slices[0], keyword))
    return get_volume_from_series(
        slices, dtype=np.float32, apply_real_world_transform=False, atol=series.step_mm / 2, perpendicular_tol=0.1
    )


def _frames(image: "Dataset", *, stored: bool = False) -> "Volume":
    """The frames of a multi-frame image as one volume: their values, or the stored numbers."""
    import highdicom as hd

    return hd.Image.from_dataset(image, copy=False).get_volume(
        dtype=np.float32,
        apply_real_world_transform=False,
        apply_modality_transform=False if stored else None,
        apply_presentation_lut=not stored,
    )


def _fill_padding(array: np.ndarray, padding: np.ndarray) -> None:
    """Replaces padding by 0, or by the smallest other value if that is negative.

    Args:
        array: (slices, rows, columns), changed in place.
        padding: (slices, rows, columns) bool.
    """
    if padding.any() and not padding.all():
        array[padding] = min(float(array[~padding].min()), 0.0)


def _padding(one: "Dataset", stored: np.ndarray) -> np.ndarray:
    """Mask of the pixels that a scanner filled with the padding value in the header; they have the stored numbers."""
    limits = [one.get("PixelPaddingValue"), one.get("PixelPaddingRangeLimit")]
    limits = [int(limit) for limit in limits if isinstance(limit, int | float)]
    if not limits:
        return np.zeros(stored.shape, bool)
    if int(one.get("PixelRepresentation") or 0) == 1:
        # The pixels are signed, but the padding value is often written as an unsigned number.
        half = 2 ** (int(one.BitsAllocated) - 1)
        limits = [limit - 2 * half if limit >= half else limit for limit in limits]
    return (stored >= min(limits)) & (stored <= max(limits))


def _has_same_order(series: Series, affine: np.ndarray) -> bool:
    """Whether the slices of a volume are in the order of the series, not in the opposite one.

    Args:
        series: of single slices.
        affine: (4, 4) of the volume, in DICOM's world space.
    """
    start = np.array(numbers_of(series.headers[0], "ImagePositionPatient", 3))
    ends = affine[:3, 3], affine[:3, 3] + affine[:3, 0] * (series.shape[0] - 1)
    return bool(np.linalg.norm(start - ends[0]) <= np.linalg.norm(start - ends[1]))


def _segmentation(series: Series, mask: np.ndarray, affine: np.ndarray) -> "Segmentation":
    import highdicom as hd
    from pydicom.sr.codedict import codes

    sources = referable(series, SEGMENTATION)
    with reading(series.folder, SEGMENTATION.not_referable):
        pixels: Any = mask.astype(np.uint8)
        if series.is_multiframe:
            frame = sources[0].FrameOfReferenceUID
            pixels = hd.Volume(pixels, affine, "PATIENT", frame, from_reference_convention="RAS")
        # Slice by slice each frame refers to its source, also if the positions are rounded or not quite regular.
        elif not _has_same_order(series, np.diag([-1, -1, 1, 1]) @ affine):
            pixels = pixels[::-1]
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
            pixels,
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
            # A segmentation must have at least one frame, so an empty mask is written with all its frames.
            omit_empty_frames=bool(mask.any()),
        )
