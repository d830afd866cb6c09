"""Figures: what a run learned, and what a prediction is made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import matplotlib
import numpy as np

from brainseg_tf.comparison import Comparison
from brainseg_tf.evaluation import MIXTURE, OWN
from brainseg_tf.files import replacing
from brainseg_tf.segmentation import Segmentation

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

_DPI = 110
# Rows of pixels between two slices of a column.
_GAP = 4
_LESION = ListedColormap(["#e8202a"])


def history(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Draws each loss term over the epochs, training and validation, to a PNG."""
    names = [name for name in rows[0] if name != "epoch" and not name.startswith("val_") and f"val_{name}" in rows[0]]
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.2), squeeze=False, layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot(epochs, [row[name] for row in rows], label="training")
        axis.plot(epochs, [row[f"val_{name}"] for row in rows], label="validation")
        axis.set(title=name, xlabel="epoch", yscale="log")
    axes[0][0].legend()
    _save(figure, path)


def reconstructions(clean: np.ndarray, corrupted: np.ndarray, restored: np.ndarray, path: Path) -> None:
    """Draws slices (N, H, W, C), as they are, corrupted and restored, one row each, to a PNG; the first channel."""
    columns = {"clean": clean, "corrupted": corrupted, "restored": restored, "difference": np.abs(clean - restored)}
    figure, axes = plt.subplots(
        len(clean), len(columns), figsize=(2.4 * len(columns), 2.5 * len(clean)), squeeze=False, layout="constrained"
    )
    for row, line in enumerate(axes):
        for axis, (title, images) in zip(line, columns.items(), strict=True):
            axis.imshow(images[row, ..., 0], cmap="gray", vmin=0, vmax=0.3 if title == "difference" else 0.8)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title)
    _save(figure, path)


def segmentation(result: Segmentation, path: Path | BinaryIO, truth: np.ndarray | None = None, rows: int = 3) -> None:
    """Draws input, reconstruction, residual and result (the paper's figure 3) on the slices with most lesion, as a PNG.

    A network that gives a lesion's probability has a panel for it too.

    Args:
        result: of ``segment``.
        path: the file's, or an open one.
        truth: (N, H, W) bool on the model's slices, for a further panel.
        rows: number of slices; the middle ones if there is no lesion.
    """
    areas = result.outline.found.sum(axis=(1, 2))
    chosen = _spread_out(areas if areas.any() else result.stack.brain.sum(axis=(1, 2)), rows)
    box = _bounding_box(result.stack.brain)
    images = result.stack.images[..., 0]
    top = float(np.quantile(images[result.stack.brain], 0.998))
    grey, even = {"cmap": "gray", "vmin": 0, "vmax": top}, {"cmap": "RdBu_r", "vmin": -top / 2, "vmax": top / 2}
    columns = {
        "input": (images, grey),
        "reconstruction": (result.reconstruction[..., 0], grey),
        "residual": (result.residual.mean(axis=-1), even),
    }
    if result.outline.kind == "probability":
        columns["probability"] = (result.outline.score, {"cmap": "magma", "vmin": 0, "vmax": 1})
    masks = {"result": result.outline.found} | ({"ground truth": truth} if truth is not None else {})

    def below_one_another(volume: np.ndarray) -> np.ndarray:
        """The chosen slices as one image: an axis for each would take twice as long to draw."""
        return np.concatenate([np.pad(volume[z][box], ((0, _GAP), (0, 0)), constant_values=np.nan) for z in chosen])

    names = [*columns, *masks]
    figure, axes = plt.subplots(
        1, len(names), figsize=(2.3 * len(names), 2.6 * len(chosen)), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        volume, shades = columns.get(name, columns["input"])
        drawn = axis.imshow(below_one_another(volume), interpolation="nearest", **shades)
        if name in masks:
            lesion = below_one_another(np.where(masks[name], 1.0, np.nan))
            axis.imshow(lesion, interpolation="nearest", cmap=_LESION, alpha=0.5, vmin=0, vmax=1)
        axis.set_axis_off()
        axis.set_title(name, fontsize=10)
        if name == "residual":
            bar = figure.colorbar(drawn, ax=axis, location="bottom", shrink=0.8, aspect=30)
            bar.ax.tick_params(labelsize=7)
    height = below_one_another(images).shape[0] // len(chosen)
    for row, z in enumerate(chosen):
        place = result.stack.affine[2, 3] + z * result.stack.spacing[0]
        bottom = (row + 1) * height - _GAP - 3
        axes[0][0].text(2, bottom, f"z = {place:.0f} mm", color="white", fontsize=7)
        # As radiologists look at it: the patient's right is on the left.
        axes[0][0].text(2, bottom - height / 2, "R", color="white", fontsize=8)
    _save(figure, path)


def thumbnail(result: Segmentation, path: Path) -> None:
    """Draws the slice with most lesion, or the middle one, and the lesion on it, as a small PNG."""
    areas = result.outline.found.sum(axis=(1, 2))
    (z,) = _spread_out(areas if areas.any() else result.stack.brain.sum(axis=(1, 2)), 1)
    box = _bounding_box(result.stack.brain)
    image, found = result.stack.images[z][box][..., 0], result.outline.found[z][box]
    figure, axis = plt.subplots(figsize=(1.4, 1.4 * image.shape[0] / image.shape[1]))
    axis.set_position((0, 0, 1, 1))
    axis.set_axis_off()
    axis.imshow(image, cmap="gray", vmin=0, vmax=float(np.quantile(image, 0.998)))
    axis.imshow(np.ma.masked_equal(found, 0), cmap=_LESION, alpha=0.5, vmin=0, vmax=1)
    _save(figure, path)


def volumes(ml: Sequence[float], odd: Sequence[bool], path: Path | BinaryIO) -> None:
    """Draws the lesion volumes of many scans, smallest first, those that are ``odd`` in orange, as a PNG."""
    order = np.argsort(ml)
    heights, colours = np.asarray(ml, float)[order], np.where(np.asarray(odd)[order], "#d98200", "#4477aa")
    figure, axis = plt.subplots(figsize=(8, 2.6), layout="constrained")
    axis.bar(range(len(heights)), heights, color=colours, width=0.8)
    axis.set(xlabel="scans, by lesion volume", ylabel="lesion, ml", xticks=[])
    axis.grid(axis="y", alpha=0.3)
    _save(figure, path)


def dice_by_patient(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draws each patient's Dice, by the baseline's, one mark per method (cut in its own way), to a PNG."""
    own = [one for one in comparisons if one.cut == OWN]
    methods = list(dict.fromkeys(one.method for one in own))
    order = sorted(
        {one.patient for one in own},
        key=lambda name: np.mean([one.dice for one in own if (one.patient, one.method) == (name, methods[-1])]),
    )
    figure, axis = plt.subplots(figsize=(max(6, 0.32 * len(order) + 2), 4.2), layout="constrained")
    for method in methods:
        dice = [np.mean([one.dice for one in own if (one.patient, one.method) == (name, method)]) for name in order]
        style = {"color": "black", "marker": "_", "s": 120} if method == MIXTURE else {"alpha": 0.8}
        axis.scatter(range(len(order)), dice, label=f"{method}, mean {np.mean(dice):.3f}", **style)
    axis.set(ylabel="Dice, whole volume", ylim=(-0.02, 1.02), xlabel="patients, by the baseline's Dice")
    axis.set_xticks(range(len(order)), [name.removeprefix("BraTS19_") for name in order], rotation=90, fontsize=7)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def reliability(counts: Mapping[str, np.ndarray], path: Path) -> None:
    """Draws the share of lesion by the posterior's tenths, and how many voxels have it, a line per method, to a PNG.

    Args:
        counts: by method, ``metrics.reliability`` of all patients together.
        path: the PNG's.
    """
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(4.6, 5.2), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    upper.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="calibrated")
    for method, (voxels, expected, found) in ((name, table.T) for name, table in counts.items()):
        known = voxels > 0
        upper.plot(expected[known] / voxels[known], found[known] / voxels[known], marker="o", label=method)
        lower.plot(expected[known] / voxels[known], voxels[known] / voxels.sum(), marker="o")
    upper.set(ylabel="share of lesion", ylim=(-0.02, 1.02))
    lower.set(xlabel="posterior of a lesion", ylabel="voxels", yscale="log")
    upper.legend(fontsize=8)
    _save(figure, path)


def _spread_out(areas: np.ndarray, count: int, apart: int = 8) -> list[int]:
    """Indices of the largest areas, from below up, at least ``apart`` slices from one another."""
    left, found = areas.astype(float), list[int]()
    while len(found) < count and left.max() > 0:
        z = int(left.argmax())
        found.append(z)
        left[max(0, z - apart + 1) : z + apart] = 0
    return sorted(found)


def _bounding_box(brain: np.ndarray, margin: int = 4) -> tuple[slice, slice]:
    """Rows and columns around the brain of (N, H, W)."""
    ends = (np.flatnonzero(brain.any(axis=others))[[0, -1]] for others in ((0, 2), (0, 1)))
    rows, columns = (slice(max(0, low - margin), high + margin + 1) for low, high in ends)
    return rows, columns


def _save(figure: Figure, path: Path | BinaryIO) -> None:
    if isinstance(path, Path):
        with replacing(path) as beside:
            figure.savefig(beside, dpi=_DPI, format="png")
    else:
        figure.savefig(path, dpi=_DPI, format="png")
    plt.close(figure)
