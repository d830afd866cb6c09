"""The protocol: masks against ground truth, by patient and slice, always beside the same stages without a network."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from brainseg_tf.cohort import Patient
from brainseg_tf.errors import InputError
from brainseg_tf.files import replacing
from brainseg_tf.metrics import dice, iou
from brainseg_tf.model_card import PAPER_IOU, ModelCard
from brainseg_tf.saved_model import Reconstructor
from brainseg_tf.segmentation import SegmentationOptions, segment
from brainseg_tf.slices import brain_mask, chosen
from brainseg_tf.volume import read_mask, read_volume

BASELINE = "no network"
# The slices that slice-wise metrics count: with this rule 54 % of BraTS' slices remain, the paper's "about half"
# (section 5.1). It is the same for every model, whatever slices that model learned from.
MIN_BRAIN, CENTRAL = 0.15, 0.7


@dataclass(frozen=True)
class Comparison:
    """One method's mask of one patient against the ground truth, on the scan's own grid.

    Attributes:
        method: the model's name, or ``BASELINE``.
        patient: the patient's name.
        dice, iou: of the whole volume.
        slices: IoU and Dice of each chosen slice that shows a lesion in the truth, (S, 2).
        overlap, union, total: voxels in both, in either, and summed over both, for pooling.
        lesion_ml, found_ml: volume in the truth and in the mask.
        false_ml: volume flagged in slices whose truth is empty.
    """

    method: str
    patient: str
    dice: float
    iou: float
    slices: np.ndarray
    overlap: int
    union: int
    total: int
    lesion_ml: float
    found_ml: float
    false_ml: float


def evaluate(
    patients: Sequence[Patient], model: Reconstructor, card: ModelCard, options: SegmentationOptions
) -> Iterator[Comparison | str]:
    """Segments patients with the model and, beside it, with the same stages on the input itself.

    Yields:
        Two comparisons for each patient, or one line on why it had to be left out.
    """
    # A level is in units of its score; only "none" means the same for both.
    baseline = replace(options, score="input", level=None if options.level else options.level)
    rule = replace(card.slices, min_brain=MIN_BRAIN, central=CENTRAL)
    for patient in patients:
        try:
            scans = [read_volume(path) for path in patient.scans.values()]
            truth = read_mask(patient.truth, scans[0])
            masks = {card.name: segment(scans, model, card, options).mask}
            masks[BASELINE] = segment(scans, model, card, baseline).mask
        except InputError as error:
            yield f"{patient.name}: left out, {error}"
            continue
        # Axial slices of an LPS volume lie along its last axis.
        used = chosen(np.moveaxis(brain_mask(scans[0]), -1, 0), rule)
        for method, mask in masks.items():
            yield compare(method, patient.name, mask, truth, used, scans[0].voxel_ml)


def compare(
    method: str, patient: str, mask: np.ndarray, truth: np.ndarray, used: np.ndarray, voxel_ml: float
) -> Comparison:
    """Compares (X, Y, Z) bool masks; ``used`` (Z,) bool are the slices that slice-wise metrics count."""
    sick = truth.any(axis=(0, 1))
    slices = [
        (iou(mask[..., z], truth[..., z]), dice(mask[..., z], truth[..., z])) for z in np.flatnonzero(sick & used)
    ]
    return Comparison(
        method=method,
        patient=patient,
        dice=dice(mask, truth),
        iou=iou(mask, truth),
        slices=np.array(slices).reshape(-1, 2),
        overlap=int(np.count_nonzero(mask & truth)),
        union=int(np.count_nonzero(mask | truth)),
        total=int(np.count_nonzero(mask) + np.count_nonzero(truth)),
        lesion_ml=float(np.count_nonzero(truth) * voxel_ml),
        found_ml=float(np.count_nonzero(mask) * voxel_ml),
        false_ml=float(np.count_nonzero(mask[..., ~sick]) * voxel_ml),
    )


def summarise(comparisons: Sequence[Comparison]) -> dict[str, float | int]:
    """Means of one method over patients, over slices, and pooled over all voxels."""
    slices = np.concatenate([one.slices for one in comparisons])
    overlap, union, total = (sum(getattr(one, key) for one in comparisons) for key in ("overlap", "union", "total"))
    return {
        "patients": len(comparisons),
        "dice_patient": float(np.mean([one.dice for one in comparisons])),
        "iou_patient": float(np.mean([one.iou for one in comparisons])),
        "slices": len(slices),
        "iou_slice": float(slices[:, 0].mean()) if len(slices) else float("nan"),
        "dice_slice": float(slices[:, 1].mean()) if len(slices) else float("nan"),
        "iou_pooled": overlap / union if union else 1.0,
        "dice_pooled": 2 * overlap / total if total else 1.0,
        "false_ml_median": float(np.median([one.false_ml for one in comparisons])),
    }


def write_csv(
    path: Path, comparisons: Sequence[Comparison], summaries: Mapping[str, Mapping[str, float | int]]
) -> None:
    """Writes a line per patient and method, then one per method with patient ``(all)`` and the means over patients."""
    fields = (
        "method",
        "patient",
        "dice",
        "iou",
        "iou_slice",
        "dice_slice",
        "slices",
        "lesion_ml",
        "found_ml",
        "false_ml",
    )
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*fields, "iou_pooled", "dice_pooled"), restval="", extrasaction="ignore")
        writer.writeheader()
        for one in comparisons:
            numbers = summarise([one])
            writer.writerow(asdict(one) | {key: numbers[key] for key in ("slices", "iou_slice", "dice_slice")})
        for method, numbers in summaries.items():
            means = {"dice": numbers["dice_patient"], "iou": numbers["iou_patient"]}
            writer.writerow(dict(numbers) | means | {"method": method, "patient": "(all)"})


def update_card(
    version_folder: Path,
    card: ModelCard,
    side: str,
    summaries: Mapping[str, Mapping[str, float | int]],
    options: SegmentationOptions,
) -> None:
    """Writes the measured metrics into a model's card, beside the paper's and the baseline's."""
    metrics = {
        "patients": side,
        "network": dict(summaries[card.name]),
        BASELINE: dict(summaries[BASELINE]),
        "paper_iou_slice": PAPER_IOU.get(card.architecture),
        "options": asdict(options),
    }
    replace(card, metrics=metrics).write(version_folder)
