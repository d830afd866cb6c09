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
from brainseg_tf.images.modality_names import bids_suffix, named
from brainseg_tf.images.scan_search import members
from brainseg_tf.prediction.jobs import Job

NAME = "{name}"


@dataclass(frozen=True)
class Companions:
    """Patterns of the files that belong to a scan.

    Attributes:
        needed: the model's further modalities. Those without a pattern are looked for beside the scan, as
            ``{name}_<modality>.nii[.gz]``, where the modality can have any of its names, see ``modality_names.named``.
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
                modalities[modality] = _beside(folder, name, modality, bids_suffix(modality) if bids else modality)
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


def _filled(pattern: str, name: str, folder: Path) -> Path:
    return folder / pattern.replace(NAME, name)


def _beside(folder: Path, name: str, modality: str, word: str) -> Path:
    """The file of a further modality in the folder of the scan.

    Args:
        folder: the folder.
        name: of the scan, without its modality.
        modality: the modality.
        word: what the modality is called as a rule. The folder is listed only if no file is named with this word,
            because there can be thousands of scans in it.

    Raises:
        InputError: there is none, or the folder cannot be listed.
    """
    usual = [folder / f"{name}_{word}{suffix}" for suffix in reversed(NIFTI)]
    if found := next(filter(exists, usual), None):
        return found
    others = named((file.name for file in members(folder)), name, modality)
    return _existing([folder / other for other in others] or usual)


def _existing(files: Sequence[Path]) -> Path:
    """The first file that exists.

    Raises:
        InputError: there is none, or no permission to look for it.
    """
    for file in files:
        if exists(file):
            return file
    raise InputError(f"{printable(files[0])}: no such file; add it, or name it with a pattern or a table of scans")
