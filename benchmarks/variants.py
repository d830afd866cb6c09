"""Comparison of variants of the networks and of their training that are not options of the package.

    python benchmarks/variants.py DATA [VARIANT ...] [--model cvae] [--epochs 30] --out DIR
    python benchmarks/variants.py DATA --scores RUN

The first command trains each variant. It prints the Dice for the whole tumour volumes of the 22 training and validation
patients of seed 0, and the false positive volume in their tumour-free slices. The test patients are not used. A variant
whose run is in DIR already is not trained again. The second command compares several scores of a trained variational
network. The results are in docs/experiments.md.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from brainseg_tf import saved_model, segmentation
from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.brain.mask import brain_mask
from brainseg_tf.corruption import Task, corrupt
from brainseg_tf.corruption.random_fields import Draws
from brainseg_tf.images.volume import Volume, read_mask, read_volume
from brainseg_tf.metrics import dice
from brainseg_tf.model_card import ModelCard
from brainseg_tf.models import create
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.options import CorruptionOptions, FitOptions, SliceOptions
from brainseg_tf.reconstruction import Reconstruction
from brainseg_tf.slices import Stack, onto_stack, to_stack
from brainseg_tf.training import fit as training
from brainseg_tf.training.cohort import Cohort, read_cohort, split_patients

# On these images squared errors are about a tenth of absolute errors. This weight keeps the ratio to the KL term.
_ABSOLUTE = 0.1
# Minimum of the KL divergence of each latent, in nats.
_FREE_NATS = 0.05
# Landmarks of the histogram standardisation.
_PERCENTILES = np.array([1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99])


@dataclass(frozen=True)
class Variant:
    """A change of a recipe.

    Attributes:
        change: changes the options.
        replacements: functions of the package that are replaced, by their dotted name.
    """

    change: Callable[[FitOptions], FitOptions] = lambda options: options
    replacements: dict[str, object] = field(default_factory=dict)


def kind(name: str, **others: object) -> Variant:
    """Another kind of corruption."""
    return Variant(lambda options: replace(options, corruption=CorruptionOptions(name, **others)))


def shapes(**others: float) -> Variant:
    """Squares and circles of other sizes or positions."""
    return Variant(lambda options: replace(options, corruption=replace(options.corruption, **others)))


def weights(**others: float) -> Variant:
    """Other weights of the objective's terms."""
    return Variant(lambda options: replace(options, objective=replace(options.objective, **others)))


def loss(error: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Variant:
    """Another reconstruction error."""
    return Variant(replacements={"brainseg_tf.models.objective.reconstruction_error": error})


def absolute(clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean absolute error."""
    return _ABSOLUTE * tf.reduce_mean(tf.abs(clean - reconstruction))


def ssim(clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """1 - structural similarity (Wang 2004)."""
    return _ABSOLUTE / 2 * (1 - tf.reduce_mean(tf.image.ssim(clean, reconstruction, 1.0, filter_size=7)))


def mix(clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean of squared error and structural similarity."""
    squared = tf.reduce_mean(tf.math.squared_difference(clean, reconstruction))
    return (squared + ssim(clean, reconstruction)) / 2


def free_bits(latent: Any) -> tf.Tensor:
    """KL divergence by image with a minimum for each latent (free bits, Kingma 2016)."""
    mean, stddev = latent.mean(), latent.stddev()
    by_latent = (mean**2 + stddev**2 - 1) / 2 - tf.math.log(stddev)
    return tf.reduce_sum(tf.maximum(by_latent, _FREE_NATS), axis=[1, 2, 3])


def foreign(images: tf.Tensor, seed: tf.Tensor, options: CorruptionOptions) -> Task:
    """One to five irregular blobs filled with another slice of the batch, made brighter or darker."""
    return _blobs(images, seed, lambda draws: tf.roll(images, 1, axis=0) * draws.log_uniform(0.6, 2.5, rank=4))


def blobs(images: tf.Tensor, seed: tf.Tensor, options: CorruptionOptions) -> Task:
    """One to five irregular blobs with a smooth edge and a random intensity, instead of squares and circles."""
    return _blobs(images, seed, lambda draws: draws.uniform(0.0, 1.0, rank=4) + tf.zeros_like(images))


def _blobs(images: tf.Tensor, seed: tf.Tensor, content: Callable[[Draws], tf.Tensor]) -> Task:
    draws = Draws(seed, tf.shape(images)[0])
    brain = tf.cast(tf.reduce_any(images > 0, axis=-1), tf.float32)
    height, width = images.shape[1:3]
    corrupted, hidden = images, tf.zeros_like(brain)
    for number in range(5):
        row, column = draws.pixel(brain)
        down = tf.range(height, dtype=tf.float32)[None, :, None] - row
        across = tf.range(width, dtype=tf.float32)[None, None, :] - column
        distance = tf.sqrt(down**2 + across**2) / draws.log_uniform(0.03 * height, 0.2 * height)
        share = tf.sigmoid((1 - distance + 0.4 * draws.field((height, width), 10)) * 6) * brain
        share *= 1.0 if number == 0 else draws.bernoulli(0.5)
        corrupted += share[..., None] * (content(draws) - corrupted)
        hidden = tf.maximum(hidden, tf.cast(share > 0.5, tf.float32))
    return Task(tf.clip_by_value(corrupted, 0, 1), images, hidden)


class Nyul:
    """Histogram standardisation (Nyul 1999): deciles of the brain are mapped to their mean over training patients."""

    def __init__(self, cohort: Cohort, names: Sequence[str]) -> None:
        scaled = []
        for patient in cohort.named(names):
            scan = read_volume(patient.scans["flair"])
            values = np.percentile(scan.data[brain_mask(scan)], _PERCENTILES)
            scaled.append((values - values[0]) / (values[-1] - values[0]))
        self.landmarks = 0.05 + 0.75 * np.mean(scaled, axis=0)

    def __call__(self, image: np.ndarray, brain: np.ndarray, method: str) -> np.ndarray:
        values = np.percentile(image[brain], _PERCENTILES)
        slope = (self.landmarks[-1] - self.landmarks[-2]) / max(values[-1] - values[-2], 1e-6)
        mapped = np.interp(image, values, self.landmarks) + slope * np.maximum(image - values[-1], 0)
        return np.where(brain, np.clip(mapped, 0, 1), 0).astype(np.float32)


def to_stack_25d(
    volumes: Sequence[Volume],
    brain: np.ndarray,
    options: SliceOptions,
    trim: int = 0,
    rotation: np.ndarray | None = None,
) -> Stack:
    """``to_stack`` with the slices 2 mm below and above each slice as further channels (2.5D)."""
    stack = to_stack(volumes, brain, options, trim, rotation)
    padded = np.pad(stack.images, ((2, 2), (0, 0), (0, 0), (0, 0)))
    return replace(stack, images=np.concatenate([padded[:-4], padded[2:-2], padded[4:]], axis=-1))


def three_channels(architecture: str, channels: int) -> ContextModel:
    """A network for the slices of ``to_stack_25d``."""
    return create(architecture, 3 * channels)


VARIANTS: dict[str, Variant] = {
    "base": Variant(),
    "augment": Variant(lambda options: replace(options, corruption=replace(options.corruption, augment=True))),
    "noise": kind("noise"),
    "shapes-and-noise": kind("both"),
    "lesions": kind("lesions"),
    "lesions-augment": kind("lesions", augment=True),
    "blobs": Variant(replacements={"brainseg_tf.corruption.task.corrupt": blobs}),
    "foreign": Variant(replacements={"brainseg_tf.corruption.task.corrupt": foreign}),
    "shapes-half-as-large": shapes(smallest=7.5 / 240, largest=20 / 240),
    "shapes-twice-as-large": shapes(smallest=30 / 240, largest=80 / 240),
    "shapes-wide": shapes(spread=0.3),
    "kl-0.002": weights(kl=0.002),
    "kl-0.05": weights(kl=0.05),
    "context-0": weights(context=0.0),
    "context-5": weights(context=5.0),
    "context-20": weights(context=20.0),
    "lesions-context-5": Variant(
        lambda options: weights(context=5.0).change(kind("lesions", augment=True).change(options))
    ),
    "free-bits": Variant(replacements={"brainseg_tf.models.objective.kl_by_image": free_bits}),
    "absolute": loss(absolute),
    "ssim": loss(ssim),
    "squared-and-ssim": loss(mix),
    "nyul": Variant(),
    "2.5D": Variant(
        replacements={
            "brainseg_tf.training.pipeline.to_stack": to_stack_25d,
            "brainseg_tf.training.calibration.to_stack": to_stack_25d,
            "brainseg_tf.training.fit.models.create": three_channels,
        }
    ),
    # Estimate of the random variation: other initial weights, order and corruption, the same patients.
    "seed-1": Variant(lambda options: replace(options, seed=1)),
    "seed-2": Variant(lambda options: replace(options, seed=2)),
}
# Variants whose slices differ from those of the other variants, so that they need a separate cache.
_SEPARATE_CACHE = ("nyul", "2.5D")


class DevelopmentSet:
    """The volumes of the training and validation patients, on which variants are compared.

    Args:
        cohort: all patients.
        card: of a model, with the split.
        make_stack: makes the slices.
    """

    def __init__(self, cohort: Cohort, card: ModelCard, make_stack: Callable[..., Stack] = to_stack) -> None:
        self.patients: list[tuple[Stack, np.ndarray, bool]] = []
        for side in ("train", "validation"):
            for patient in cohort.named(getattr(card.data, side)):
                scan = read_volume(patient.scans["flair"])
                stack = make_stack([scan], brain_mask(scan), card.slices, card.trim)
                truth = onto_stack(read_mask(patient.truth, scan), scan, stack)
                self.patients.append((stack, truth, side == "validation"))

    def print_row(self, name: str, note: str, outline: Callable[[Stack], np.ndarray]) -> None:
        """Segments the patients with ``outline`` and prints a row of the table."""
        by_patient, false_ml = [], []
        for stack, truth, _ in self.patients:
            mask = outline(stack)
            by_patient.append(dice(mask, truth > 0.5))
            false_ml.append(float(mask[~(truth > 0).any(axis=(1, 2))].sum() * stack.voxel_ml))
        validation = [one for one, (*_, is_validation) in zip(by_patient, self.patients, strict=True) if is_validation]
        print(
            f"{name:18} Dice {np.mean(by_patient):.3f}, validation {np.mean(validation):.3f}; "
            f"false ml {np.mean(false_ml):.2f}, 95 % {np.quantile(false_ml, 0.95):.2f}; {note}",
            flush=True,
        )


def try_variant(name: str, data: Path, out: Path, options: FitOptions, cohort: Cohort) -> None:
    """Trains a variant and prints its row."""
    variant, run, minutes = VARIANTS[name], out / name, 0.0
    options = variant.change(options)
    with ExitStack() as patches:
        for dotted_name, replacement in variant.replacements.items():
            patches.enter_context(mock.patch(dotted_name, replacement))
        names = [patient.name for patient in cohort.patients]
        split = split_patients(names, options.validation, options.test, 0)
        if name == "nyul":
            patches.enter_context(mock.patch("brainseg_tf.slices.normalise", Nyul(cohort, split.train)))
        if not (run / "1").exists():
            start = time.perf_counter()
            cache = out / "cache" / (name if name in _SEPARATE_CACHE else "")
            settings = training.RunSettings(split=split, cache=cache, say=lambda line: None, verbose=0)
            training.fit(data, run, options, settings)
            minutes = (time.perf_counter() - start) / 60
        found = saved_model.find(str(run))
        model = found.load()

        def outline(stack: Stack) -> np.ndarray:
            return segmentation.segment_slices(
                stack, model, found.card, segmentation.SegmentationOptions()
            ).outline.found

        make_stack = to_stack_25d if name == "2.5D" else to_stack
        DevelopmentSet(cohort, found.card, make_stack).print_row(name, f"{minutes:.0f} min", outline)


def compare_scores(cohort: Cohort, run: str) -> None:
    """Prints a row for each score of a variational network."""
    found = saved_model.find(run)
    model, development_set = found.load(), DevelopmentSet(cohort, found.card)
    # No score of these networks is a probability; the level only decides what is suspected, which is not compared.
    card = replace(found.card, healthy_levels={**found.card.healthy_levels, "probability": np.inf})
    signatures = tf.saved_model.load(str(found.path)).signatures

    def gradient(stack: Stack) -> np.ndarray:
        parts = (stack.images[start : start + 16] for start in range(0, len(stack.images), 16))
        score = np.concatenate(
            [signatures["anomaly_score"](images=tf.constant(part))["anomaly_score"] for part in parts]
        )
        # The gradient is noisy and has no natural scale.
        score = np.minimum(score / np.quantile(score[stack.brain], 0.999), 1)
        return np.sqrt(score)

    def averaged(stack: Stack) -> np.ndarray:
        """The residual of the mean of the reconstructions of eight corrupted copies."""
        copies = [
            corrupt(tf.constant(stack.images), tf.constant([number, 0]), CorruptionOptions()).corrupted.numpy()
            for number in range(8)
        ]
        mean = np.mean([model.reconstruct(copy).images for copy in copies], axis=0)
        return weighted(stack.images, mean)

    def weighted(images: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(images - reconstruction, 0) * images)[..., 0]

    scores: dict[str, Callable[[Stack], np.ndarray]] = {
        "weighted": lambda stack: weighted(stack.images, model.reconstruct(stack.images).images),
        "positive": lambda stack: np.maximum(stack.images - model.reconstruct(stack.images).images, 0)[..., 0],
        "absolute": lambda stack: np.abs(stack.images - model.reconstruct(stack.images).images)[..., 0],
        "KL gradient": gradient,
        "8 corruptions": averaged,
        "left against right": lambda stack: weighted(stack.images, stack.images[:, :, ::-1]),
    }
    for name, score in scores.items():
        reconstructor = _ScoreAsProbability(score)
        # There is no healthy threshold for most of these scores, so the brightest component is always the lesion.
        options = segmentation.SegmentationOptions(
            score="probability", median=(3, 5, 5), correct_bias_field=False, healthy_threshold=0.0
        )

        def outline(
            stack: Stack, reconstructor: _ScoreAsProbability = reconstructor, options: object = options
        ) -> np.ndarray:
            return segmentation.outline(stack, reconstructor.of(stack), card, options).found

        development_set.print_row(name, "--healthy-threshold 0", outline)


class _ScoreAsProbability:
    """Passes a score to the stages after the network as a lesion probability."""

    def __init__(self, score: Callable[[Stack], np.ndarray]) -> None:
        self._score = score

    def of(self, stack: Stack) -> Reconstruction:
        return Reconstruction(stack.images, self._score(stack).astype(np.float32))


def main() -> None:
    """Trains the variants or compares the scores, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--model", default="cvae", choices=list(ARCHITECTURES))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scores", metavar="RUN")
    given = parser.parse_args()
    cohort = read_cohort(given.data, ("flair",))
    if given.scores:
        compare_scores(cohort, given.scores)
        return
    options = replace(ARCHITECTURES[given.model].recipe, epochs=given.epochs, patience=given.epochs)
    for name in given.variants or VARIANTS:
        try_variant(name, given.data, given.out, options, cohort)


if __name__ == "__main__":
    main()
