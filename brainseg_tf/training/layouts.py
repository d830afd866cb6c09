"""How scans can lie on disk: the BraTS layout, a BIDS dataset, a folder of scans, or a table of scans.

Each reader gives the scans that it finds, complete or not. Nothing is opened.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from brainseg_tf.errors import InputError
from brainseg_tf.files import explain_csv_errors, printable
from brainseg_tf.images.dicom import is_series
from brainseg_tf.images.formats import SCANS, stem
from brainseg_tf.images.modality_names import modality_name, named, named_modalities, without_modality
from brainseg_tf.images.scan_search import bids_root, members, search_bids, search_folder

GRADES = ("HGG", "LGG")
TRUTH = "seg"
BRAIN_MASK = "brain"
TABLES = (".tsv", ".csv")
SIDES = ("train", "validation", "test")
# Columns of a table of scans, and of name_mapping.csv of BraTS.
_PATH, _COLUMNS = "path", ("subject", "session", "modality", "brain_mask", TRUTH, "split")
_ID, _GRADE = "BraTS_2019_subject_ID", "Grade"
# Cells of a table without a value; the second is that of BIDS.
_NO_VALUE = ("", "n/a")


# The names of examinations since BraTS 2023: patient and time point.
_EXAMINATION = re.compile(r"(BraTS-\w+-\d{5})-(\d{3})")


@dataclass(frozen=True)
class Candidate:
    """The scans of one examination, complete or not.

    Attributes:
        place: its folder or main scan, for messages.
        name: unique in the cohort.
        subject: who was scanned; a subject can have several examinations.
        session: of the subject; empty if it is not known.
        scans: the scans that were found, by modality.
        missing: a phrase about each modality that was not found.
        truth: the segmentation; None if there is none, with the reason in ``no_truth``.
        no_truth: a phrase.
        brain: the brain mask; None if there is none.
        grade: ``HGG``, ``LGG`` or None.
        side: of the split, from a table; one of ``SIDES`` or None.
    """

    place: Path
    name: str
    subject: str
    scans: Mapping[str, Path]
    missing: tuple[str, ...] = ()
    truth: Path | None = None
    no_truth: str = f"no {TRUTH}"
    brain: Path | None = None
    grade: str | None = None
    side: str | None = None
    session: str = ""


@dataclass
class Found:
    """What a reader found: examinations, and one line about each file or folder that is none."""

    candidates: list[Candidate] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def search(place: Path, modalities: Sequence[str], *, with_missing: bool = False) -> Found:
    """Finds the examinations in a place.

    Args:
        place: a table (.tsv, .csv), a BIDS dataset, a folder in the BraTS 2019 layout, or a folder of scans.
        modalities: the modalities of the model, in order.
        with_missing: whether a row of a table whose files do not exist is an examination too, not a problem.

    Raises:
        InputError: the place does not exist or cannot be read, or a table has no column ``path``.
    """
    if place.suffix.lower() in TABLES and not _is_folder(place):
        return _read_table(place, modalities, with_missing=with_missing)
    if not _is_folder(place):
        what = "is a file" if _exists(place) else "no such folder"
        raise InputError(f"{printable(place)}: {what}; give the folder of the patients, or a table of scans")
    if bids_root(place) is not None:
        return _read_bids(place, modalities)
    found = _read_brats(place, modalities)
    return found if found.candidates else _read_files(place, modalities)


def _read_brats(folder: Path, modalities: Sequence[str]) -> Found:
    """Patients in the BraTS 2019 layout, ``[HGG|LGG]/<id>/<id>_<kind>.nii[.gz]``; hidden folders are ignored.

    Since BraTS 2023 the folder is that of one examination of a patient, and the kind is behind a ``-``.
    """
    found = Found()
    patients, others = [], []
    for candidate in _patient_folders(folder):
        try:
            files, missing = _patient_files(candidate, modalities)
        except OSError as error:
            found.problems.append(
                f"{printable(candidate)}: left out, cannot be read ({error.strerror}); check its permissions"
            )
            continue
        if files or any(not phrase.startswith("no ") for phrase in missing.values()):
            patients.append((candidate, files, missing))
        else:
            others.append(candidate)
    if not patients:
        return found
    grades, problems = _read_grades(folder)
    found.problems += problems
    found.problems += [
        f"{printable(other)}: left out, is not in the BraTS 2019 layout as folders beside it are; name its scans in a "
        "table of scans"
        for other in others
        if any(file.name.lower().endswith(SCANS) for file in (members(other) if other.is_dir() else [other]))
        or is_series(other)
    ]
    for candidate, files, missing in patients:
        grade = candidate.parent.name if candidate.parent.name in GRADES else grades.get(candidate.name)
        examination = _EXAMINATION.fullmatch(candidate.name)
        found.candidates.append(
            Candidate(
                candidate,
                candidate.name,
                examination[1] if examination else candidate.name,
                {kind: files[kind] for kind in modalities if kind in files},
                tuple(missing[kind] for kind in modalities if kind in missing),
                files.get(TRUTH),
                missing.get(TRUTH, ""),
                files.get(BRAIN_MASK),
                grade,
                session=examination[2] if examination else "",
            )
        )
    return found


def _patient_folders(folder: Path) -> list[Path]:
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


def _exists(path: Path) -> bool:
    """Whether a file exists; False if its name is too long or a folder cannot be read."""
    try:
        return path.exists()
    except OSError:
        return False


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{printable(path)}: cannot be read ({error.strerror}); check its permissions")


def _patient_files(folder: Path, modalities: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """A patient's files, and a phrase about each missing one, both by kind.

    Raises:
        OSError: the folder cannot be read.
    """
    if not folder.is_dir():
        return {}, {}
    names = {file.name for file in folder.iterdir()}
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for kind in (*modalities, TRUTH, BRAIN_MASK):
        files = [folder / name for name in named(names, folder.name, kind)]
        existing = [file for file in files if file.is_file()]
        if existing:
            found[kind] = existing[0]
        elif files and files[0].is_symlink():
            missing[kind] = f"{files[0].name} is a link to a file that does not exist"
        elif kind != BRAIN_MASK:
            missing[kind] = f"no {kind}"
    return found, missing


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
            checked = (_checked_row(row, rows.line_num) for row in rows)
            return {row[_ID]: row[_GRADE] for row in checked if row[_GRADE] in GRADES}, []


def _checked_row(row: Mapping[str | None, str | None], line: int) -> dict[str, str]:
    if None in row or None in row.values():
        raise ValueError(f"line {line} does not have the same number of columns as the first line")
    return {str(name): str(value) for name, value in row.items()}


def _read_bids(folder: Path, modalities: Sequence[str]) -> Found:
    """Subjects of a BIDS dataset, ``sub-X/[ses-Y/]anat/*_<suffix>.nii[.gz]``."""
    root = bids_root(folder)
    assert root is not None
    scans: dict[str, list[Path]] = {}
    found = Found()
    for modality in modalities:
        searched = search_bids(root, folder, modality)
        scans[modality] = searched.scans
        found.problems += [f"{printable(file)}: left out, {reason}" for file, reason in searched.failed]
    found.problems = list(dict.fromkeys(found.problems))
    return _grouped(scans, modalities, found)


def _read_files(folder: Path, modalities: Sequence[str]) -> Found:
    """The scans in a folder: image files, and subfolders with DICOM series."""
    scans: dict[str, list[Path]] = {}
    found = Found()
    for modality in modalities:
        searched = search_folder(folder, modality, folder)
        # With several modalities each file must name its own.
        scans[modality] = [
            scan for scan in searched.scans if len(modalities) == 1 or modality in named_modalities(scan)
        ]
        found.problems += [f"{printable(file)}: left out, {reason}" for file, reason in searched.failed]
        if len(modalities) == 1:
            found.problems += [f"{printable(file)}: left out, {_with_table(why)}" for file, why in searched.left_out]
    found.problems = list(dict.fromkeys(found.problems))
    return _grouped(scans, modalities, found)


def _with_table(reason: str) -> str:
    """The reason with a remedy for a cohort, which is no single file."""
    if "rename it, or" in reason:
        return re.sub(r"; rename it, or .*", "; rename it", reason)
    return re.sub(r"; give the (file|series) itself .*", "; name it in a table of scans to use it all the same", reason)


def _grouped(scans: Mapping[str, Sequence[Path]], modalities: Sequence[str], found: Found) -> Found:
    """Puts the scans of one examination together: those whose names differ in the modality only."""
    others: dict[str, dict[tuple[Path, str], Path]] = {}
    for modality in modalities[1:]:
        by_name = others.setdefault(modality, {})
        for scan in scans[modality]:
            first = by_name.setdefault((scan.parent, without_modality(scan) or stem(scan)), scan)
            if first != scan:
                found.problems.append(f"{printable(scan)}: left out, is {modality} of the same name as {first.name}")
    for scan in scans[modalities[0]]:
        name = without_modality(scan) or stem(scan)
        subjects = sorted(set(re.findall(r"sub-[A-Za-z0-9]+", scan.name)))
        if len(subjects) > 1:
            found.problems.append(f"{printable(scan)}: left out, names two subjects ({' and '.join(subjects)})")
            continue
        files, missing = {modalities[0]: scan}, []
        for modality, by_name in others.items():
            if other := by_name.get((scan.parent, name)):
                files[modality] = other
            else:
                missing.append(f"no {modality}")
        subject = subjects[0] if subjects else name
        found.candidates.append(Candidate(scan, name, subject, files, tuple(missing)))
    return found


def _read_table(table: Path, modalities: Sequence[str], *, with_missing: bool) -> Found:
    """The scans in a table with a column ``path``; see docs/train.md."""
    found = Found()
    dialect = "excel-tab" if table.suffix.lower() == ".tsv" else "excel"
    with (
        explain_csv_errors(table, "cannot be read as a table of scans", "repair it"),
        table.open(newline="", encoding="utf-8-sig") as lines,
    ):
        # Blanks beside a separator mean nothing.
        reader = csv.DictReader(lines, dialect=dialect, strict=True, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        if _PATH not in (reader.fieldnames or ()):
            raise InputError(
                f"{printable(table)}: has no column {_PATH}; give one row per scan with the columns {_PATH} and, if "
                f"known, {', '.join(_COLUMNS)}"
            )
        rows = [(reader.line_num, _checked_row(row, reader.line_num)) for row in reader]
    files: dict[tuple[str, str, str], Path] = {}
    groups: dict[tuple[str, str], list[_Row]] = {}
    for line, cells in rows:
        row = _row(table.parent, cells, modalities, with_missing=with_missing)
        if isinstance(row, str):
            found.problems.append(f"{printable(table)}, line {line}: left out, {row}")
        else:
            groups.setdefault((row.subject, row.session), []).append(row)
            # A cohort is split by subject.
            first = files.setdefault((row.subject, row.session, row.modality), row.path)
            same_folder = first.parent.resolve() == row.path.parent.resolve()
            if not (with_missing or row.names_subject or same_folder) and row.modality in modalities:
                raise InputError(
                    f"{printable(table)}, line {line}: {printable(row.path)} and {printable(first)} have one name; say "
                    "in the column subject whether they are of one subject"
                )
    for (subject, session), scans in groups.items():
        _add_examinations(subject, session, scans, modalities, found)
    return found


@dataclass(frozen=True)
class _Row:
    """A row of a table of scans."""

    path: Path
    subject: str
    names_subject: bool
    session: str
    modality: str
    brain: Path | None
    truth: Path | None
    side: str | None


def _row(folder: Path, cells: Mapping[str, str], modalities: Sequence[str], *, with_missing: bool) -> _Row | str:
    """A row of the table in ``folder``, or a phrase about what is wrong with it."""
    stripped = {name: cells.get(name, "").strip() for name in (_PATH, *_COLUMNS)}
    values = {name: None if value in _NO_VALUE else value for name, value in stripped.items()}
    files = {name: folder / str(values[name]) for name in (_PATH, "brain_mask", TRUTH) if values[name]}
    if _PATH not in files:
        return f"the column {_PATH} is empty"
    missing = next((file for file in files.values() if not _exists(file)), None)
    if missing and not with_missing:
        return f"{printable(missing)}: no such file"
    if values["split"] not in (None, *SIDES):
        return f"split is {printable(values['split'])}, not {', '.join(SIDES)}"
    if "/" in (values["subject"] or "") or "/" in (values["session"] or ""):
        return "the subject or session contains a /"
    path = files[_PATH]
    modality = modality_name(values["modality"] or modalities[0])
    subject = values["subject"] or without_modality(path) or stem(path)
    session = values["session"] or ""
    return _Row(
        path=path,
        subject=subject,
        names_subject=values["subject"] is not None,
        session=session,
        modality=modality,
        brain=files.get("brain_mask"),
        truth=files.get(TRUTH),
        side=values["split"],
    )


def _add_examinations(
    subject: str, session: str, members: Sequence[_Row], modalities: Sequence[str], found: Found
) -> None:
    """The examinations of a subject's session: several if there are several scans of the only modality."""
    by_modality = {modality: [row for row in members if row.modality == modality] for modality in modalities}
    first = by_modality[modalities[0]]
    name = "_".join(part for part in (subject, session) if part)
    if any(len(some) > 1 for some in by_modality.values()) and len(modalities) > 1:
        found.problems.append(f"{printable(members[0].path)}: left out, {name} has several scans of one modality")
        return
    used = [row for some in by_modality.values() for row in some]
    if len(modalities) > 1 and len({row.side for row in used if row.side}) > 1:
        found.problems.append(f"{printable(members[0].path)}: left out, {name} has several splits")
        return
    for number, row in enumerate(first or members[:1], start=1):
        # What the row of the first modality does not say can be in those of the others.
        rows = [row] if len(modalities) == 1 else used
        brain, truth, side = (
            next((value for one in rows if (value := getattr(one, field))), None)
            for field in ("brain", "truth", "side")
        )
        scans = {modality: some[0].path for modality, some in by_modality.items() if some}
        if first:
            scans[modalities[0]] = row.path
        missing = tuple(f"no {modality}" for modality in modalities if modality not in scans)
        # The first one keeps its name when a further one is added to the table.
        unique = f"{name}_{number}" if number > 1 else name
        found.candidates.append(
            Candidate(row.path, unique, subject, scans, missing, truth, brain=brain, side=side, session=session)
        )
