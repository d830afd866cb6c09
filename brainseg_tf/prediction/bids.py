"""Datasets, labels and the group level of the BIDS App."""

from collections.abc import Sequence
from pathlib import Path

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.scan_search import DESCRIPTION, members
from brainseg_tf.prediction import cohort_tables, results_table
from brainseg_tf.prediction.batch import Batch
from brainseg_tf.prediction.progress import Progress

_SUBJECT, _SESSION = "sub-", "ses-"
# Number of labels that an error message lists.
_LISTED = 10


def check_dataset(folder: Path) -> None:
    """Checks that a folder is the root of a BIDS dataset.

    Raises:
        InputError: it is not.
    """
    if not folder.is_dir():
        raise InputError(f"{printable(folder)}: no such folder; give the root of a BIDS dataset")
    if not (folder / DESCRIPTION).is_file():
        raise InputError(f"{printable(folder)}: has no {DESCRIPTION}; give the root of a BIDS dataset")


def find_places(dataset: Path, participants: Sequence[str], sessions: Sequence[str]) -> list[Path]:
    """The folders that participant and session labels name.

    Args:
        dataset: the root.
        participants: labels of subjects, with or without ``sub-``; empty for all.
        sessions: labels of sessions, with or without ``ses-``; empty for all. Subjects without them are left out.

    Returns:
        The root itself without labels, otherwise folders of subjects or sessions.

    Raises:
        InputError: a subject does not exist, or no subject has such a session.
    """
    subjects = _labelled(dataset, _SUBJECT, participants)
    if not sessions:
        return subjects if participants else [dataset]
    names = {f"{_SESSION}{label.removeprefix(_SESSION)}" for label in sessions}
    places = [folder for subject in subjects for folder in _folders(subject, _SESSION) if folder.name in names]
    if missing := sorted(names - {place.name for place in places}):
        raise InputError(f"{printable(dataset)}: no subject has {', '.join(missing)}; check --session-label")
    return places


def run_group(out: Path, index: Path | None) -> int:
    """Writes the tables and the index page of all scans in an output folder.

    Args:
        out: the output folder of the participant level.
        index: the index page; None for none.

    Returns:
        The number of segmented scans.

    Raises:
        InputError: the folder has no results, or a file cannot be written.
    """
    table = out / results_table.NAME
    count = sum(bool(row["report"]) for row in results_table.read(table))
    if not count:
        raise InputError(f"{printable(out)}: has no results; run the participant level first")
    cohort_tables.check(out)
    Progress(out, Batch([]), index).write_index()
    cohort_tables.write(out)
    return count


def _labelled(dataset: Path, prefix: str, labels: Sequence[str]) -> list[Path]:
    """The subjects that labels name, or all."""
    known = {folder.name: folder for folder in _folders(dataset, prefix)}
    names = list(dict.fromkeys(f"{prefix}{label.removeprefix(prefix)}" for label in labels)) or list(known)
    if missing := [name for name in names if name not in known]:
        listed = ", ".join(list(known)[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
        raise InputError(
            f"{printable(dataset)}: has no {printable(', '.join(missing))}; it has {printable(listed) or 'no subject'}"
        )
    return [known[name] for name in names]


def _folders(folder: Path, prefix: str) -> list[Path]:
    return [one for one in members(folder) if one.name.startswith(prefix) and one.is_dir()]
