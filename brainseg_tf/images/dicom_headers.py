"""Values of attributes in the headers of DICOM slices."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

CONVERT = "convert it with dcm2niix"
# Attributes in which images at the same position can differ, and their names in error messages.
VARIANTS = {
    "EchoTime": "echo times",
    "EchoNumbers": "echoes",
    "ImageType": "image types",
    "InversionTime": "inversion times",
    "DiffusionBValue": "b-values",
    "TemporalPositionIdentifier": "time points",
    "TriggerTime": "trigger times",
    "AcquisitionNumber": "acquisitions",
}


def numbers_of(header: "Dataset", keyword: str, count: int) -> list[float] | None:
    """The values of a numeric attribute; None if it is missing or invalid.

    Args:
        header: of a slice.
        keyword: of the attribute.
        count: the number of values that it must have.
    """
    try:
        values = [float(value) for value in header.get(keyword)]
    except (TypeError, ValueError):
        return None
    valid = len(values) == count and np.isfinite(values).all() and (keyword != "PixelSpacing" or min(values) > 0)
    return values if valid and (count != 6 or _spans_plane(values)) else None


def _spans_plane(cosines: list[float]) -> bool:
    """Whether the direction cosines of rows and columns are roughly orthogonal unit vectors."""
    row, column = np.array(cosines).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    return bool(min(lengths) > 0.9 and max(lengths) < 1.1 and abs(row @ column) < 0.1)


def axes_of(header: "Dataset") -> np.ndarray:
    """The unit vectors along rows and columns, (2, 3)."""
    axes = np.array(numbers_of(header, "ImageOrientationPatient", 6)).reshape(2, 3)
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)


def words_of(value: Any) -> list[str]:
    """The values of an attribute as a list of strings in upper case, for an attribute of one or several values."""
    values = [value] if value is None or isinstance(value, str) or not hasattr(value, "__iter__") else value
    return [str(one).upper() for one in values if one is not None]


def frames_of(header: "Dataset") -> int:
    """The number of frames of an image."""
    return int(header.get("NumberOfFrames") or 1)


def set_missing(one: "Dataset") -> None:
    """Generates identifiers that are missing in a header, in place: highdicom needs them to build a volume."""
    from pydicom.uid import generate_uid

    for keyword in ("FrameOfReferenceUID", "SeriesInstanceUID"):
        if not one.get(keyword):
            setattr(one, keyword, generate_uid())
