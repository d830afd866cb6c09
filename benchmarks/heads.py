"""Dice of the models on raw heads: low-grade gliomas, multiple sclerosis, white-matter lesions.

    python benchmarks/heads.py [MODEL ...] [--heads FOLDER] [--kinds glioma,ms,wmh,healthy] [--preset best]
                               [--min-conspicuity 0.55] [--brain given|network]

The folder has KIND/ID/ID_flair.nii.gz with ID_seg.nii.gz (lesions; if missing, none are expected) and ID_brain.nii.gz
(brain mask; if missing, the scan is skull-stripped). With --brain network the masks are those of the brain network.
BRAINSEG_HEADS names the folder if --heads is not given. A lesion of more than 2 ml is missed if the Dice is below 0.1;
a second table shows what is suspected in these scans. A third shows how many lesions of each size are detected, that
is, have a voxel in the mask.
"""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from brainseg_tf import saved_model
from brainseg_tf.brain.mask import find_brain
from brainseg_tf.brain.network import BrainNetwork
from brainseg_tf.images.volume import read_mask, read_volume
from brainseg_tf.metrics import dice, interval, lesion_counts
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import SEGMENTATION_PRESETS, SegmentationOptions
from brainseg_tf.reconstruction import Reconstructor
from brainseg_tf.segmentation import segment

_MISSED_DICE, _MISSED_ML = 0.1, 2.0
# Limits of the lesion sizes of the third table, in ml.
_SIZES_ML = (0.0, 0.01, 0.05, 0.2, 1.0, np.inf)


@dataclass(frozen=True)
class Case:
    """The result of a scan; volumes in ml. ``lesions`` has the volume of each lesion and whether it is detected."""

    name: str
    lesion_ml: float
    found_ml: float
    suspected_ml: float
    dice: float
    lesions: list[tuple[float, bool]]

    @property
    def missed(self) -> bool:
        """Whether there is a lesion and hardly any of it is in the mask."""
        return self.lesion_ml > _MISSED_ML and self.dice < _MISSED_DICE


def measure(
    file: Path,
    model: Reconstructor,
    card: ModelCard,
    options: SegmentationOptions,
    network: BrainNetwork | None = None,
) -> Case:
    """Segments one scan and compares it with its ground truth, if there is one."""
    name = file.name.partition("_flair")[0]
    truth_file, brain_file = (file.with_name(f"{name}_{what}.nii.gz") for what in ("seg", "brain"))
    scan = read_volume(file)
    given = read_mask(brain_file, scan) if brain_file.exists() and network is None else None
    brain = find_brain(scan, given=given, network=None if network is None else lambda: network)
    result = segment([scan], model, card, options, brain)
    truth = read_mask(truth_file, scan) if truth_file.exists() else np.zeros(result.mask.shape, bool)
    volumes = (float(mask.sum() * scan.voxel_ml) for mask in (truth, result.mask, result.suspected))
    counts = lesion_counts(result.mask, truth)
    lesions = [
        (float(size * scan.voxel_ml), bool(found)) for size, found in zip(counts.voxels, counts.detected, strict=True)
    ]
    return Case(name, *volumes, dice(result.mask, truth), lesions)


def print_sizes(cases: list[tuple[str, str, Case]]) -> None:
    """Prints how many lesions of each size are detected."""
    columns = [f"from {low:g} ml" for low in _SIZES_ML[:-1]]
    print(f"\n| model | kind | {' | '.join(columns)} |\n{'|---' * (2 + len(columns))}|")
    for name, kind in dict.fromkeys((name, kind) for name, kind, _ in cases):
        lesions = [one for *names, case in cases if names == [name, kind] for one in case.lesions]
        by_size = [[found for ml, found in lesions if low <= ml < high] for low, high in pairwise(_SIZES_ML)]
        if lesions:
            print(f"| {name} | {kind} | {' | '.join(f'{sum(one)} of {len(one)}' for one in by_size)} |")


def main() -> None:
    """Segments the heads and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["selfseg-flair"])
    parser.add_argument("--heads", type=Path, default=os.environ.get("BRAINSEG_HEADS"))
    parser.add_argument("--kinds", default="glioma,ms,wmh,healthy")
    parser.add_argument("--preset", choices=[*SEGMENTATION_PRESETS], default="best")
    parser.add_argument("--min-conspicuity", type=float, help="instead of that of the preset")
    parser.add_argument("--brain", choices=["given", "network"], default="given")
    given = parser.parse_args()
    if given.heads is None:
        sys.exit("give --heads FOLDER or set BRAINSEG_HEADS")
    options = SEGMENTATION_PRESETS[given.preset]
    if given.min_conspicuity is not None:
        options = replace(options, min_conspicuity=given.min_conspicuity)
    network = saved_model.shipped_brain_network().load() if given.brain == "network" else None
    cases: list[tuple[str, str, Case]] = []
    for name in given.models:
        found = saved_model.find(name)
        model = found.load()
        for kind in given.kinds.split(","):
            for file in sorted((Path(given.heads) / kind).glob("*/*_flair.nii*")):
                cases.append((name, kind, measure(file, model, found.card, options, network)))
    print("| model | kind | scans with lesions | mean Dice (95 %) | median | missed | ml flagged without lesions |")
    print("|---|---|---|---|---|---|---|")
    for name, kind in dict.fromkeys((name, kind) for name, kind, _ in cases):
        some = [case for *names, case in cases if names == [name, kind]]
        values = [case.dice for case in some if case.lesion_ml > 0]
        low, high = interval(values)
        around = f" ({low:.3f} to {high:.3f})" if len(values) > 1 else ""
        mean = f"{np.mean(values):.3f}{around} | {np.median(values):.3f}" if values else "|"
        flagged = ", ".join(f"{case.found_ml:.1f}" for case in some if case.lesion_ml == 0)
        missed = sum(case.missed for case in some)
        print(f"| {name} | {kind} | {len(values)} | {mean} | {missed} | {flagged} |")
    print("\n| model | missed | lesion, ml | suspected, ml |\n|---|---|---|---|")
    for name, _, case in cases:
        if case.missed:
            print(f"| {name} | {case.name} | {case.lesion_ml:.1f} | {case.suspected_ml:.1f} |")
    print_sizes(cases)


if __name__ == "__main__":
    main()
