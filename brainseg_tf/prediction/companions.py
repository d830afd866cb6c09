"""The files that belong to each scan of a cohort: further modalities, brain mask, ground truth, maps.

They are found and named by patterns in which ``{name}`` stands for the name of the scan without its modality, for the
entities of a BIDS file (``sub-01_ses-1``), or for the subject and session in a table of scans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import exists, printable
from brainseg_tf.images.formats import NIFTI
from brainseg_tf.images.modality_names import bids_suffix, last_modality, named, without_modality
from brainseg_tf.images.scan_search import Search, members
from brainseg_tf.prediction.jobs import Job

NAME = "{name}"


@dataclass(frozen=True)
class Companions:
    """Patterns of the files that belong to a scan.

    Attributes:
        needed: the model's further modalities. Those without a pattern are looked for beside the scan: as
            ``{name}_<modality>.nii[.gz]``, in a BIDS dataset with the suffix of the modality, otherwise as the only
            scan whose name differs in the modality at its end.
        modalities: patterns of further modalities by name, relative to the folder of the scan.
        brain, truth: patterns of the brain mask and the ground truth, relative to that folder; None for none.
        outputs: patterns of further outputs by their field of ``Outputs``, relative to the folder of the mask.
        tables: whether label tables for viewers are written too.
    """

    needed: Sequence[str] = ()
    modalities: Mapping[str, str] = field(default_factory=dict)
    brain: str | None = None
    truth: str | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    tables: bool = False
    _found: dict[tuple[Path, str], dict[str, list[Path]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def add_to(self, job: Job, *, bids: bool = False) -> Job:
        """The job with the files that belong to its scan.

        Args:
            job: of a scan.
            bids: whether the scan is named as in BIDS.

        Raises:
            InputError: a file does not exist.
        """
        folder, name = job.scan.parent, job.name
        modalities = dict(job.modalities)
        for modality in self.needed:
            if modality in modalities:
                continue
            if pattern := self.modalities.get(modality):
                modalities[modality] = _existing([_filled(pattern, name, folder)])
            else:
                modalities[modality] = self._beside(job.scan, name, modality, bids=bids)
        brain, truth = (
            given or (_existing([_filled(pattern, name, folder)]) if pattern else None)
            for given, pattern in ((job.brain, self.brain), (job.truth, self.truth))
        )
        target = job.outputs.mask.parent
        maps: dict[str, Any] = {kind: _filled(pattern, name, target) for kind, pattern in self.outputs.items()}
        outputs = replace(job.outputs, **maps)
        if self.tables:
            outputs = outputs.with_tables()
        return replace(job, modalities=modalities, brain=brain, truth=truth, outputs=outputs)

    def _beside(self, scan: Path, name: str, modality: str, *, bids: bool) -> Path:
        """The scan of a further modality in the folder of a scan.

        Args:
            scan: the scan.
            name: of the scan, without its modality.
            modality: the modality.
            bids: whether the scan is named as in BIDS.

        Raises:
            InputError: there is none, or more than one; or the folder cannot be read.
        """
        word = bids_suffix(modality) if bids else modality
        usual = [scan.with_name(f"{name}_{word}{suffix}") for suffix in reversed(NIFTI)]
        if found := next(filter(exists, usual), None):
            return found
        # There can be thousands of scans in the folder, so it is searched once.
        if (scan.parent, modality) not in self._found:
            self._found[scan.parent, modality] = _by_name(scan.parent, modality)
        others = [one for one in self._found[scan.parent, modality].get(name, []) if one != scan]
        simple = named((one.name for one in others), name, modality)
        others = [one for one in others if one.name in simple] or others
        if len(others) > 1:
            files = " and ".join(printable(one.name) for one in others)
            raise InputError(
                f"{printable(scan.parent)}: has {files} for {modality}; name one with a pattern or a table of scans"
            )
        return _existing(others or usual)


def _by_name(folder: Path, modality: str) -> dict[str, list[Path]]:
    """The scans of a modality in a folder, by their names without the modality."""
    found = Search()
    # The names are compared first: a search opens files.
    for file in members(folder):
        if last_modality(file) == modality:
            found.add(file, modality)
    by_name: dict[str, list[Path]] = {}
    for scan in found.scans:
        by_name.setdefault(without_modality(scan), []).append(scan)
    return by_name


def _filled(pattern: str, name: str, folder: Path) -> Path:
    return folder / pattern.replace(NAME, name)


def _existing(files: Sequence[Path]) -> Path:
    """The first file that exists.

    Raises:
        InputError: there is none, or no permission to look for it.
    """
    for file in files:
        if exists(file):
            return file
    raise InputError(f"{printable(files[0])}: no such file; add it, or name it with a pattern or a table of scans")
