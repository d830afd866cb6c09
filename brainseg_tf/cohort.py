"""Finding patients in a BraTS folder, and splitting them so that none stands on two sides."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.formats import NIFTI

GRADES = ("HGG", "LGG")
TRUTH = "seg"


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

    A patient without one of the modalities, or without segmentation, is left out and named in ``problems``. Files are
    not opened here.

    Raises:
        InputError: no folder, or no patient in it has all modalities.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds HGG/ and LGG/")
    grades = _grades(folder)
    places = [
        place for top in (folder, *(folder / g for g in GRADES)) if top.is_dir() for place in sorted(top.iterdir())
    ]
    patients, problems = [], []
    for place in places:
        if not place.is_dir() or place.name in GRADES:
            continue
        found = {kind: _find(place, kind) for kind in (*modalities, TRUTH)}
        files = {kind: file for kind, file in found.items() if file is not None}
        missing = [kind for kind in found if kind not in files]
        if not files:
            continue  # Not a patient's folder.
        if missing:
            problems.append(f"{place}: left out, no {' and no '.join(missing)}")
            continue
        truth = files.pop(TRUTH)
        grade = place.parent.name if place.parent.name in GRADES else grades.get(place.name)
        patients.append(Patient(place.name, grade, files, truth))
    if not patients:
        wanted = ", ".join((*modalities, TRUTH))
        raise InputError(
            f"{folder}: no patient with {wanted} in it; expected [HGG|LGG]/<id>/<id>_<modality>.nii.gz (BraTS 2019)"
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


def _find(place: Path, kind: str) -> Path | None:
    for suffix in NIFTI:
        file = place / f"{place.name}_{kind}{suffix}"
        if file.is_file():
            return file
    return None


def _grades(folder: Path) -> dict[str, str]:
    """Grades by patient from ``name_mapping.csv``, which BraTS puts beside the patients."""
    table = folder / "name_mapping.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    return {row.get("BraTS_2019_subject_ID") or "": row.get("Grade") or "" for row in rows}
