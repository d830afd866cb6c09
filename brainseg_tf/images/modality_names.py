"""What the file name or the series description of a scan says: its modality, subject and session."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import dropwhile
from pathlib import Path

from brainseg_tf.files import is_folder
from brainseg_tf.images.dicom_files import series_description
from brainseg_tf.images.formats import NIFTI, stem

# Parts that skull-stripping tools append to a file name.
_STRIPPED = {"brain", "bet", "stripped"}
# Parts of file names in BraTS, BIDS and scanner exports, and their modalities.
_MODALITIES = {
    "flair": "flair",
    "t2f": "flair",
    "t1": "t1",
    "t1w": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t1gd": "t1ce",
    "t1n": "t1",
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
# Words of series descriptions only. Siemens names FLAIR after the sequence, a turbo inversion recovery (TIRM).
_DESCRIBED = _MODALITIES | {
    **{"tirm": "flair", "tof": "angio"},
    **{"trace": "dwi", "tracew": "dwi", "diff": "dwi", "diffusion": "dwi", "eadc": "adc", "dadc": "adc"},
}
# Siemens abbreviates dark fluid, which is FLAIR, in several ways.
_DARK_FLUID = re.compile(r"da(rk)?[-_ ]?fl(uid)?(?![a-z])")
_CONTRAST_AGENT = {"gd", "gad", "gado", "km", "ce", "post", "contrast"}
_GRADIENT_ECHO = {"gre", "hemo", "fl2d", "medic"}
_NO_CONTRAST_AGENT = {"pre", "without", "no", "non", "native", "nativ", "ohne", "vor", "op", "surgery"}

# Names that dcm2niix gives by default: folder, series description, date and time, number of the series, variant.
_CONVERTED = re.compile(r"[^_]+_(.*)_\d{14}_\d+[a-z]*(_.*)?")
# ``T2_to_FLAIR`` is a T2 image.
_REGISTERED = {"to", "in", "on", "reg", "2"}

_BIDS_SUFFIXES = {"flair": "FLAIR", "t1": "T1w", "t2": "T2w", "pd": "PDw"}


def bids_suffix(modality: str) -> str:
    """The suffix of BIDS files of a modality, for instance ``T2w``; others are their own suffix."""
    return _BIDS_SUFFIXES.get(modality, modality)


def known_modality(word: str) -> str | None:
    """The modality that a word stands for, for instance ``t2`` for ``T2w``; None if it is not known."""
    return _MODALITIES.get(word.strip().lower())


def modality_name(word: str) -> str:
    """The name of the modality that a user means, for instance ``t2`` for ``T2`` or ``T2w``; in lower case."""
    return known_modality(word) or word.strip().lower()


def named(names: Iterable[str], subject: str, kind: str) -> list[str]:
    """Those of some file names that are ``<subject>_<kind>.nii[.gz]``, or with ``-``; the exact name is the first.

    Args:
        names: of the files.
        subject: at the beginning of the name.
        kind: a modality, which can have any of its names (``T2``, ``T2w``), or another word.
    """
    starts = (f"{subject}_", f"{subject}-")  # The second one since BraTS 2023.
    words = {
        name: stem(Path(name))[len(subject) + 1 :]
        for name in names
        if name.startswith(starts) and name.lower().endswith(NIFTI)
    }
    found = (name for name, word in words.items() if modality_name(word) == kind)
    return sorted(found, key=lambda name: (words[name] != kind, name))


def without_modality(scan: Path) -> str:
    """The name of a scan without its suffix, its modality and what skull-stripping tools append."""
    name = stem(scan)
    while True:
        closed = _cut(name, _separates)
        before = _cut(word := _cut(closed, _closes), _in_word)
        last = word[len(before) :]
        if not before or not (last.lower() in _STRIPPED or known_modality(last)):
            return name
        # ``HbS+_flair`` is not of ``HbS``, but ``a+flair`` is of ``a``.
        name = _cut(before, _separates_usually)
        if name == before:
            name = _cut(before, _separates)


def _cut(text: str, ending: Callable[[str], bool]) -> str:
    """The text without the characters of a kind at its end."""
    return "".join(dropwhile(ending, reversed(text)))[::-1]


def _in_word(character: str) -> bool:
    """Whether a character is a letter, digit or mark of any alphabet.

    Marks are accents and vowel signs that are characters of their own. Invisible joiners and bytes that are not UTF-8
    are in a word too.
    """
    return character.isalnum() or (unicodedata.category(character)[0] in "MC" and not character.isspace())


def _closes(character: str) -> bool:
    """Whether a character is a bracket or quotation mark behind a word, which belongs to the word."""
    return unicodedata.category(character) in ("Pe", "Pf")


def _separates(character: str) -> bool:
    return not (_in_word(character) or _closes(character))


def _separates_usually(character: str) -> bool:
    return character in "_.-" or character.isspace() or unicodedata.category(character) in ("Ps", "Pi")


def subject_and_session(name: str) -> tuple[str, str]:
    """The BIDS entities of subject and session in a name, for instance ``sub-01`` and ``ses-1``; empty without them."""
    found = (re.search(rf"(?:^|_)({entity}-[A-Za-z0-9]+)", name) for entity in ("sub", "ses"))
    subject, session = (one[1] if one else "" for one in found)
    return subject, session


def other_modality(scan: Path, expected: str) -> str | None:
    """The modality of a scan according to its name or its series description, if it is not the expected one.

    Args:
        scan: the file or folder of the scan.
        expected: the modality of the model.

    Returns:
        The other modality; None if the name contains the expected modality, or nothing says what it is.
    """
    if expected in named_modalities(scan) and not _description(scan):
        return None
    other = last_modality(scan)
    return None if other == expected else other


def named_modalities(scan: Path) -> list[str]:
    """The modalities that a scan's name has anywhere. ``T2_FLAIR`` and ``T2_TRA_FLAIR`` are FLAIR and not T2."""
    parts = name_parts(scan)
    kinds = [known_modality(part) for part in parts]
    found = []
    for number, kind in enumerate(kinds):
        later = parts[number : kinds.index("flair", number)] if "flair" in kinds[number:] else []
        if kind and not (kind == "t2" and later and not _REGISTERED & set(later)):
            found.append(kind)
    return found


def last_modality(scan: Path) -> str | None:
    """The modality at the end of a scan's name, otherwise that of a DICOM series by its description.

    Only the last part of the name is used: ``PD_07`` can be a patient with Parkinson's disease, not a proton density
    image. The default names of dcm2niix have the series description before date and number.

    Returns:
        The modality; None if neither says it.
    """
    last = next((part for part in reversed(name_parts(scan)) if part not in _STRIPPED), "")
    if found := known_modality(last):
        return found
    return described_modality(series_description(scan) if is_folder(scan) else _description(scan))


def _description(scan: Path) -> str:
    """The series description in a name that dcm2niix gave; empty for other names."""
    converted = None if is_folder(scan) else _CONVERTED.fullmatch(stem(scan))
    return converted[1] if converted else ""


def evidence(scan: Path) -> str:
    """What ``last_modality`` uses, for messages."""
    return "name or series description" if is_folder(scan) else "name"


def described_modality(description: str) -> str | None:
    """The modality that a series description names anywhere, for instance ``flair`` for ``t2_tirm_tra_dark-fluid``.

    Args:
        description: as the scanner or its operator wrote it.

    Returns:
        The modality; None if the text names none or several, as that of a double echo does (``PD+T2``).
    """
    text = description.lower().replace("_", " ").replace("t2*", "t2star")
    text = _DARK_FLUID.sub(" flair ", text).replace("flair", " flair ")
    text = re.sub(r"\+ ?c\b|\bc\+", " gd ", text).replace("w/o", "without")
    words = [word for word in re.split(r"[^a-z0-9]+", text) if word]
    found = [_DESCRIBED[word] for word in words if word in _DESCRIBED]
    kinds = set(found)
    if {"t1", "flair"} <= kinds:
        if found.index("flair") < found.index("t1"):
            return None  # FLAIR that was registered to T1, or the reverse.
        kinds.discard("flair")  # T1 FLAIR has the contrast of T1: only T2 FLAIR is what is called FLAIR.
    for also_has_another in ("flair", "adc"):  # ``T2 FLAIR``, ``DWI ADC``
        if also_has_another in kinds:
            return also_has_another
    if kinds == {"t1"}:
        return "t1ce" if _CONTRAST_AGENT & set(words) and not _NO_CONTRAST_AGENT & set(words) else "t1"
    if kinds == {"t2"} and _GRADIENT_ECHO & set(words):
        return "t2*"
    return kinds.pop() if len(kinds) == 1 else None


def name_parts(scan: Path) -> list[str]:
    """The words of a scan's name without its suffix, in lower case; those of other alphabets are empty."""
    name = _cut(_cut(stem(scan), _separates), _closes)
    return re.split(r"[^a-z0-9]+", name.lower())
