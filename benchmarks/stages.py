"""The stages after the network, changed one at a time, on the networks of a cross-validation.

    brainseg-tf evaluate DATA --models selfseg-flair --folds 5 --out CV
    python benchmarks/stages.py DATA CV/runs/selfseg-flair [STAGES ...] [--seed 0] [--others] [--trim 0]

Each patient by the network of the fold that it was tested in. The Dice is on the model's grid, mean and lowest, of the
22 patients that choices are made on (seed 0's training and validation patients; with --others of the eight that they
are not made on). "within" are the millilitres flagged in the scan's tumour-free slices, "alone" those flagged when
these slices are all that the pipeline gets: median, 95th percentile.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from scipy import ndimage

from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.brain.mask import brain_mask
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import read_mask, read_volume
from brainseg_tf.metrics import dice
from brainseg_tf.options import MixtureOptions, SegmentationOptions, Spread
from brainseg_tf.postprocessing import mixture
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.saved_model import ModelFolder, find
from brainseg_tf.segmentation import segment_slices
from brainseg_tf.slices import Stack, onto_stack, to_stack
from brainseg_tf.training.cohort import read_cohort, split_patients

_SHIPPED = SegmentationOptions()
# Fewer slices than this are no scan.
_FEWEST = 10

STAGES: dict[str, SegmentationOptions] = {
    "shipped": _SHIPPED,
    "no bias field correction": replace(_SHIPPED, correct_bias_field=False),
    **{f"boundary {reach:g} mm": replace(_SHIPPED, boundary_mm=reach) for reach in (0.0, 2.0, 3.0, 5.0)},
    **{f"median over {n} slices": replace(_SHIPPED, median=(n, 3, 3)) for n in (5, 9, 17)},
    "median 13 x 5 x 5": replace(_SHIPPED, median=(13, 5, 5)),
    **{f"{n} components": replace(_SHIPPED, components=(n,)) for n in (2, 3)},
    **{f"separation {n:g}": replace(_SHIPPED, separation=n) for n in (3.0, 5.0)},
    "neighbourhood 1": replace(_SHIPPED, mixture=MixtureOptions(neighbourhood=1)),
    "neighbourhood 5": replace(_SHIPPED, mixture=MixtureOptions(neighbourhood=5)),
    "free spread": replace(_SHIPPED, mixture=MixtureOptions(spread="free")),
    "smallest component": replace(_SHIPPED, mixture=MixtureOptions(lesion="smallest")),
    **dict.fromkeys(("neighbourhood within the slice", "start at quantiles", "start at the ends"), _SHIPPED),
    **{f"closing {n:g} mm": replace(_SHIPPED, closing_mm=n) for n in (0.0, 5.0)},
    **{f"erosion {n:g} mm": replace(_SHIPPED, erosion_mm=n) for n in (0.0, 5.0)},
    **{f"minimum size {n:g} ml": replace(_SHIPPED, min_size_ml=n) for n in (1.0, 4.0)},
    "healthy threshold 0": replace(_SHIPPED, healthy_threshold=0.0),
    "faintest 0": replace(_SHIPPED, faintest=0.0),
}


def _in_its_slice(values: np.ndarray, slab: slice, edge: int) -> np.ndarray:
    return ndimage.uniform_filter(values[:, slab], (1, 1, edge, edge), mode="constant")


def _start_at(places: Callable[[int], np.ndarray]) -> Callable[[np.ndarray, int, Spread], tuple[np.ndarray, ...]]:
    def start(values: np.ndarray, components: int, spread: Spread) -> tuple[np.ndarray, ...]:
        means = np.quantile(values, places(components))
        return means, np.full(components, max(values.std(), 1e-3)), np.full(components, 1 / components)

    return start


# What is no option: parts of the mixture that take the place of its own.
PARTS: dict[str, dict[str, Callable[..., object]]] = {
    "neighbourhood within the slice": {"_box_sums": _in_its_slice},
    "start at quantiles": {"_start": _start_at(lambda n: (np.arange(n) + 0.5) / n)},
    "start at the ends": {"_start": _start_at(lambda n: np.linspace(0.5, 0.999, n))},
}


@dataclass
class Row:
    """What a choice of stages did, patient by patient."""

    agreed: list[float] = field(default_factory=list)
    within: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    def text(self, name: str) -> str:
        """Of the table."""
        within, alone = (f"{np.median(ml):.1f}, {np.quantile(ml, 0.95):.1f}" for ml in (self.within, self.alone))
        return f"| {name} | {np.mean(self.agreed):.3f} | {min(self.agreed):.3f} | {within} | {alone} |"


class Remembering:
    """A model that reconstructs the same slices once."""

    def __init__(self, model: Reconstructor) -> None:
        self._model = model
        self._seen: dict[bytes, Reconstruction] = {}

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """As the model does."""
        key = images.tobytes()
        if key not in self._seen:
            self._seen[key] = self._model.reconstruct(images)
        return self._seen[key]


def judge(
    stack: Stack,
    truth: np.ndarray,
    found: ModelFolder,
    model: Reconstructor,
    stages: Mapping[str, SegmentationOptions],
    rows: Mapping[str, Row],
) -> None:
    """Adds a patient to each row."""
    free = ~(truth > 0).any(axis=(1, 2)) & stack.brain.any(axis=(1, 2))
    rest = replace(stack, images=stack.images[free], brain=stack.brain[free])
    for name, options in stages.items():
        with ExitStack() as places:
            for part, other in PARTS.get(name, {}).items():
                places.enter_context(patch.object(mixture, part, other))
            mask = segment_slices(stack, model, found.card, options).outline.found
            alone = segment_slices(rest, model, found.card, options).outline.found if free.sum() >= _FEWEST else None
        rows[name].agreed.append(dice(mask, truth > 0.5))
        rows[name].within.append(float(mask[free].sum() * stack.voxel_ml))
        if alone is not None:
            rows[name].alone.append(float(alone.sum() * stack.voxel_ml))


def dev(names: Sequence[str]) -> set[str]:
    """The patients that choices are made on."""
    options = ARCHITECTURES["selfseg"].recipe
    split = split_patients(names, options.validation, options.test, 0)
    return {*split.train, *split.validation}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("stages", nargs="*", metavar="STAGES", help=", ".join(STAGES))
    parser.add_argument("--seed", type=int, default=0, help="of the cross-validation")
    parser.add_argument("--others", action="store_true", help="the eight patients that choices are not made on")
    parser.add_argument("--trim", type=int, help="pixels, instead of the card's")
    given = parser.parse_args()
    stages = {name: STAGES[name] for name in given.stages or STAGES}
    rows = {name: Row() for name in stages}
    for run in sorted(given.runs.glob(f"seed{given.seed}-fold*")):
        found = find(str(run))
        model = found.load()
        cohort = read_cohort(given.data, found.card.modalities)
        ours = dev([patient.name for patient in cohort.patients])
        for patient in cohort.named(found.card.data.test):
            if (patient.name in ours) == given.others:
                continue
            scans = [read_volume(path) for path in patient.scans.values()]
            brain = brain_mask(scans[0])
            stack = to_stack(scans, brain, found.card.slices, found.card.trim if given.trim is None else given.trim)
            truth = onto_stack(read_mask(patient.truth, scans[0]), scans[0], stack)
            judge(stack, truth, found, Remembering(model), stages, rows)
    print("| stages | Dice | lowest | within, ml | alone, ml |\n|---|---|---|---|---|")
    for name, row in rows.items():
        if not row.agreed:
            raise InputError(f"{given.runs}: no run of seed {given.seed} in it")
        print(row.text(name))


if __name__ == "__main__":
    main()
