"""Search for the subjects that a brain network is trained on, and their reduced scans, which are cached on disk."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainseg_tf.brain.grid import normalise
from brainseg_tf.brain.mask import stripped_brain
from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, printable, replacing, write_json
from brainseg_tf.images.modality_names import named
from brainseg_tf.images.readers import reading
from brainseg_tf.images.volume import Volume, read_mask, read_on_same_grid, read_volume
from brainseg_tf.json_file import read_json
from brainseg_tf.schema import LONGEST_TEXT, Flag, Items, Number, Record, Text
from brainseg_tf.training.cohort import CACHED_NAME, check_names
from brainseg_tf.training.layouts import BRAIN_MASK
from brainseg_tf.training.random_heads import Subject, distance_outside, padding_for_head, reduced

# Part of the cache key. Increase it when the same files give other volumes than before.
_FORMAT = 2
_FACTS = Record(
    {
        "modalities": Items(Text(), 1, unique=True),
        "stripped": Flag(),
        "spacing": Items(Number(0), 3, 3),
        "centre": Items(Number(), 3, 3),
    }
)


@dataclass(frozen=True)
class HeadFiles:
    """The files of one subject.

    Attributes:
        name: the folder's name.
        scans: the scans, by modality.
        brain: the brain mask; None for a subject whose scans are skull-stripped.
    """

    name: str
    scans: Mapping[str, Path]
    brain: Path | None


@dataclass(frozen=True)
class CachedSubject:
    """The reduced scans of one subject, on disk.

    Attributes:
        name: the subject's.
        file: a .npy file, (volumes, X, Y, Z) uint8: the scans, the brain, and for a stripped subject the distance
            outside the brain.
        modalities: of the scans.
        stripped: whether they are skull-stripped.
        spacing, centre: see ``Subject``.
    """

    name: str
    file: Path
    modalities: tuple[str, ...]
    stripped: bool
    spacing: tuple[float, ...]
    centre: tuple[float, ...]

    @property
    def scans(self) -> int:
        """Number of scans."""
        return len(self.modalities)

    def load(self, scan: int) -> Subject:
        """One of the scans."""
        volumes = np.load(self.file, mmap_mode="r")
        distance = volumes[self.scans + 1] if self.stripped else None
        return Subject(volumes[scan], volumes[self.scans], np.array(self.spacing), np.array(self.centre), distance)


def read_heads(folder: Path, modalities: Sequence[str]) -> list[HeadFiles]:
    """Finds subjects in a folder and its subfolders, ``<id>/<id>_<modality>.nii[.gz]``, with ``<id>_brain.nii[.gz]``.

    Hidden folders are ignored. The scans are not opened.

    Args:
        folder: the folder.
        modalities: those that are used; a subject needs at least one of them.

    Raises:
        InputError: the folder does not exist, contains no subject, or contains a subject twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{printable(folder)}: no such folder; give a folder of heads with brain masks")
    subjects, folders = [], []
    for parent, names, files in os.walk(folder, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        place = Path(parent)
        of_kind = {kind: named(files, place.name, kind) for kind in (*modalities, BRAIN_MASK)}
        found = {kind: place / some[0] for kind, some in of_kind.items() if some}
        brain = found.pop(BRAIN_MASK, None)
        if found:
            subjects.append(HeadFiles(printable(place.name), found, brain))
            folders.append(place)
    check_names((subject.name, folder) for subject, folder in zip(subjects, folders, strict=True))
    for subject, place in zip(subjects, folders, strict=True):
        if (length := len(subject.name)) > LONGEST_TEXT:
            raise InputError(
                f"{printable(place)}: its name has {length} characters, at most {LONGEST_TEXT} are possible; rename it"
            )
    if not subjects:
        raise InputError(
            f"{printable(folder)}: no subject with {' or '.join(modalities)} in it; expected "
            "<id>/<id>_<modality>.nii.gz, and <id>/<id>_brain.nii.gz for a head with a skull"
        )
    return sorted(subjects, key=lambda subject: subject.name)


def cache_subjects(subjects: Iterable[HeadFiles], folder: Path) -> Iterator[CachedSubject | str]:
    """Reduces subjects one at a time and caches them in ``folder``, unless they are there already.

    Yields:
        The cached subject, or one line that says why the subject is left out: the scans cannot be used.

    Raises:
        InputError: the cache cannot be written or is damaged.
    """
    make_folder(folder)
    for subject in subjects:
        try:
            file = folder / _cache_name(subject)
            facts_file = file.with_suffix(".json")
            decoded = None if file.exists() and facts_file.exists() else _decode(subject)
        except InputError as error:
            yield f"{subject.name}: left out, {error}"
            continue
        if decoded is not None:
            volumes, facts = decoded
            with replacing(file) as temporary, temporary.open("wb") as target:
                np.save(target, volumes)
            write_json(facts_file, facts)
        facts = read_json(
            facts_file,
            _FACTS,
            what="the description of a cached subject",
            remedy="delete it to have the scans read again",
        )
        yield CachedSubject(subject.name, file, **{**facts, "modalities": tuple(facts["modalities"])})


def _cache_name(subject: HeadFiles) -> str:
    """The name of a subject's file in the cache; it depends on the sizes and times of the scans."""
    files = [*subject.scans.values(), *([subject.brain] if subject.brain else [])]
    stamps = []
    for file in files:
        with reading(file, "is gone or cannot be read; restore it"):
            stamps.append((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns))
    key = hashlib.sha256(json.dumps([_FORMAT, stamps]).encode()).hexdigest()[:16]
    return f"{subject.name[:CACHED_NAME]}-{key}.npy"


def _decode(subject: HeadFiles) -> tuple[np.ndarray, dict[str, Any]]:
    """The content of a subject's file in the cache, see ``CachedSubject``, and its description."""
    scans = _read_scans(subject)
    stripped = subject.brain is None
    first = next(iter(scans.values()))
    brain = stripped_brain(first) if subject.brain is None else read_mask(subject.brain, first)
    if brain is None:
        raise InputError(f"{first.path}: has a skull, but there is no {subject.name}_{BRAIN_MASK}.nii.gz")
    if not brain.any():
        raise InputError(f"{subject.brain}: is empty")
    volumes, spacing = _volumes(list(scans.values()), brain, stripped=stripped)
    centre = ndimage.center_of_mass(volumes[len(scans)])
    facts = {"modalities": list(scans), "stripped": stripped, "spacing": list(spacing), "centre": list(centre)}
    return volumes, facts


def _read_scans(subject: HeadFiles) -> dict[str, Volume]:
    """The scans of a subject by modality; those that have another grid than the first are left out."""
    (modality, first), *others = subject.scans.items()
    scan = read_volume(first)
    scans = {modality: scan}
    for modality, file in others:
        try:
            scans[modality] = read_on_same_grid(file, scan)
        except InputError:
            continue  # The brain mask belongs to the grid of the first scan.
    return scans


def _volumes(scans: Sequence[Volume], brain: np.ndarray, *, stripped: bool) -> tuple[np.ndarray, np.ndarray]:
    """The content of a cached file, and the edges of its voxels in millimetres."""
    spacing = nib.affines.voxel_sizes(scans[0].affine)
    share, step = reduced(brain.astype(np.float32), spacing)
    volumes = [normalise(reduced(scan.data, spacing)[0]) for scan in scans] + [share]
    if stripped:
        volumes = [np.pad(volume, padding_for_head(step)) for volume in volumes]
    as_bytes = [np.rint(255 * volume).astype(np.uint8) for volume in volumes]
    if stripped:
        as_bytes.append(distance_outside(volumes[-1], step))
    return np.stack(as_bytes), step
