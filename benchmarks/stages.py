"""Ablation of the stages after the network, one change at a time, with the networks of a cross-validation.

    brainseg-tf evaluate DATA --models selfseg-flair --folds 5 --out CV
    python benchmarks/stages.py DATA CV/runs/selfseg-flair [STAGES ...] [--seed 0] [--others] [--trim 0]

Each patient is segmented with the network of the fold in which it is a test patient. The table is for the 22
development patients, on which options are chosen (the training and validation patients of seed 0), or with --others for
the other eight. It has the mean and the lowest Dice on the model's grid, and two false positive volumes in millilitres,
each as median and 95th percentile: "within", in the tumour-free slices of the scan, and "alone", if the pipeline gets
only these slices.
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
# With fewer tumour-free slices than this, "alone" is not measured.
_LEAST_SLICES = 10

STAGES: dict[str, SegmentationOptions] = {
    "shipped": _SHIPPED,
    "no bias field correction": replace(_SHIPPED, correct_bias_field=False),
    **{f"boundary {reach:g} mm": replace(_SHIPPED, boundary_mm=reach) for reach in (0.0, 2.0, 3.0, 5.0)},
    **{f"median over {n} slices": replace(_SHIPPED, median=(n, 3, 3)) for n in (3, 5, 9, 13)},
    "median 7 x 5 x 5": replace(_SHIPPED, median=(7, 5, 5)),
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
    **{f"conspicuity {least:g}": replace(_SHIPPED, min_conspicuity=least) for least in (0.0, 0.4, 0.7)},
}


def _box_sums_within_slices(values: np.ndarray, slab: slice, edge: int) -> np.ndarray:
    return ndimage.uniform_filter(values[:, slab], (1, 1, edge, edge), mode="constant")


def _start_at(quantiles: Callable[[int], np.ndarray]) -> Callable[[np.ndarray, int, Spread], tuple[np.ndarray, ...]]:
    def start(values: np.ndarray, components: int, spread: Spread) -> tuple[np.ndarray, ...]:
        means = np.quantile(values, quantiles(components))
        return means, np.full(components, max(values.std(), 1e-3)), np.full(components, 1 / components)

    return start


# Changes for which there is no option: functions of the module ``mixture`` that are replaced.
REPLACEMENTS: dict[str, dict[str, Callable[..., object]]] = {
    "neighbourhood within the slice": {"_box_sums": _box_sums_within_slices},
    "start at quantiles": {"_start": _start_at(lambda n: (np.arange(n) + 0.5) / n)},
    "start at the ends": {"_start": _start_at(lambda n: np.linspace(0.5, 0.999, n))},
}


@dataclass
class Row:
    """Results of one change of the stages, with one value per patient.

    Attributes:
        dice: of the mask.
        within: millilitres of the mask in tumour-free slices.
        alone: millilitres of the mask if the pipeline gets only these slices.
    """

    dice: list[float] = field(default_factory=list)
    within: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    def text(self, name: str) -> str:
        """The row of the Markdown table."""
        within, alone = (f"{np.median(ml):.1f}, {np.quantile(ml, 0.95):.1f}" for ml in (self.within, self.alone))
        return f"| {name} | {np.mean(self.dice):.3f} | {min(self.dice):.3f} | {within} | {alone} |"


class CachedReconstructor:
    """A ``Reconstructor`` that stores its results, so that the same slices are reconstructed only once."""

    def __init__(self, model: Reconstructor) -> None:
        self._model = model
        self._cache: dict[bytes, Reconstruction] = {}

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """The reconstruction of the model."""
        key = images.tobytes()
        if key not in self._cache:
            self._cache[key] = self._model.reconstruct(images)
        return self._cache[key]


def add_patient(
    stack: Stack,
    truth: np.ndarray,
    found: ModelFolder,
    model: Reconstructor,
    stages: Mapping[str, SegmentationOptions],
    rows: Mapping[str, Row],
) -> None:
    """Segments a patient with all changes and adds the results to the rows."""
    tumour_free = ~(truth > 0).any(axis=(1, 2)) & stack.brain.any(axis=(1, 2))
    tumour_free_stack = replace(stack, images=stack.images[tumour_free], brain=stack.brain[tumour_free])
    for name, options in stages.items():
        alone = None
        with ExitStack() as patches:
            for function, replacement in REPLACEMENTS.get(name, {}).items():
                patches.enter_context(patch.object(mixture, function, replacement))
            mask = segment_slices(stack, model, found.card, options).outline.found
            if tumour_free.sum() >= _LEAST_SLICES:
                alone = segment_slices(tumour_free_stack, model, found.card, options).outline.found
        rows[name].dice.append(dice(mask, truth > 0.5))
        rows[name].within.append(float(mask[tumour_free].sum() * stack.voxel_ml))
        if alone is not None:
            rows[name].alone.append(float(alone.sum() * stack.voxel_ml))


def development_patients(names: Sequence[str]) -> set[str]:
    """The patients on which options are chosen."""
    options = ARCHITECTURES["selfseg"].recipe
    split = split_patients(names, options.validation, options.test, 0)
    return {*split.train, *split.validation}


def main() -> None:
    """Segments the patients and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("stages", nargs="*", metavar="STAGES", help=", ".join(STAGES))
    parser.add_argument("--seed", type=int, default=0, help="of the cross-validation")
    parser.add_argument("--others", action="store_true", help="use the eight patients on which options are not chosen")
    parser.add_argument("--trim", type=int, help="pixels; default: that of the card")
    given = parser.parse_args()
    stages = {name: STAGES[name] for name in given.stages or STAGES}
    rows = {name: Row() for name in stages}
    for run in sorted(given.runs.glob(f"seed{given.seed}-fold*")):
        found = find(str(run))
        model = found.load()
        cohort = read_cohort(given.data, found.card.modalities)
        development = development_patients([patient.name for patient in cohort.patients])
        for patient in cohort.named(found.card.data.test):
            if (patient.name in development) == given.others:
                continue
            scans = [read_volume(path) for path in patient.scans.values()]
            brain = brain_mask(scans[0])
            stack = to_stack(scans, brain, found.card.slices, found.card.trim if given.trim is None else given.trim)
            truth = onto_stack(read_mask(patient.truth, scans[0]), scans[0], stack)
            add_patient(stack, truth, found, CachedReconstructor(model), stages, rows)
    print("| stages | Dice | lowest | within, ml | alone, ml |\n|---|---|---|---|---|")
    for name, row in rows.items():
        if not row.dice:
            raise InputError(f"{given.runs}: contains no run of seed {given.seed}; give another folder or --seed")
        print(row.text(name))


if __name__ == "__main__":
    main()
