"""DICOM, by highdicom (the extra ``[formats]``): a folder with the slices of a series in, a segmentation object out."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.files import replacing

if TYPE_CHECKING:
    from pydicom import Dataset

_MAGIC, _PREAMBLE = b"DICM", 128


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files."""
    return any(_is_dicom(file) for file in sorted(folder.iterdir())[:50])


def read_series(folder: Path) -> nib.Nifti1Image:
    """The volume of a series, with its place in the world.

    Raises:
        InputError: highdicom is missing, a slice is damaged, there are several series, or no regular stack of slices.
    """
    import_highdicom(folder)
    from highdicom.image import get_volume_from_series

    slices = _read(folder, pixels=True)
    try:
        volume = get_volume_from_series(slices, dtype=np.float32)
    except (ValueError, AttributeError, RuntimeError, NotImplementedError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{folder}: its slices make no volume ({reason}); convert it with dcm2niix") from error
    image = nib.Nifti1Image(volume.array, volume.get_affine("RAS"))
    image.header.set_xyzt_units("mm")
    return image


def write_segmentation(path: Path, mask: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """Writes a mask as a DICOM segmentation object that refers to the series it is of.

    Args:
        path: ends in .dcm.
        mask: bool, on the grid of ``read_series``; ``affine``: of that.
        folder: the series. Patient and study are copied from it, as DICOM wants.

    Raises:
        InputError: the place cannot be written to, or as ``read_series``.
    """
    import_highdicom(folder)
    import highdicom as hd
    from pydicom.sr.codedict import codes

    slices = _read(folder, pixels=False)
    frame = slices[0].FrameOfReferenceUID
    volume = hd.Volume(mask.astype(np.uint8), affine, "PATIENT", frame, from_reference_convention="RAS")
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
    segmentation = hd.seg.Segmentation(
        slices,
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
    with replacing(path) as beside:
        segmentation.save_as(beside)


def import_highdicom(place: Path) -> None:
    """Refuses DICOM where its library is not installed.

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise InputError(f"{place}: DICOM needs highdicom; pip install 'brainseg-tf[formats]'")


def _is_dicom(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC


def _read(folder: Path, *, pixels: bool) -> "list[Dataset]":
    """The datasets of a folder's one series."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    slices: list[Dataset] = []
    for file in sorted(folder.iterdir()):
        if not _is_dicom(file):
            continue
        try:
            slices.append(dcmread(file, stop_before_pixels=not pixels))
        except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError, KeyError) as error:
            raise InputError(f"{file}: is damaged or cut off; export the series again") from error
    series = {one.get("SeriesInstanceUID") for one in slices}
    if len(series) != 1:
        raise InputError(f"{folder}: holds {len(series)} DICOM series; give each a folder of its own")
    return slices
