"""The modality that a scan's file name tells."""

import re
from pathlib import Path

from brainseg_tf.images.formats import stem

# What tools for skull stripping add to the end of a name.
_STRIPPED = {"brain", "bet", "stripped"}
# Parts of a file's name, as BraTS, BIDS and scanners write them, and the modality that they mean.
_MODALITIES = {
    "flair": "flair",
    "t1": "t1",
    "t1w": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t1gd": "t1ce",
    "t2": "t2",
    "t2w": "t2",
    "t2star": "t2*",
    "t2starw": "t2*",
    "pd": "pd",
    "pdw": "pd",
    "dwi": "dwi",
    "adc": "adc",
    "swi": "swi",
    "bold": "bold",
    "asl": "asl",
    "angio": "angio",
}


def other_modality(scan: Path, expected: str) -> str | None:
    """The modality that a scan's name ends with, if it is another than the expected one and names that nowhere.

    Only the end counts: ``PD_07`` is a patient with Parkinson's disease, not a proton density image.
    """
    parts = re.split(r"[^a-z0-9]+", stem(scan).lower())
    if expected in (_MODALITIES.get(part) for part in parts):
        return None
    last = next((part for part in reversed(parts) if part not in _STRIPPED), "")
    return _MODALITIES.get(last)
