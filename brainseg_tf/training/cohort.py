"""Finding patients in a BraTS folder, and splitting them so that none stands on two sides."""

import csv
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.formats import NIFTI

GRADES = ("HGG", "LGG")
TRUTH = "seg"
# Columns of name_mapping.csv.
_ID, _GRADE = "BraTS_2019_subject_ID", "Grade"


@dataclass(frozen=True)
class Patient:
    """One patient of a cohort.

    Attributes:
        name: the folder's name, for instance ``BraTS19_CBICA_ABM_1``.
        grade: ``HGG``, ``LGG`` or None.
        scans: a path for each modality asked for, in that order.
        truth: the segmentation (lesion: above 0).
    """

    name: str
    grade: str | None
    scans: Mapping[str, Path]
    truth: Path


@dataclass(frozen=True)
class Cohort:
    """The patients that are whole, by name, and a line about each that is not."""

    folder: Path
    patients: tuple[Patient, ...]
    problems: tuple[str, ...]

    def named(self, names: Sequence[str]) -> tuple[Patient, ...]:
        """The patients with these names that are there."""
        wanted = set(names)
        return tuple(patient for patient in self.patients if patient.name in wanted)


@dataclass(frozen=True)
class Split:
    """Names of the patients on each side."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def read_cohort(folder: Path, modalities: Sequence[str]) -> Cohort:
    """Finds patients in the BraTS 2019 layout, ``[HGG|LGG]/<id>/<id>_<modality>.nii[.gz]``.

    A patient without one of the modalities, or without segmentation, is left out and named in ``problems``. Hidden
    folders are passed over. Files are not opened here.

    Raises:
        InputError: no folder, no permission to look into it, no patient in it has all modalities, or a patient is in it
            twice and could come to stand on two sides of a split.
    """
    folder = Path(folder)
    if TRUTH in modalities:
        raise InputError(f"--modality {TRUTH}: is the ground truth; name scans, for instance flair")
    if not _is_folder(folder):
        raise InputError(f"{printable(folder)}: no such folder; give the folder that holds HGG/ and LGG/")
    grades, problems = _grades(folder)
    patients, places = [], []
    for place in _places(folder):
        try:
            files, missing = _scans_of(place, modalities)
        except OSError as error:
            problems.append(f"{printable(place)}: left out, cannot be read ({error.strerror}); check its permissions")
            continue
        if not files and not missing:
            continue  # Not a patient's folder.
        places.append(place)
        if missing:
            problems.append(f"{printable(place)}: left out, {' and '.join(missing)}")
            continue
        truth = files.pop(TRUTH)
        grade = place.parent.name if place.parent.name in GRADES else grades.get(place.name)
        patients.append(Patient(place.name, grade, files, truth))
    _check_ids(places)
    _check_files(patients)
    if not patients:
        wanted = ", ".join((*modalities, TRUTH))
        raise InputError(
            f"{printable(folder)}: no patient with {wanted} in it; expected [HGG|LGG]/<id>/<id>_<modality>.nii.gz "
            "(BraTS 2019)"
        )
    return Cohort(folder, tuple(sorted(patients, key=lambda patient: patient.name)), tuple(problems))


def split_patients(names: Sequence[str], validation: float, test: float, seed: int) -> Split:
    """Divides patients at random into sides for training, validation and testing.

    Args:
        names: all patients; their order does not matter.
        validation, test: shares of the patients, each at least one patient; none for testing if that share is 0.
        seed: the same seed gives the same split.

    Raises:
        InputError: too few patients for three sides.
    """
    if len(names) < 3:
        raise InputError(
            f"{len(names)} patients cannot be split into training, validation and test; at least 3 are needed"
        )
    order = list(np.random.default_rng(seed).permutation(sorted(names)))
    tests = max(1, round(test * len(names))) if test else 0
    validations = max(1, round(validation * len(names)))
    if tests + validations >= len(names):
        raise InputError("no patient is left for training; lower --validation-share or --test-share")
    parts = order[:tests], order[tests : tests + validations], order[tests + validations :]
    testing, validating, training = (tuple(sorted(str(name) for name in part)) for part in parts)
    return Split(training, validating, testing)


def _places(folder: Path) -> list[Path]:
    """The folders that may be patients', those of the grades among them."""
    places = []
    for top in (folder, *(folder / grade for grade in GRADES)):
        try:
            inside = sorted(top.iterdir()) if _is_folder(top) else []
        except OSError as error:
            raise _unreadable(top, error) from error
        places += [place for place in inside if not place.name.startswith(".") and place.name not in GRADES]
    return places


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError as error:
        raise _unreadable(place, error) from error


def _unreadable(place: Path, error: OSError) -> InputError:
    return InputError(f"{printable(place)}: cannot be read ({error.strerror}); check its permissions")


def _scans_of(place: Path, modalities: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """A patient's files by kind, and a few words about each kind that is missing; nothing of both: no patient.

    Raises:
        OSError: the folder cannot be read.
    """
    if not place.is_dir():
        return {}, []
    names = {file.name for file in place.iterdir()}
    found: dict[str, Path] = {}
    missing = []
    for kind in (*modalities, TRUTH):
        files = [place / name for suffix in NIFTI if (name := f"{place.name}_{kind}{suffix}") in names]
        there = [file for file in files if file.is_file()]
        if there:
            found[kind] = there[0]
        elif files and files[0].is_symlink():
            missing.append(f"{files[0].name} is a link to a file that is not there")
        else:
            missing.append(f"no {kind}")
    nothing = not found and all(words.startswith("no ") for words in missing)
    return ({}, []) if nothing else (found, missing)


def _check_ids(places: Iterable[Path]) -> None:
    """Refuses an id that two folders have.

    Case and Unicode's two ways to write an accent make no difference: a file system that keeps neither apart gives such
    ids to one patient when a cohort is copied.
    """
    seen: dict[str, Path] = {}
    for place in places:
        key = unicodedata.normalize("NFC", place.name).casefold()
        if key in seen:
            raise InputError(
                f"{printable(place)}: is the same patient as {printable(seen[key])}, and would be counted twice; "
                "remove or rename one of the two"
            )
        seen[key] = place


def _check_files(patients: Iterable[Patient]) -> None:
    """Refuses a file that two patients share, by a link."""
    seen: dict[tuple[int, int], tuple[Path, str]] = {}
    for patient in patients:
        for file in (*patient.scans.values(), patient.truth):
            status = file.stat()
            # Some network file systems number no files.
            if status.st_ino == 0:
                continue
            other, name = seen.setdefault((status.st_dev, status.st_ino), (file, patient.name))
            if name != patient.name:
                raise InputError(
                    f"{printable(file)}: is the same file as {printable(other)}, and would be counted twice; remove "
                    "one of the two patients"
                )


def _grades(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Grades by patient from ``name_mapping.csv``, which BraTS puts beside the patients, and what is wrong with it."""
    table = folder / "name_mapping.csv"
    try:
        if not table.is_file():
            return {}, []
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines, strict=True)
            if not {_ID, _GRADE} <= set(rows.fieldnames or ()):
                return {}, [f"{printable(table)}: has no columns {_ID} and {_GRADE}; the grades are not known"]
            return {row[_ID]: row[_GRADE] for row in rows if _is_whole(row, rows.line_num)}, []
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start}"
    except (ValueError, csv.Error) as error:
        reason = printable(error)
    raise InputError(f"{printable(table)}: cannot be read as a table ({reason}); repair it, or move it elsewhere")


def _is_whole(row: Mapping[str | None, str | None], line: int) -> bool:
    if None in row or None in row.values():
        raise ValueError(f"line {line} has another number of columns than the first")
    return row[_GRADE] in GRADES
