"""DICOM objects that refer to a series: what they need of its headers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.dicom_series import Series

if TYPE_CHECKING:
    from pydicom import Dataset

# Attributes of type 2: they must be present but can be empty (DICOM PS3.5, section 7.4). Anonymisers delete them.
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
# Attributes by which an object refers to a series, and their names in the standard.
_REFERENCES = {
    "FrameOfReferenceUID": "Frame of Reference UID",
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
    "SOPInstanceUID": "SOP Instance UID",
    "SOPClassUID": "SOP Class UID",
}


@dataclass(frozen=True)
class Referring:
    """A kind of DICOM object that refers to a series.

    Attributes:
        name: the kind, for error messages.
        option: the option that writes it.
    """

    name: str
    option: str

    @property
    def not_referable(self) -> str:
        """The error message about headers to which it cannot refer."""
        return (
            f"the headers are incomplete or invalid, so no {self.name} can refer to the series; leave out {self.option}"
        )


SEGMENTATION = Referring("DICOM segmentation", "--save-dicom-seg")
STRUCTURES = Referring("DICOM structure set", "--save-rtstruct")


def referable(series: Series, kind: Referring) -> "list[Dataset]":
    """The headers of a series, changed in place so that an object can refer to them.

    Attributes that are allowed to be empty are emptied if they are missing or invalid.

    Args:
        series: the series.
        kind: of the object.

    Raises:
        InputError: an identifier that the object refers to is missing, or differs between the slices.
    """
    for header in series.headers:
        _make_referable(header, series, kind)
    return list(series.headers)


def _make_referable(header: "Dataset", series: Series, kind: Referring) -> None:
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    if header.get("SpecificCharacterSet"):
        # highdicom does not know all valid character sets, and every text can be written in UTF-8.
        header.decode()
        header.SpecificCharacterSet = "ISO_IR 192"
    needed = f"which a {kind.name} needs; leave out {kind.option}"
    for keyword, name in _REFERENCES.items():
        if not header.get(keyword):
            raise InputError(f"{printable(series.folder)}: has no {name}, {needed}")
        shared = keyword not in ("SOPInstanceUID", "SOPClassUID")
        if shared and header.get(keyword) != series.headers[0].get(keyword):
            raise InputError(f"{printable(series.folder)}: the slices differ in their {name}, {needed}")
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
