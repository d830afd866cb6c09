"""Search for patients in a BraTS folder, and split into training, validation and test patients."""

import csv
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import explain_csv_errors, printable
from brainseg_tf.images.formats import NIFTI

GRADES = ("HGG", "LGG")
TRUTH = "seg"
BRAIN_MASK = "brain"
# Columns of name_mapping.csv.
_ID, _GRADE = "BraTS_2019_subject_ID", "Grade"


@dataclass(frozen=True)
class Patient:
    """One patient of a cohort.

    Attributes:
        name: the folder's name, for instance ``BraTS19_CBICA_ABM_1``.
        grade: ``HGG``, ``LGG`` or None.
        scans: the path of each requested modality, in the requested order.
        truth: the path of the ground-truth segmentation; lesion voxels are above 0.
        brain: the path of the brain mask; None if there is none.
        cohort: name of the folder that the patient was found in.
    """

    name: str
    grade: str | None
    scans: Mapping[str, Path]
    truth: Path
    brain: Path | None = None
    cohort: str = ""

    @property
    def files(self) -> list[Path]:
        """All files of the patient."""
        return [*self.scans.values(), self.truth, *([self.brain] if self.brain else [])]


@dataclass(frozen=True)
class Cohort:
    """Patients of one or several folders.

    Attributes:
        folders: the folders that were searched.
        patients: the complete patients, sorted by name.
        problems: one line about each patient that is left out, and about a name mapping without grades.
    """

    folders: tuple[Path, ...]
    patients: tuple[Patient, ...]
    problems: tuple[str, ...]

    @property
    def title(self) -> str:
        """The folders, for messages."""
        return ", ".join(printable(folder) for folder in self.folders)

    def named(self, names: Sequence[str]) -> tuple[Patient, ...]:
        """The patients of the cohort that have one of these names."""
        wanted = set(names)
        return tuple(patient for patient in self.patients if patient.name in wanted)


@dataclass(frozen=True)
class Split:
    """Names of the training, validation and test patients."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def read_cohort(folders: Path | Sequence[Path], modalities: Sequence[str]) -> Cohort:
    """Finds patients in the BraTS 2019 layout, ``[HGG|LGG]/<id>/<id>_<modality>.nii[.gz]``.

    A patient without one of the modalities or without a segmentation is left out and named in ``problems``. Hidden
    folders are ignored. The scans are not opened. The brain mask ``<id>_brain.nii[.gz]`` is used if there is one.

    Args:
        folders: one or several folders.
        modalities: the modalities that each patient must have.

    Raises:
        InputError: a folder does not exist or cannot be read; no patient of a folder is complete; or a patient is
            contained twice, so that a split could use it for training and for testing.
    """
    if TRUTH in modalities:
        raise InputError(f"--modality {TRUTH}: is the ground truth, not a scan; give a scan, for instance flair")
    folders = (folders,) if isinstance(folders, Path) else tuple(folders)
    patients: list[Patient] = []
    patient_folders: list[Path] = []
    problems: list[str] = []
    for folder in folders:
        found, found_in, lines = _read_folder(folder, modalities)
        patients += found
        patient_folders += found_in
        problems += lines
        check_ids(patient_folders)
        _check_files(patients)
        if not found:
            wanted = ", ".join((*modalities, TRUTH))
            raise InputError(
                f"{printable(folder)}: no patient with {wanted} in it; expected [HGG|LGG]/<id>/<id>_<modality>.nii.gz "
                "(BraTS 2019)"
            )
    return Cohort(folders, tuple(sorted(patients, key=lambda patient: patient.name)), tuple(problems))


def _read_folder(folder: Path, modalities: Sequence[str]) -> tuple[list[Patient], list[Path], list[str]]:
    """The complete patients of a folder, the folders of all its patients, and lines about problems."""
    if not _is_folder(folder):
        raise InputError(f"{printable(folder)}: no such folder; give the folder that contains HGG/ and LGG/")
    grades, problems = _read_grades(folder)
    patients, patient_folders = [], []
    for candidate in _candidate_folders(folder):
        try:
            files, missing = _find_files(candidate, modalities)
        except OSError as error:
            problems.append(
                f"{printable(candidate)}: left out, cannot be read ({error.strerror}); check its permissions"
            )
            continue
        if not files and not missing:
            continue  # Not a patient's folder.
        patient_folders.append(candidate)
        if missing:
            problems.append(f"{printable(candidate)}: left out, {' and '.join(missing)}")
            continue
        truth, brain = files.pop(TRUTH), files.pop(BRAIN_MASK, None)
        grade = candidate.parent.name if candidate.parent.name in GRADES else grades.get(candidate.name)
        patients.append(Patient(candidate.name, grade, files, truth, brain, folder.resolve().name))
    return patients, patient_folders, problems


def split_patients(names: Sequence[str], validation: float, test: float, seed: int) -> Split:
    """Divides patients at random into training, validation and test patients.

    Args:
        names: all patients; their order does not matter.
        validation: share of the validation patients; there is at least one.
        test: share of the test patients; there is at least one, or none if the share is 0.
        seed: the same seed gives the same split.

    Raises:
        InputError: there are too few patients.
    """
    if len(names) < 3:
        raise InputError(
            f"{len(names)} patients cannot be split into training, validation and test; at least 3 are needed"
        )
    order = list(np.random.default_rng(seed).permutation(sorted(names)))
    tests = max(1, round(test * len(names))) if test else 0
    validations = max(1, round(validation * len(names)))
    if tests + validations >= len(names):
        raise InputError("no patient remains for training; lower --validation-share or --test-share")
    parts = order[:tests], order[tests : tests + validations], order[tests + validations :]
    testing, validating, training = (tuple(sorted(str(name) for name in part)) for part in parts)
    return Split(training, validating, testing)


def _candidate_folders(folder: Path) -> list[Path]:
    """The entries of the cohort's folder and of its grade folders."""
    candidates = []
    for parent in (folder, *(folder / grade for grade in GRADES)):
        try:
            entries = sorted(parent.iterdir()) if _is_folder(parent) else []
        except OSError as error:
            raise _unreadable(parent, error) from error
        candidates += [entry for entry in entries if not entry.name.startswith(".") and entry.name not in GRADES]
    return candidates


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{printable(path)}: cannot be read ({error.strerror}); check its permissions")


def _find_files(folder: Path, modalities: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Finds a patient's files.

    Returns:
        The files by modality, and a phrase about each missing file. Both are empty if this is not a patient's folder.

    Raises:
        OSError: the folder cannot be read.
    """
    if not folder.is_dir():
        return {}, []
    names = {file.name for file in folder.iterdir()}
    found: dict[str, Path] = {}
    missing = []
    for kind in (*modalities, TRUTH, BRAIN_MASK):
        files = [folder / name for suffix in NIFTI if (name := f"{folder.name}_{kind}{suffix}") in names]
        existing = [file for file in files if file.is_file()]
        if existing:
            found[kind] = existing[0]
        elif files and files[0].is_symlink():
            missing.append(f"{files[0].name} is a link to a file that does not exist")
        elif kind != BRAIN_MASK:
            missing.append(f"no {kind}")
    no_files = not found and all(phrase.startswith("no ") for phrase in missing)
    return ({}, []) if no_files else (found, missing)


def check_ids(folders: Iterable[Path]) -> None:
    """Checks that no two folders have the same patient id.

    Case and the Unicode form of accents are ignored: some file systems do not distinguish them, and copying a cohort
    there merges such patients.
    """
    seen: dict[str, Path] = {}
    for folder in folders:
        key = unicodedata.normalize("NFC", folder.name).casefold()
        if key in seen:
            raise InputError(
                f"{printable(folder)}: is the same patient as {printable(seen[key])}, and would be counted twice; "
                "remove or rename one of the two"
            )
        seen[key] = folder


def _check_files(patients: Iterable[Patient]) -> None:
    """Checks that no two patients share a file through a link."""
    seen: dict[tuple[int, int], tuple[Path, str]] = {}
    for patient in patients:
        for file in patient.files:
            status = file.stat()
            # Some network file systems have no inode numbers.
            if status.st_ino == 0:
                continue
            other, name = seen.setdefault((status.st_dev, status.st_ino), (file, patient.name))
            if name != patient.name:
                raise InputError(
                    f"{printable(file)}: is the same file as {printable(other)}, and would be counted twice; remove "
                    "one of the two patients"
                )


def _read_grades(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Grades by patient from the cohort's ``name_mapping.csv``, and lines about problems with that file.

    Raises:
        InputError: the file cannot be read.
    """
    table = folder / "name_mapping.csv"
    with explain_csv_errors(table, "cannot be read as a table", "repair it or remove it"):
        if not table.is_file():
            return {}, []
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines, strict=True)
            if not {_ID, _GRADE} <= set(rows.fieldnames or ()):
                return {}, [f"{printable(table)}: has no columns {_ID} and {_GRADE}; the grades are unknown"]
            return {row[_ID]: row[_GRADE] for row in rows if _has_known_grade(row, rows.line_num)}, []


def _has_known_grade(row: Mapping[str | None, str | None], line: int) -> bool:
    if None in row or None in row.values():
        raise ValueError(f"line {line} does not have the same number of columns as the first line")
    return row[_GRADE] in GRADES
