"""Writes lesions as a DICOM RT structure set (RTSTRUCT): closed polygons in the slices of the series.

No library for it is used: rt-utils, the known one, has had no release since 2023 and needs OpenCV, and highdicom has no
structure sets. It has the modules that all DICOM objects share.
"""

import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainseg_tf import __version__
from brainseg_tf.files import replacing
from brainseg_tf.images.contours import outlines
from brainseg_tf.images.dicom_references import STRUCTURES, referable
from brainseg_tf.images.dicom_series import Series, find_series, geometry_of
from brainseg_tf.images.labels import Label
from brainseg_tf.images.readers import reading

if TYPE_CHECKING:
    from pydicom import Dataset

# Retired, but PS3.3, section C.8.8.5 has no other class for the reference to the study.
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
# From nibabel's world space (right, anterior, superior) to that of DICOM (left, posterior, superior).
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_structures(folder: Path) -> None:
    """Checks that a structure set of a series can be written; only the headers are read.

    Args:
        folder: the series.

    Raises:
        InputError: a structure set cannot refer to the series, or as for ``find_series``.
    """
    series = find_series(folder)
    affine = geometry_of(series).get_affine("RAS")
    numbers = np.zeros(series.shape, np.uint8)
    numbers[0, 0, 0] = 1
    structures = _structure_set(series, numbers, [Label(1, "test", (0, 0, 0))], affine)
    with reading(folder, STRUCTURES.not_referable):
        structures.save_as(io.BytesIO())


def write_structures(
    path: Path, numbers: np.ndarray, labels: Sequence[Label], affine: np.ndarray, folder: Path
) -> None:
    """Writes the regions of a label map as a structure set with one ROI per label.

    The attributes of patient and study are copied from the series. Without labels, there is one ROI without contours.

    Args:
        path: the file, with the suffix .dcm.
        numbers: (X, Y, Z) integers, on the grid of the image from ``dicom.read_series``.
        labels: the values of ``numbers``; they become the numbers of the ROIs.
        affine: (4, 4), of that image: voxel indices to millimetres in RAS world space.
        folder: the series.

    Raises:
        InputError: the file cannot be written, or as for ``check_structures``.
    """
    structures = _structure_set(find_series(folder), numbers, labels, affine)
    with replacing(path) as temporary:
        structures.save_as(temporary)


def _structure_set(series: Series, numbers: np.ndarray, labels: Sequence[Label], affine: np.ndarray) -> "Dataset":
    from highdicom import UID
    from highdicom.base import SOPClass
    from pydicom.uid import RTStructureSetStorage

    sources = referable(series, STRUCTURES)
    first, to_lps = sources[0], _RAS_TO_LPS @ affine
    labels = labels or [Label(1, "no lesion", (255, 255, 255))]
    with reading(series.folder, STRUCTURES.not_referable):
        images = _images(series, to_lps)
        # The implicit transfer syntax is the default: the explicit ones limit a contour to 64 KiB.
        written = SOPClass(
            study_instance_uid=first.StudyInstanceUID,
            series_instance_uid=UID(),
            series_number=9001,
            sop_instance_uid=UID(),
            sop_class_uid=RTStructureSetStorage,
            instance_number=1,
            modality="RTSTRUCT",
            manufacturer="brainseg-tf",
            manufacturer_model_name="brainseg-tf",
            software_versions=__version__,
            device_serial_number="0",
            series_description="Lesions, for research only",
            specific_character_set=first.get("SpecificCharacterSet"),
        )
        written.copy_patient_and_study_information(first)
        now = datetime.now()
        frame = first.FrameOfReferenceUID
        modules = _item(
            OperatorsName="",
            FrameOfReferenceUID=frame,
            PositionReferenceIndicator=first.get("PositionReferenceIndicator") or "",
            ApprovalStatus="UNAPPROVED",
            StructureSetLabel="Lesions",
            StructureSetName="Lesions, for research only",
            StructureSetDate=now.strftime("%Y%m%d"),
            StructureSetTime=now.strftime("%H%M%S"),
            ReferencedFrameOfReferenceSequence=[_referenced(first, [image for image, _ in images.values()])],
            StructureSetROISequence=[
                _item(
                    ROINumber=one.value,
                    ReferencedFrameOfReferenceUID=frame,
                    ROIName=one.name,
                    ROIGenerationAlgorithm="AUTOMATIC",
                )
                for one in labels
            ],
            ROIContourSequence=[_contours(one, numbers, to_lps, images) for one in labels],
            RTROIObservationsSequence=[
                # The type is empty: none of the defined terms means a lesion that is no target of a treatment.
                _item(
                    ObservationNumber=one.value,
                    ReferencedROINumber=one.value,
                    RTROIInterpretedType="",
                    ROIInterpreter="",
                )
                for one in labels
            ],
        )
        written.update(modules)
    return written


def _images(series: Series, to_lps: np.ndarray) -> "dict[int, tuple[Dataset, np.ndarray]]":
    """References to the slices, and their positions (3,) in millimetres, by their index in the volume.

    Args:
        series: the slices, or one image with several frames.
        to_lps: (4, 4), indices in the volume to millimetres in DICOM's world space.
    """
    from_lps = np.linalg.inv(to_lps)
    found = {}
    for header in series.headers:
        reference = {"ReferencedSOPClassUID": header.SOPClassUID, "ReferencedSOPInstanceUID": header.SOPInstanceUID}
        if series.is_multiframe:
            groups = header.PerFrameFunctionalGroupsSequence
            planes = [
                (one.PlanePositionSequence[0], {"ReferencedFrameNumber": number})
                for number, one in enumerate(groups, start=1)
            ]
        else:
            planes = [(header, {})]
        for plane, in_file in planes:
            position = np.array([float(number) for number in plane.ImagePositionPatient])
            index = round(float((from_lps @ [*position, 1])[0]))
            found[index] = _item(**reference, **in_file), position
    return found


def _referenced(header: "Dataset", images: "list[Dataset]") -> "Dataset":
    """The reference to the frame of reference, the study, the series and its images."""
    series = _item(SeriesInstanceUID=header.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=header.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _contours(
    one: Label, numbers: np.ndarray, to_lps: np.ndarray, images: "dict[int, tuple[Dataset, np.ndarray]]"
) -> "Dataset":
    """The contours of a label, in the order of the slices, each in the plane of its slice."""
    normal = np.cross(to_lps[:3, 1], to_lps[:3, 2])
    normal /= np.linalg.norm(normal)
    contours = []
    for index, polygon in _polygons(numbers == one.value, to_lps):
        image, position = images[index]
        # The positions of slices can be rounded or not quite regular.
        points = polygon + ((position - polygon) @ normal)[:, None] * normal
        contours.append(
            _item(
                ContourImageSequence=[image],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{number:.3f}" for number in points.ravel()],
            )
        )
    roi = _item(ReferencedROINumber=one.value, ROIDisplayColor=list(one.colour))
    if contours:
        roi.ContourSequence = contours
    return roi


def _polygons(mask: np.ndarray, to_lps: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The index of the slice, and the vertices (N, 3) in millimetres, of each polygon."""
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        for polygon in outlines(mask[index]):
            indices = np.column_stack([np.full(len(polygon), index), polygon])
            yield int(index), indices @ to_lps[:3, :3].T + to_lps[:3, 3]


def _item(**attributes: Any) -> "Dataset":
    from pydicom import Dataset

    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
