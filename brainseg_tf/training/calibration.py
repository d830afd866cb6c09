"""The healthy threshold, measured on healthy slices: when a network is exported, and again for another scanner."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import check_writable, printable, replacing
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import Score, SegmentationOptions, SliceOptions
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.saved_model import ModelFolder, copy_model
from brainseg_tf.segmentation import lesion_score, segment_slices
from brainseg_tf.slices import Stack, onto_stack, select_slices, to_stack
from brainseg_tf.training import figures
from brainseg_tf.training.cohort import Cohort, Patient
from brainseg_tf.training.scans import PatientScans, read_patient

# The healthy threshold is this quantile of the score over the brain in healthy slices.
HEALTHY_QUANTILE = 0.985
# Smallest healthy threshold of a probability: a pixel below it is more likely healthy than not.
EVEN_ODDS = 0.5
# Quantiles of the brain's intensities, which show whether a scanner differs from the training data.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Quantiles of the score by its kind.
ScoreQuantiles = dict[Score, float]
TABLE, FIGURE = "calibration.csv", "calibration.png"


@dataclass(frozen=True)
class CalibrationScan:
    """What was measured on one scan, in its healthy slices.

    Attributes:
        name: of the patient.
        quantile: 98.5 % quantile of the model's score over the brain.
        before_ml, after_ml: volume of the mask with the threshold of the model's card, and with the new one.
    """

    name: str
    quantile: float
    before_ml: float
    after_ml: float


@dataclass
class Calibration:
    """The result of a calibration.

    Attributes:
        levels: healthy threshold by kind of score.
        intensities: mean over the scans of the ``QUANTILES`` of the brain's normalised intensities.
        scans: what was measured on each scan.
        problems: one line about each scan that could not be used.
    """

    levels: dict[str, float]
    intensities: tuple[float, ...]
    scans: list[CalibrationScan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def healthy_levels(
    patients: Sequence[Patient],
    model: Reconstructor | None,
    options: SliceOptions,
    trim: int = 0,
    abnormal: Callable[[Stack, Reconstruction], np.ndarray] | None = None,
) -> dict[str, float]:
    """Healthy threshold of each kind of score.

    The 98.5 % quantile of the score over the brain is measured in the selected healthy slices of each patient. The
    threshold is the mean of these quantiles.

    Args:
        patients: the validation patients.
        model: the network; if None, only the threshold of the score ``input`` is measured.
        options, trim: how the network's slices are made; see ``ModelCard``.
        abnormal: for scans without segmentation, finds the slices that are not used, (N,) bool; without it all are
            used.

    Returns:
        The threshold by kind of score, in units of that score; none if there is no healthy slice.

    Raises:
        InputError: a scan cannot be read.
    """
    quantiles = []
    for patient in patients:
        scans = read_patient(patient)
        stack = to_stack(scans.volumes, scans.brain, options, trim)
        reconstruction = model.reconstruct(stack.images) if model else Reconstruction(stack.images)
        healthy = _healthy_slices(scans, stack, options)
        if scans.truth is None and abnormal:
            healthy &= ~abnormal(stack, reconstruction)
        quantiles.append(_score_quantiles(stack, reconstruction, healthy, model))
    return _mean_levels(quantiles)


def check_target(model: ModelFolder, out: Path) -> Path:
    """The folder of the calibrated version of a model.

    Raises:
        InputError: it exists already, or a file in ``out`` would be overwritten.
    """
    target = out / str(model.card.version + 1)
    for path in (target, out / TABLE, out / FIGURE):
        if path.exists():
            raise InputError(f"{printable(path)}: exists already; choose another --out")
        check_writable(path)
    return target


def calibrate(model: ModelFolder, cohort: Cohort, say: Callable[[CalibrationScan], None]) -> Calibration:
    """Measures the healthy threshold of a model on lesion-free scans, and what would be flagged in them.

    The scans are read twice, so that one of them is in memory at a time.

    Args:
        model: the model.
        cohort: the scans, assumed to be lesion-free where they have no segmentation.
        say: called with what was measured on each scan.

    Raises:
        InputError: no scan could be used.
    """
    card, network = model.card, model.load()
    usable: list[Patient] = []
    quantiles: list[ScoreQuantiles] = []
    brightness: list[np.ndarray] = []
    problems = []
    for patient in cohort.patients:
        try:
            stack, healthy = _read(patient, card)
        except InputError as error:
            problems.append(f"{patient.name}: left out, {error}")
            continue
        usable.append(patient)
        quantiles.append(_score_quantiles(stack, network.reconstruct(stack.images), healthy, network))
        brightness.append(np.quantile(stack.images[healthy][stack.brain[healthy]], QUANTILES))
        del stack
    if not usable:
        raise InputError(f"{cohort.title}: no scan could be used; the first problem: {problems[0]}")
    levels = _mean_levels(quantiles)
    intensities = tuple(float(value) for value in np.mean(brightness, axis=0))
    result = Calibration(levels, intensities, problems=problems)
    options = SegmentationOptions()
    for patient, of_scan in zip(usable, quantiles, strict=True):
        stack, healthy = _read(patient, card)
        stack = replace(stack, images=stack.images[healthy], brain=stack.brain[healthy])
        before, after = (
            float(segment_slices(stack, network, one, options).outline.found.sum() * stack.voxel_ml)
            for one in (card, replace(card, healthy_levels=levels))
        )
        result.scans.append(CalibrationScan(patient.name, of_scan[card.score], before, after))
        say(result.scans[-1])
        del stack
    return result


def write(result: Calibration, model: ModelFolder, target: Path) -> None:
    """Writes the version of a model with its new thresholds, and what was measured.

    Args:
        result: of ``calibrate``.
        model: the model.
        target: the folder of the new version, see ``check_target``.

    Raises:
        InputError: the folder cannot be written.
    """
    # The metrics were measured with the old thresholds.
    card = replace(
        model.card,
        version=model.card.version + 1,
        healthy_levels=result.levels,
        calibration={"scans": [one.name for one in result.scans], "intensities": result.intensities},
        metrics={},
    )
    with replacing(target) as temporary:
        copy_model(model, temporary)
        card.write(temporary)
    figures.calibration(result.scans, target.parent / FIGURE)
    with replacing(target.parent / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([one.name for one in fields(CalibrationScan)])
        writer.writerows([one.name, one.quantile, one.before_ml, one.after_ml] for one in result.scans)


def _read(patient: Patient, card: ModelCard) -> tuple[Stack, np.ndarray]:
    """A scan's slices, and which of them are healthy, (N,) bool.

    Raises:
        InputError: it cannot be read, or none is.
    """
    scans = read_patient(patient)
    stack = to_stack(scans.volumes, scans.brain, card.slices, card.trim)
    healthy = _healthy_slices(scans, stack, card.slices)
    if not healthy.any():
        selected = select_slices(stack.brain, card.slices).any()
        reason = "without a lesion" if selected else f"with at least {card.slices.min_brain:.0%} brain"
        raise InputError(f"{patient.scans[card.modalities[0]]}: has no slice {reason}")
    return stack, healthy


def _healthy_slices(scans: PatientScans, stack: Stack, options: SliceOptions) -> np.ndarray:
    """The selected slices without a lesion, as far as known, (N,) bool."""
    selected = select_slices(stack.brain, options)
    if scans.truth is None:
        return selected
    return selected & ~(onto_stack(scans.truth, scans.volumes[0], stack) > 0).any(axis=(1, 2))


def _score_quantiles(
    stack: Stack, reconstruction: Reconstruction, healthy: np.ndarray, model: Reconstructor | None
) -> ScoreQuantiles:
    """The 98.5 % quantile of each kind of score over the brain in healthy slices; none if there are no such slices."""
    quantiles: ScoreQuantiles = {}
    for kind in _score_kinds(model, reconstruction):
        inside, score = lesion_score(stack, reconstruction, kind, SegmentationOptions())
        values = score[inside & healthy[:, None, None]]
        if values.size:
            quantiles[kind] = float(np.quantile(values, HEALTHY_QUANTILE))
    return quantiles


def _mean_levels(quantiles: Sequence[Mapping[Score, float]]) -> dict[str, float]:
    """The healthy threshold of each kind of score, from its quantiles in several scans."""
    kinds = dict.fromkeys(kind for one in quantiles for kind in one)
    levels: dict[str, float] = {kind: float(np.mean([one[kind] for one in quantiles if kind in one])) for kind in kinds}
    if "probability" in levels:
        levels["probability"] = max(levels["probability"], EVEN_ODDS)
    return levels


def _score_kinds(model: Reconstructor | None, reconstruction: Reconstruction) -> tuple[Score, ...]:
    """The kinds of score that the model provides."""
    if model is None:
        return ("input",)
    return (
        "input",
        "absolute",
        "positive",
        "weighted",
        *(("probability",) if reconstruction.probability is not None else ()),
    )
