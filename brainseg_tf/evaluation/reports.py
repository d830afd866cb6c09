"""Output of an evaluation: a table for the console, CSV, JSON, and the metrics in the models' cards."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from brainseg_tf.evaluation.aggregate import summarise
from brainseg_tf.evaluation.case_metrics import Comparison
from brainseg_tf.evaluation.methods import CUTS, MIXTURE_CUT, NO_NETWORK
from brainseg_tf.files import replacing
from brainseg_tf.model_card import PAPER_IOU
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.saved_model import ModelFolder

Summaries = Mapping[tuple[str, str], Mapping[str, Any]]

_COLUMNS = (
    ("dice", "Dice"),
    ("dice_median", "median"),
    ("missed", "missed"),
    ("iou", "IoU"),
    ("iou_slice", "IoU slice"),
    ("dice_pooled", "pooled"),
    ("sensitivity", "sens."),
    ("precision", "prec."),
    ("hausdorff95", "HD95 mm"),
    ("average_precision", "AP"),
    ("brier", "Brier"),
    ("calibration_error", "ECE"),
    ("lesion_f1", "F1 lesion"),
    ("dice_small", "small"),
    ("dice_medium", "medium"),
    ("dice_large", "large"),
    ("false_ml_median", "false ml"),
    ("false_ml_p95", "95 %"),
    ("false_flagged", "any"),
    ("tumour_free_ml_median", "free ml"),
    ("tumour_free_ml_p95", "95 %"),
    ("tumour_free_flagged", "any"),
)
_FIELDS = (
    "seed",
    "method",
    "cut",
    "cohort",
    "patient",
    "dice",
    "iou",
    "iou_slice",
    "dice_slice",
    "slices",
    "sensitivity",
    "precision",
    "hausdorff95",
    "average_precision",
    "brier",
    "lesion_ml",
    "found_ml",
    "false_ml",
    "tumour_free_ml",
    "lesion_f1",
    "lesion_sensitivity",
    "lesions",
    "false_lesions",
)
# Columns of a patient's row that follow from his summary.
_SUMMARISED = ("slices", "iou_slice", "dice_slice", "lesion_f1", "lesion_sensitivity", "lesions", "false_lesions")


def by_cohort(comparisons: Sequence[Comparison]) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """The summaries of each cohort by its name; empty if there is only one cohort."""
    cohorts = sorted({one.cohort for one in comparisons})
    if len(cohorts) < 2:
        return {}
    return {name: by_method_and_cut([one for one in comparisons if one.cohort == name]) for name in cohorts}


def worst(summaries: Summaries) -> str:
    """A line for each method with the patients that have the lowest Dice with the cut ``MIXTURE_CUT``."""
    lines = []
    for (method, cut), numbers in summaries.items():
        if cut == MIXTURE_CUT:
            patients = ", ".join(
                f"{one['patient']} {one['dice']:.2f} ({one['lesion_ml']:.0f} ml, found {one['found_ml']:.0f})"
                for one in numbers["worst"]
            )
            lines.append(f"{method}, lowest Dice: {patients}")
    return "\n".join(lines)


def by_method_and_cut(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], dict[str, Any]]:
    """The summary of each method and cut, in the order of the comparisons' methods and of ``CUTS``."""
    methods = dict.fromkeys(one.method for one in comparisons)
    summaries = {}
    for method in methods:
        for cut in CUTS:
            selected = [one for one in comparisons if (one.method, one.cut) == (method, cut)]
            if selected:
                summaries[method, cut] = summarise(selected)
    return summaries


def table(summaries: Summaries) -> str:
    """Formats summaries as a table for the console, with one line per method and cut."""
    width = max([len(method) for method, _ in summaries] + [6])
    lines = [
        " ".join(
            [f"{'method':{width}} {'cut':10}", f"{'Dice, 95 % interval':>22}", *(f"{t:>9}" for _, t in _COLUMNS[1:])]
        )
    ]
    for (method, cut), numbers in summaries.items():
        low, high = numbers["dice_interval"]
        dice = f"{numbers['dice']:.3f} ({low:.3f} to {high:.3f})"
        rest = [_number(numbers[key]) for key, _ in _COLUMNS[1:]]
        lines.append(" ".join([f"{method:{width}} {cut:10}", f"{dice:>22}", *rest]))
    return "\n".join(lines)


def write_csv(path: Path, comparisons: Sequence[tuple[int, Comparison]]) -> None:
    """Writes comparisons with their seeds to a CSV file, with one row per seed, method, cut and patient."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _FIELDS)
        writer.writeheader()
        for seed, one in comparisons:
            numbers = summarise([one])
            row = asdict(one) | {key: numbers[key] for key in _SUMMARISED} | {"seed": seed}
            writer.writerow({name: "" if row[name] != row[name] else row[name] for name in _FIELDS})


def nested(summaries: Summaries) -> dict[str, dict[str, Any]]:
    """The summaries by method, then by cut; NaN becomes None, since JSON has no NaN."""
    result: dict[str, dict[str, Any]] = {}
    for (method, cut), numbers in summaries.items():
        result.setdefault(method, {})[cut] = {name: _without_nan(value) for name, value in numbers.items()}
    return result


def reliability(summaries: Summaries) -> dict[str, np.ndarray]:
    """``metrics.reliability``, summed over all patients, of each method with a posterior."""
    tables = {
        method: np.array(numbers["reliability"]) for (method, cut), numbers in summaries.items() if cut == MIXTURE_CUT
    }
    return {method: table for method, table in tables.items() if table.any()}


def update_card(
    found: ModelFolder, name: str, summaries: Summaries, patients: str, folds: int, options: SegmentationOptions
) -> None:
    """Writes the metrics of a model, of the baseline without a network and of the paper into the model's card.

    Args:
        found: the model.
        name: of its method in the summaries.
        summaries: of all methods.
        patients: description of the test patients.
        folds: number of folds if the model's recipe was tested by cross-validation; 0 if the model itself was tested.
        options: of the stages after the network.
    """
    card, numbers = found.card, nested(summaries)
    metrics = {
        "patients": patients,
        "folds": folds,
        "network": numbers[name],
        **({NO_NETWORK: numbers[NO_NETWORK][MIXTURE_CUT]} if NO_NETWORK in numbers else {}),
        "paper_iou_slice": PAPER_IOU.get(card.architecture),
        "options": asdict(options),
    }
    replace(card, metrics=metrics).write(found.path)


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:9}"
    return f"{value:9.3f}" if value == value else " " * 9


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value
