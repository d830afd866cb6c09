"""Aggregation over patients: means with confidence intervals, pooled metrics and false positive volumes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from brainseg_tf.evaluation.case_metrics import Comparison
from brainseg_tf.metrics import calibration_error, cluster_interval

# Metrics whose mean over patients is reported, with its interval.
MEANS = (
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "hausdorff95",
    "average_precision",
    "brier",
    "lesion_f1",
)
# The columns of ``Comparison.slices``, whose mean over slices is reported.
SLICE_MEANS = ("iou_slice", "dice_slice")
# Number of the patients with the lowest Dice that are named.
_WORST = 5
SIZES = ("small", "medium", "large")


def summarise(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Aggregates the comparisons of one method and cut over patients.

    With several seeds a patient has several comparisons. Means are over all of them, intervals draw patients with all
    of theirs, and numbers of slices, lesions and missed lesions are means over the seeds.

    Args:
        comparisons: one or several of each patient.

    Returns:
        The aggregated metrics by name:

        - ``patients``, ``slices``: their numbers.
        - ``missed``: number of patients whose lesion is missed (``Comparison.missed``); ``missed_share``: their share
          of the patients with a lesion, and ``missed_share_interval``.
        - ``dice_median``, and ``worst``: the five patients with the lowest Dice, each with its volumes, of the seed
          with the lowest Dice.
        - ``lesion_sensitivity``: share of all lesions that are detected, and ``lesion_sensitivity_interval``;
          ``lesions``: their number; ``false_lesions``: mean number of the mask's components that are no lesion.
        - For each of ``MEANS`` its mean over the patients with a lesion, NaN left out, and ``<name>_interval``, the
          95 % bootstrap interval of the mean.
        - For each of ``SLICE_MEANS`` the mean over all slices of all patients, and its interval by a bootstrap that
          draws patients with all their slices.
        - ``dice_small``, ``dice_medium``, ``dice_large``: mean Dice of the patients in each third by lesion volume.
        - ``iou_pooled``, ``dice_pooled``: from the voxel counts of all patients.
        - False positive volumes in millilitres: in tumour-free slices (``false_ml_*``), in tumour-free slices that the
          method gets without the others (``tumour_free_ml_*``), and in patients without a lesion (``healthy_ml_*``).
          Each as ``*_median`` and ``*_p95``, the 95th percentile. ``false_flagged``, ``tumour_free_flagged`` and
          ``healthy_flagged`` are the shares of the patients whose volume is above 0.
        - ``reliability``: summed over all patients, and its ``calibration_error``.
    """
    abnormal = [one for one in comparisons if one.lesion_ml > 0]
    slices = np.concatenate([one.slices for one in comparisons])
    lowest: dict[str, Comparison] = {}
    for one in sorted(abnormal, key=lambda one: one.dice):
        lowest.setdefault(one.patient, one)
    numbers: dict[str, Any] = {
        "patients": len({one.patient for one in comparisons}),
        "slices": _total(comparisons, [len(one.slices) for one in comparisons]),
        "missed": _total(abnormal, [one.missed for one in abnormal]),
        "missed_share": _mean([one.missed for one in abnormal]),
        "missed_share_interval": _interval(abnormal, [one.missed for one in abnormal]),
        "dice_median": float(np.median([one.dice for one in abnormal])) if abnormal else float("nan"),
        "worst": [
            {
                "patient": one.patient,
                **{name: round(getattr(one, name), 3) for name in ("dice", "lesion_ml", "found_ml")},
            }
            for one in list(lowest.values())[:_WORST]
        ],
        **_by_lesion(comparisons),
    }
    for name in MEANS:
        values = [getattr(one, name) for one in abnormal]
        numbers[name] = _mean(values)
        numbers[f"{name}_interval"] = _interval(abnormal, values)
    for column, name in enumerate(SLICE_MEANS):
        numbers[name] = _mean(slices[:, column])
        numbers[f"{name}_interval"] = _interval(abnormal, [one.slices[:, column] for one in abnormal])
    ranked = sorted(abnormal, key=lambda one: one.lesion_ml)
    for size, third in zip(SIZES, np.array_split(np.arange(len(ranked)), len(SIZES)), strict=True):
        numbers[f"dice_{size}"] = _mean([ranked[k].dice for k in third])
    overlap, union, total = (sum(getattr(one, key) for one in comparisons) for key in ("overlap", "union", "total"))
    numbers["iou_pooled"] = overlap / union if union else 1.0
    numbers["dice_pooled"] = 2 * overlap / total if total else 1.0
    false_positive_ml = {
        "false": [one.false_ml for one in comparisons],
        "tumour_free": [one.tumour_free_ml for one in comparisons],
        "healthy": [one.found_ml for one in comparisons if one.lesion_ml == 0],
    }
    for name, values in false_positive_ml.items():
        known = np.asarray(values, float)[~np.isnan(values)] if values else np.zeros(0)
        numbers[f"{name}_ml_median"] = float(np.median(known)) if known.size else float("nan")
        numbers[f"{name}_ml_p95"] = float(np.percentile(known, 95)) if known.size else float("nan")
        numbers[f"{name}_flagged"] = _mean(known > 0)
    counts = np.sum([one.reliability for one in comparisons], axis=0)
    numbers["reliability"] = counts.round(1).tolist()
    numbers["calibration_error"] = calibration_error(counts)
    return numbers


def _by_lesion(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Detection by lesion; NaN if it was not measured."""
    measured = [one for one in comparisons if one.lesions is not None]
    counts = [one.lesions for one in measured if one.lesions is not None]
    detected = [one.detected for one in counts]
    return {
        "lesions": _total(measured, [len(one) for one in detected]) if measured else float("nan"),
        "lesion_sensitivity": _mean(np.concatenate(detected)) if detected else float("nan"),
        "lesion_sensitivity_interval": _interval(measured, detected),
        "false_lesions": _mean([one.false for one in counts]),
    }


def _interval(comparisons: Sequence[Comparison], values: Sequence[float] | Sequence[np.ndarray]) -> list[float]:
    """The interval of the mean of one or several values of each comparison, by a bootstrap that draws patients."""
    return list(cluster_interval(_of_patients(comparisons, values)))


def _total(comparisons: Sequence[Comparison], values: Sequence[float]) -> int | float:
    """The sum over patients of their means over seeds, as an integer if it is whole, for instance with one seed."""
    total = sum(float(of_patient.mean()) for of_patient in _of_patients(comparisons, values))
    return round(total) if abs(total - round(total)) < 1e-9 else total


def _of_patients(comparisons: Sequence[Comparison], values: Sequence[float] | Sequence[np.ndarray]) -> list[np.ndarray]:
    """The values of each patient, with all seeds."""
    of_patient: dict[str, list[np.ndarray]] = {}
    for one, value in zip(comparisons, values, strict=True):
        of_patient.setdefault(one.patient, []).append(np.atleast_1d(np.asarray(value, float)))
    return [np.concatenate(parts) for parts in of_patient.values()]


def _mean(values: Sequence[float] | np.ndarray) -> float:
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")
