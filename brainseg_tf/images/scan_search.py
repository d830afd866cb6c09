"""Finds the scans to segment in a folder or a BIDS dataset, and the reasons why other files are left out."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import is_folder
from brainseg_tf.images.dicom import is_series
from brainseg_tf.images.formats import SCANS, open_image, stem
from brainseg_tf.images.maps import is_map
from brainseg_tf.images.modality_names import bids_suffix, evidence, name_parts, other_modality
from brainseg_tf.images.readers import reading

DESCRIPTION = "dataset_description.json"
# The modalities in which the brain can be found.
ANATOMICAL = ("flair", "t1", "t2")
NOT_READABLE = "is a folder without read permission; change its permissions"
# Suffixes of files that are ignored: descriptions, tables, pictures, and the data files of formats with two files.
_COMPANIONS = (
    ".json",
    ".tsv",
    ".csv",
    ".txt",
    ".md",
    ".bval",
    ".bvec",
    ".png",
    ".jpg",
    ".jpeg",
    ".html",
    ".pdf",
    ".log",
    ".mat",
    ".img",
    ".img.gz",
    ".raw",
    ".zraw",
    ".lock",
)
# Last parts of the names of masks and label maps, and of phase images from dcm2niix. In BIDS, phase images have the
# entity ``part-phase``.
_MASKS = {"mask", "seg", "dseg", "probseg", "segmentation", "lesion", "lesions", "label", "labels", "roi", "truth"}
_PHASES = {"phase", "ph"}


@dataclass
class Search:
    """The result of a search.

    Attributes:
        scans: the scans to segment, sorted.
        failed: files and folders that cannot be read, with the reason.
        left_out: files and folders that are not scans of the modality, with the reason.
    """

    scans: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, file: Path, modality: str | None) -> None:
        """Adds a file to the list to which it belongs."""
        if file.is_symlink() and not file.exists():
            problem = "is a link to a file that does not exist; fetch it (git annex get, datalad get)"
            self.failed.append((file, problem))
        elif reason := _reason_to_leave_out(file, modality):
            self.left_out.append((file, reason))
        else:
            self.scans.append(file)


def members(folder: Path) -> list[Path]:
    """The files and folders in a folder, sorted by name, without hidden ones.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def search_folder(folder: Path, modality: str | None, results: Path) -> Search:
    """Searches a folder for scans.

    Args:
        folder: the folder; subfolders with DICOM slices are scans too.
        modality: the model's first modality; scans with another modality in their name are left out. None for any.
        results: the folder for results, which is ignored if it is in ``folder``.

    Raises:
        InputError: the folder cannot be read.
    """
    found = Search()
    for file in members(folder):
        if is_folder(file) and not can_be_read(file):
            found.failed.append((file, NOT_READABLE))
        elif is_folder(file) and not is_series(file):
            if file.resolve() != results.resolve():
                found.left_out.append((file, "is a folder without DICOM slices; give it as well to search it"))
        elif is_folder(file) or not file.name.lower().endswith(_COMPANIONS):
            found.add(file, modality)
    return found


def bids_root(folder: Path) -> Path | None:
    """The root of the BIDS dataset to which a folder belongs.

    Args:
        folder: the root itself, or the folder of a subject or session or an ``anat`` folder.

    Returns:
        The root; None if the folder does not belong to a BIDS dataset.
    """
    if (folder / DESCRIPTION).is_file() and os.access(folder / DESCRIPTION, os.R_OK):
        return folder
    absolute = _absolute(folder)
    anatomical = absolute.name == "anat" or (folder / "anat").is_dir() or any(folder.glob("ses-*/anat"))
    if not anatomical:
        return None
    subject = next((one for one in (absolute, *absolute.parents[:2]) if one.name.startswith("sub-")), None)
    return subject.parent if subject else None


def _absolute(folder: Path) -> Path:
    """The folder without ``..``; links are resolved in a path that has it only."""
    return folder.resolve() if ".." in folder.parts else folder.absolute()


def search_bids(root: Path, folder: Path, modality: str | None = "flair") -> Search:
    """Searches a BIDS dataset for scans of a modality, for instance ``sub-X/[ses-Y/]anat/*_FLAIR.nii[.gz]``.

    Args:
        root: the root of the dataset.
        folder: the folder to search, ``root`` or a folder in it.
        modality: of the scans, see ``modality_names.bids_suffix``; None for all ``ANATOMICAL``.

    Raises:
        InputError: a folder or the file .bidsignore cannot be read.
    """
    found, ignored = Search(), _bids_ignored(root)
    suffixes = tuple(f"_{bids_suffix(one)}" for one in ([modality] if modality else ANATOMICAL))
    limit = _absolute(folder)
    # Below a subject or a session only these are searched: a dataset can have thousands.
    depth = len(limit.relative_to(_absolute(root)).parts)
    patterns = {tuple(pattern[depth:]) for pattern in (["sub-*", "anat"], ["sub-*", "ses-*", "anat"])}
    unreadable: set[Path] = set()
    members(limit)  # It must be readable itself.
    for pattern in sorted(patterns):
        for anatomical in _subfolders(limit, pattern, unreadable):
            if anatomical.name != "anat":
                continue
            for file in _members(anatomical, unreadable):
                scan = root / file.relative_to(_absolute(root))
                if not (stem(file).endswith(suffixes) and file.name.lower().endswith(SCANS)):
                    continue
                if ignored(file.relative_to(_absolute(root)).as_posix()):
                    found.left_out.append((scan, "is excluded by the dataset's .bidsignore"))
                else:
                    found.add(scan, modality)
    closed = sorted(folder.relative_to(_absolute(root)) for folder in unreadable)
    found.failed += [(root / folder, NOT_READABLE) for folder in closed if not ignored(f"{folder.as_posix()}/")]
    found.scans.sort()
    return found


def _subfolders(folder: Path, patterns: Sequence[str], unreadable: set[Path]) -> list[Path]:
    """The folders below a folder that match one pattern for each level, sorted.

    ``Path.glob`` says nothing about folders that cannot be read; here they are added to ``unreadable``.
    """
    if not patterns:
        return [folder]
    inner = [one for one in _members(folder, unreadable) if fnmatchcase(one.name, patterns[0])]
    return [found for one in inner for found in _subfolders(one, patterns[1:], unreadable)]


def _members(folder: Path, unreadable: set[Path]) -> list[Path]:
    """What is in a folder, see ``members``; nothing if it is a file."""
    if not is_folder(folder):
        return []
    if not can_be_read(folder):
        unreadable.add(folder)
        return []
    return members(folder)


def can_be_read(folder: Path) -> bool:
    """Whether what is in a folder can be listed and opened."""
    try:
        with os.scandir(folder) as inside:
            for entry in inside:
                entry.stat(follow_symlinks=False)
                break
    except OSError:
        return False
    return True


def _bids_ignored(root: Path) -> Callable[[str], bool]:
    """A function that tests whether the dataset's .bidsignore excludes a path; it has the syntax of .gitignore."""
    from pathspec import GitIgnoreSpec

    file = root / ".bidsignore"
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    return GitIgnoreSpec.from_lines(lines).match_file


def _reason_to_leave_out(scan: Path, modality: str | None) -> str | None:
    """Why a file or a DICOM series is not a scan to segment; None if it is one."""
    series = is_folder(scan)
    last = name_parts(scan)[-1]
    if not series:
        if not scan.name.lower().endswith(SCANS):
            return f"does not have the suffix of a scan ({', '.join(SCANS)}); rename it, or give the file itself"
        if last in _MASKS:
            return "is a mask according to its name; give the file itself if it is a scan"
        if last in _PHASES or "part-phase" in scan.name:
            return "is a phase image according to its name; give the file itself if it is a scan"
    if modality is not None and (other := other_modality(scan, modality)):
        it = "series" if series else "file"
        return (
            f"is {other} according to its {evidence(scan)}, but the model needs {modality}; give the {it} itself to "
            "segment it"
        )
    if not series and last == "brain" and _has_two_values(scan):
        return "is a brain mask, because it contains only two values"
    if not series and is_map(scan):
        return "was written by brainseg-tf; give the file itself if it is a scan"
    return None


def _has_two_values(file: Path) -> bool:
    try:
        image, _ = open_image(file)
        with reading(file, "is damaged"):
            return np.unique(np.asanyarray(image.dataobj)).size <= 2
    except InputError:
        return False  # The error is raised when the file is segmented.
