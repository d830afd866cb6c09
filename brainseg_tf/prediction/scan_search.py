"""Which members of a folder or a BIDS dataset are scans to segment, and why the others are not."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.images.dicom import is_series
from brainseg_tf.images.formats import SCANS, open_image, stem
from brainseg_tf.images.readers import reading
from brainseg_tf.prediction.modality_names import other_modality

DESCRIPTION = "dataset_description.json"
NOT_READABLE = "is a folder that may not be read; change its permissions"
# What stands beside scans and is none: descriptions, tables, pictures, and the second files of two-file formats.
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
# Last parts of the names of masks and label maps, and of those of phase images (dcm2niix); BIDS has part-phase.
_MASKS = {"mask", "seg", "dseg", "probseg", "segmentation", "lesion", "lesions", "label", "labels", "roi", "truth"}
_PHASES = {"phase", "ph"}


@dataclass
class Search:
    """What a search came to.

    Attributes:
        scans: to segment, sorted.
        failed: members that cannot be read, with the reason.
        left_out: members that are no scans of the modality, with the reason.
    """

    scans: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    def sort(self, file: Path, modality: str) -> None:
        """Puts a file where it belongs."""
        if file.is_symlink() and not file.exists():
            self.failed.append((file, "is a link to a file that is not there; fetch its content (datalad get) first"))
        elif reason := _not_a_scan(file, modality):
            self.left_out.append((file, reason))
        else:
            self.scans.append(file)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, as far as that may be known."""
    try:
        return path.is_dir()
    except OSError:
        return False


def members(folder: Path) -> list[Path]:
    """The members of a folder by name, without hidden ones.

    Raises:
        InputError: it may not be read.
    """
    try:
        return sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def search_folder(folder: Path, modality: str, own: Path) -> Search:
    """Sorts the members of a folder.

    Args:
        folder: of scans; its subfolders that hold DICOM slices are scans too.
        modality: the model's first; scans that their names say to be of another are left out.
        own: the folder for results, which may lie within.
    """
    found = Search()
    for file in members(folder):
        if is_folder(file) and not os.access(file, os.R_OK | os.X_OK):
            found.failed.append((file, NOT_READABLE))
        elif is_folder(file) and not is_series(file):
            if file.resolve() != own.resolve():
                found.left_out.append((file, "is a folder without DICOM slices; name it too to have it searched"))
        elif is_folder(file) or not file.name.lower().endswith(_COMPANIONS):
            found.sort(file, modality)
    return found


def bids_root(place: Path) -> Path | None:
    """The BIDS dataset that a folder is, or is a subject's, session's or ``anat`` folder of; None if it is neither."""
    if os.access(place / DESCRIPTION, os.R_OK):
        return place
    absolute = place.absolute()
    anatomical = absolute.name == "anat" or (place / "anat").is_dir() or any(place.glob("ses-*/anat"))
    if not anatomical:
        return None
    subject = next((one for one in (absolute, *absolute.parents[:2]) if one.name.startswith("sub-")), None)
    return subject.parent if subject else None


def search_bids(root: Path, place: Path) -> Search:
    """Sorts the FLAIR images of a BIDS dataset, ``sub-X/[ses-Y/]anat/*_FLAIR.nii[.gz]``.

    Args:
        root: the dataset's folder.
        place: that, or a folder in it that the search is limited to.
    """
    found, ignored = Search(), _bids_ignored(root)
    limit = place.absolute()
    for pattern in ("sub-*/anat", "sub-*/ses-*/anat"):
        for folder in sorted(root.absolute().glob(pattern)):
            if not folder.is_relative_to(limit):
                continue
            for file in members(folder):
                scan = root / file.relative_to(root.absolute())
                if not (stem(file).endswith("_FLAIR") and file.name.lower().endswith(SCANS)):
                    continue
                if ignored(file.relative_to(root.absolute()).as_posix()):
                    found.left_out.append((scan, "is excluded by the dataset's .bidsignore"))
                else:
                    found.sort(scan, "flair")
    found.scans.sort()
    return found


def _bids_ignored(root: Path) -> Callable[[str], bool]:
    """Whether the dataset's .bidsignore, which has the syntax of .gitignore, excludes a path."""
    from pathspec import GitIgnoreSpec

    file = root / ".bidsignore"
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    return GitIgnoreSpec.from_lines(lines).match_file


def _not_a_scan(file: Path, modality: str) -> str | None:
    """Why a file is no scan to segment, None if it is one."""
    if is_folder(file):
        return None
    if not file.name.lower().endswith(SCANS):
        return f"has no ending of a scan ({', '.join(SCANS)}); rename it, or name it by itself"
    parts = re.split(r"[^a-z0-9]+", stem(file).lower())
    if parts[-1] in _MASKS:
        return "is a mask by its name; name it by itself if it is a scan"
    if parts[-1] in _PHASES or "part-phase" in file.name:
        return "is a phase image by its name; name it by itself if it is a scan"
    if other := other_modality(file, modality):
        return f"is {other} by its name, and the model is for {modality}; name it by itself to segment it all the same"
    if parts[-1] == "brain" and _has_two_values(file):
        return "is a brain mask: it holds two values"
    return None


def _has_two_values(file: Path) -> bool:
    try:
        image, _ = open_image(file)
        with reading(file, "is damaged"):
            return np.unique(np.asanyarray(image.dataobj)).size <= 2
    except InputError:
        return False  # Segmenting it says what is wrong with it.
