"""Figures of an evaluation: Dice by patient, calibration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure

from brainseg_tf.drawing import label, log_if_positive, message, panels, save
from brainseg_tf.evaluation.case_metrics import Comparison
from brainseg_tf.evaluation.methods import MIXTURE_CUT, NO_NETWORK

# Largest width in inches. A wider figure cannot be read on a page.
_LARGEST_WIDTH = 16.0


def dice_by_patient(comparisons: Sequence[Comparison], path: Path | BinaryIO) -> None:
    """Plots the Dice of each patient, one marker per method; patients are sorted by the last method's Dice.

    Args:
        comparisons: those with the cut ``MIXTURE_CUT`` are used; a baseline is the last method.
        path: of the PNG file.
    """
    selected = [one for one in comparisons if one.cut == MIXTURE_CUT]
    if not selected:
        save(message("no patients"), path)
        return
    values_by_method: dict[str, dict[str, list[float]]] = {}
    for one in selected:
        values_by_method.setdefault(one.method, {}).setdefault(one.patient, []).append(one.dice)
    dice = {
        method: {patient: float(np.mean(values)) for patient, values in by_patient.items()}
        for method, by_patient in values_by_method.items()
    }
    baseline = list(dice.values())[-1]
    patients = {one.patient for one in selected}
    order = sorted(patients, key=lambda name: (name not in baseline, baseline.get(name, 0.0), name))
    width = max(6.0, 0.32 * len(order) + 2)
    figure, ((axis,),) = panels(1, 1, min(width, _LARGEST_WIDTH), 4.2)
    for method, by_patient in dice.items():
        values = [by_patient.get(name, np.nan) for name in order]
        known = [value for value in values if np.isfinite(value)]
        style: dict[str, Any] = {"color": "black", "marker": "_", "s": 120} if method == NO_NETWORK else {"alpha": 0.8}
        mean = f"{np.mean(known):.3f}" if known else "unknown"
        axis.scatter(range(len(order)), values, label=f"{method}, mean {mean}", **style)
    axis.set(ylabel="Dice, whole volume", ylim=(-0.02, 1.02), xlabel="patients, by the baseline's Dice")
    # With more patients than fit into this width, the names would overlap.
    labels = [label(name.removeprefix("BraTS19_")) for name in order] if width <= _LARGEST_WIDTH else []
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7, parse_math=False)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="lower right", fontsize=8)
    save(figure, path)


def reliability(counts: Mapping[str, np.ndarray], path: Path | BinaryIO) -> None:
    """Plots a reliability diagram, with one line per method.

    The upper panel shows the share of lesion voxels over the mean posterior in each bin, the lower panel the share of
    voxels in each bin.

    Args:
        counts: by method, ``metrics.reliability`` summed over all patients.
        path: of the PNG file.
    """
    figure = Figure(figsize=(4.6, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="calibrated")
    shares: list[float] = []
    for method, (voxels, expected, found) in ((name, table.T) for name, table in counts.items()):
        known = voxels > 0
        posterior, share = expected[known] / voxels[known], voxels[known] / max(float(voxels.sum()), 1.0)
        upper.plot(posterior, found[known] / voxels[known], marker="o", label=label(method))
        lower.plot(posterior, share, marker="o")
        shares += share.tolist()
    upper.set(ylabel="share of lesion", ylim=(-0.02, 1.02))
    lower.set(xlabel="posterior of a lesion", ylabel="voxels")
    log_if_positive(lower, "y", shares)
    upper.legend(fontsize=8)
    save(figure, path)
