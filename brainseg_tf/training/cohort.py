"""The scans of a cohort, and their split into training, validation and test scans by subject."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import folded, printable
from brainseg_tf.options import Labels
from brainseg_tf.schema import LONGEST_TEXT
from brainseg_tf.training.layouts import SIDES, TRUTH, Candidate, search

# Characters of a patient's name with which the name of a file in a cache begins.
CACHED_NAME = 50


@dataclass(frozen=True)
class Patient:
    """One examination of a patient or a healthy subject.

    Attributes:
        name: unique in the cohort; in the BraTS layout the folder's name, for instance ``BraTS19_CBICA_ABM_1``.
        grade: ``HGG``, ``LGG`` or None.
        scans: the path of each requested modality, in the requested order.
        truth: the path of the ground-truth segmentation; lesion voxels are above 0. None if there is none, or if it
            is not used.
        brain: the path of the brain mask; None if there is none.
        cohort: name of the folder or table that the patient was found in, with its path if another has the same name.
        subject: the same for all examinations of one person.
        side: the side of the split that a table demands, one of ``layouts.SIDES``; None if it does not.
    """

    name: str
    grade: str | None
    scans: Mapping[str, Path]
    truth: Path | None
    brain: Path | None = None
    cohort: str = ""
    subject: str = ""
    side: str | None = None

    @property
    def files(self) -> list[Path]:
        """All files of the patient."""
        return [*self.scans.values(), *(file for file in (self.truth, self.brain) if file)]


@dataclass(frozen=True)
class Split:
    """Names of the training, validation and test patients."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Cohort:
    """Patients of one or several folders.

    Attributes:
        folders: the folders and tables that were searched.
        patients: the complete patients, sorted by name.
        problems: one line about each patient that is left out, and about a name mapping without grades.
        labels: what is known of the patients, see ``FitOptions.labels``.
    """

    folders: tuple[Path, ...]
    patients: tuple[Patient, ...]
    problems: tuple[str, ...]
    labels: Labels

    @property
    def title(self) -> str:
        """The folders, for messages."""
        return ", ".join(printable(folder) for folder in self.folders)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the folders and tables, see ``Patient.cohort``."""
        return _names_of(self.folders)

    def named(self, names: Sequence[str]) -> tuple[Patient, ...]:
        """The patients of the cohort that have one of these names."""
        wanted = set(names)
        return tuple(patient for patient in self.patients if patient.name in wanted)

    def subjects(self, names: Sequence[str]) -> list[str]:
        """The subjects of the patients with these names, sorted."""
        return sorted({patient.subject for patient in self.named(names)})

    def of_subjects(self, split: Split, names: Sequence[str]) -> Split:
        """The split of patients that belongs to a split of subjects.

        Args:
            split: of subjects.
            names: of the patients.
        """
        patients = self.named(names)
        sides = (
            tuple(patient.name for patient in patients if patient.subject in set(side))
            for side in (split.train, split.validation, split.test)
        )
        return Split(*sides)

    def demanded_split(self, names: Sequence[str]) -> Split | None:
        """The split that the tables demand; None if they demand none.

        Args:
            names: of the patients.

        Raises:
            InputError: only some of the patients have a side, or a subject has two, or a side is missing.
        """
        patients = self.named(names)
        demanded = [patient for patient in patients if patient.side]
        if not demanded:
            return None
        remedy = "complete the column split, or leave it out"
        if len(demanded) < len(patients):
            missing = next(patient for patient in patients if not patient.side)
            raise InputError(f"{self.title}: has a column split, but {missing.name} has no value in it; {remedy}")
        sides: dict[str, str] = {}
        for patient in patients:
            if sides.setdefault(patient.subject, str(patient.side)) != patient.side:
                raise InputError(f"{self.title}: subject {patient.subject} is on two sides of the split; {remedy}")
        names_of = {side: tuple(one.name for one in patients if one.side == side) for side in SIDES}
        for side in ("train", "validation"):
            if not names_of[side]:
                raise InputError(f"{self.title}: the column split has no {side}; {remedy}")
        return Split(names_of["train"], names_of["validation"], names_of["test"])


def read_cohort(
    folders: Path | Sequence[Path],
    modalities: Sequence[str],
    labels: Labels | None = "slices",
    *,
    requires_truth: bool = True,
) -> Cohort:
    """Finds patients in folders in the BraTS 2019 layout, BIDS datasets, folders of scans, and tables of scans.

    A patient without one of the modalities, or without a segmentation if it is needed, is left out and named in
    ``problems``. The scans are not opened.

    Args:
        folders: one or several folders or tables, see ``layouts.search``.
        modalities: the modalities that each patient must have.
        labels: see ``FitOptions``. With ``none``, segmentations are ignored; if it is None, it is ``slices`` if there
            is a segmentation, else ``none``.
        requires_truth: whether patients without a segmentation are left out, unless ``labels`` is ``none``.

    Raises:
        InputError: a folder does not exist or cannot be read; no patient of a folder is complete; or a patient is
            contained twice, so that a split could use it for training and for testing.
    """
    if TRUTH in modalities:
        raise InputError(f"--modality {TRUTH}: is the ground truth, not a scan; give a scan, for instance flair")
    folders = (folders,) if isinstance(folders, Path) else tuple(folders)
    found = []
    for folder in folders:
        found.append(search(folder, modalities))
        check_names((printable(one.name), one.place) for of_folder in found for one in of_folder.candidates)
    if labels is None:
        labels = "slices" if any(one.truth for of_folder in found for one in of_folder.candidates) else "none"
    patients: list[Patient] = []
    problems: list[str] = []
    for folder, name, of_folder in zip(folders, _names_of(folders), found, strict=True):
        complete = []
        for candidate in of_folder.candidates:
            needs_truth = labels != "none" and requires_truth
            no_truth = (candidate.no_truth,) if needs_truth and not candidate.truth else ()
            if missing := (*candidate.missing, *no_truth):
                problems.append(f"{printable(candidate.place)}: left out, {' and '.join(missing)}")
            elif (length := len(printable(candidate.name))) > LONGEST_TEXT:
                problems.append(
                    f"{printable(candidate.place)}: left out, its name has {length} characters, at most {LONGEST_TEXT} "
                    "are possible"
                )
            else:
                complete.append(_patient(candidate, name, with_truth=labels != "none"))
        problems += of_folder.problems
        patients += complete
        _check_files(patients)
        if not complete:
            raise InputError(_nobody(folder, modalities, labels, problems))
    return Cohort(folders, tuple(sorted(patients, key=lambda patient: patient.name)), tuple(problems), labels)


def _names_of(folders: Sequence[Path]) -> tuple[str, ...]:
    names = [printable(folder.resolve().name) for folder in folders]
    return tuple(
        name if names.count(name) == 1 else printable(folder) for name, folder in zip(names, folders, strict=True)
    )


def _patient(candidate: Candidate, cohort: str, *, with_truth: bool) -> Patient:
    # Names are stored in records and cards, which are UTF-8.
    return Patient(
        printable(candidate.name),
        candidate.grade,
        candidate.scans,
        candidate.truth if with_truth else None,
        candidate.brain,
        cohort,
        printable(candidate.subject),
        candidate.side,
    )


def _nobody(folder: Path, modalities: Sequence[str], labels: Labels, problems: Sequence[str]) -> str:
    """The message about a folder without complete patients."""
    wanted = ", ".join((*modalities, *((TRUTH,) if labels != "none" else ())))
    reason = f"; the first of {len(problems)} that were left out: {problems[0]}" if problems else ""
    return (
        f"{printable(folder)}: no patient with {wanted} in it{reason}; expected [HGG|LGG]/<id>/<id>_<modality>.nii.gz "
        "(BraTS 2019), a BIDS dataset, a folder of scans, or a table of scans with the column path"
    )


def split_patients(names: Sequence[str], validation: float, test: float, seed: int) -> Split:
    """Divides patients at random into training, validation and test patients.

    Args:
        names: all patients or subjects; their order does not matter.
        validation: share of the validation patients; there is at least one.
        test: share of the test patients; there is at least one, or none if the share is 0.
        seed: the same seed gives the same split.

    Raises:
        InputError: there are too few patients.
    """
    if len(names) < 3:
        raise InputError(
            f"{len(names)} subjects cannot be split into training, validation and test; at least 3 are needed"
        )
    order = list(np.random.default_rng(seed).permutation(sorted(names)))
    tests = max(1, round(test * len(names))) if test else 0
    validations = max(1, round(validation * len(names)))
    if tests + validations >= len(names):
        raise InputError("no subject remains for training; lower --validation-share or --test-share")
    parts = order[:tests], order[tests : tests + validations], order[tests + validations :]
    testing, validating, training = (tuple(sorted(str(name) for name in part)) for part in parts)
    return Split(training, validating, testing)


def check_names(named: Iterable[tuple[str, Path]]) -> None:
    """Checks that no two patients have the same name.

    Case and the Unicode form of accents are ignored: some file systems do not distinguish them, and copying a cohort
    there merges such patients.

    Args:
        named: the name of each patient, and its folder or scan.
    """
    seen: dict[str, Path] = {}
    for name, place in named:
        key = folded(name)
        if key in seen:
            raise InputError(
                f"{printable(place)}: is the same patient as {printable(seen[key])}, and would be counted twice; "
                "remove or rename one of the two"
            )
        seen[key] = place


def _check_files(patients: Iterable[Patient]) -> None:
    """Checks that no two patients share a scan through a link; masks on a common grid may be shared."""
    seen: dict[tuple[int, int], tuple[Path, str]] = {}
    for patient in patients:
        for file in patient.scans.values():
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
