"""Figures: losses of a training run, stages of a segmentation, results of an evaluation.

The figures are drawn by ``matplotlib.figure.Figure`` objects. pyplot is not used, no setting of matplotlib is changed,
and several threads can draw at once. Names from files and commands are drawn as they are, never as mathematics.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, NullFormatter

from brainseg_tf.comparison import Comparison
from brainseg_tf.evaluation import MIXTURE, OWN
from brainseg_tf.files import printable, replacing
from brainseg_tf.segmentation import Segmentation

_DPI = 110
# Rows of pixels between two slices of a column.
_GAP = 4
_LESION = ListedColormap(["#e8202a"])
# Length of a label in characters: a longer one would leave no room for the axes.
_LABEL_LENGTH = 32
# Inches: a wider figure would have more pixels (2^16) than matplotlib can draw.
_LARGEST_WIDTH = 200.0
_OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))


def history(rows: Sequence[Mapping[str, float]], path: Path | BinaryIO) -> None:
    """Draws each loss term over the epochs, training and validation, to a PNG.

    Args:
        rows: one per epoch: ``epoch``, and each term as ``NAME`` and ``val_NAME``.
        path: of the PNG.
    """
    first = rows[0] if rows else {}
    names = [name for name in first if name != "epoch" and not name.startswith("val_") and f"val_{name}" in first]
    if not names:
        _save(_message("no epochs"), path)
        return
    figure, axes = _panels(1, len(names), 4.0 * len(names), 3.2)
    epochs = [row["epoch"] for row in rows]
    # A line through one point cannot be seen.
    marker = "o" if len(rows) == 1 else None
    for axis, name in zip(axes[0], names, strict=True):
        training, validation = ([row.get(key, np.nan) for row in rows] for key in (name, f"val_{name}"))
        axis.plot(epochs, training, label="training", marker=marker)
        axis.plot(epochs, validation, label="validation", marker=marker)
        axis.set_title(_label(name), parse_math=False)
        axis.set_xlabel("epoch")
        _log_if_positive(axis, "y", [*training, *validation])
    axes[0][0].legend()
    _save(figure, path)


def reconstructions(clean: np.ndarray, corrupted: np.ndarray, restored: np.ndarray, path: Path | BinaryIO) -> None:
    """Draws slices (N, H, W, C), as they are, corrupted and restored, one row each, to a PNG; the first channel."""
    if clean.size == 0:
        _save(_message("no slices"), path)
        return
    with np.errstate(invalid="ignore"):
        difference = np.abs(clean - restored)
    columns = {"clean": clean, "corrupted": corrupted, "restored": restored, "difference": difference}
    figure, axes = _panels(len(clean), len(columns), 2.4 * len(columns), 2.5 * len(clean))
    for row, line in enumerate(axes):
        for axis, (title, images) in zip(line, columns.items(), strict=True):
            axis.imshow(_finite(images[row, ..., 0]), cmap="gray", vmin=0, vmax=0.3 if title == "difference" else 0.8)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title)
    _save(figure, path)


def segmentation(result: Segmentation, path: Path | BinaryIO, truth: np.ndarray | None = None, rows: int = 3) -> None:
    """Draws input, reconstruction, residual and result (the paper's figure 3) on the slices with most lesion, as a PNG.

    A network that gives a lesion's probability has a panel for it too. The letters at the edges of the input panel are
    the patient's directions: right, left, anterior, posterior.

    Args:
        result: of ``segment``.
        path: the file's, or an open one.
        truth: (N, H, W) bool on the model's slices, for a further panel.
        rows: number of slices; the middle ones if there is no lesion.
    """
    images = result.stack.images[..., 0]
    if images.size == 0:
        _save(_message("no slices"), path)
        return
    chosen = _slices_to_show(result, rows)
    box = _bounding_box(result.stack.brain)
    top = upper_limit(images[result.stack.brain])
    grey, even = {"cmap": "gray", "vmin": 0, "vmax": top}, {"cmap": "RdBu_r", "vmin": -top / 2, "vmax": top / 2}
    columns: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "input": (images, grey),
        "reconstruction": (result.reconstruction[..., 0], grey),
        "residual": (result.residual.mean(axis=-1), even),
    }
    if result.outline.kind == "probability":
        columns["probability"] = (result.outline.score, {"cmap": "magma", "vmin": 0, "vmax": 1})
    masks = {"result": result.outline.found} | ({"ground truth": truth} if truth is not None else {})

    def below_one_another(volume: np.ndarray) -> np.ndarray:
        """The chosen slices as one image: an axis for each would take twice as long to draw."""
        filled = volume.astype(np.float32)
        return np.concatenate([np.pad(filled[z][box], ((0, _GAP), (0, 0)), constant_values=np.nan) for z in chosen])

    names = [*columns, *masks]
    figure, axes = _panels(1, len(names), 2.3 * len(names), 2.6 * len(chosen))
    for axis, name in zip(axes[0], names, strict=True):
        volume, shades = columns.get(name, columns["input"])
        drawn = axis.imshow(_finite(below_one_another(volume)), interpolation="nearest", **shades)
        if name in masks:
            lesion = below_one_another(np.where(masks[name], 1.0, np.nan))
            axis.imshow(_finite(lesion), interpolation="nearest", cmap=_LESION, alpha=0.5, vmin=0, vmax=1)
        axis.set_axis_off()
        axis.set_title(name, fontsize=10)
        if name == "residual":
            bar = figure.colorbar(drawn, ax=axis, location="bottom", shrink=0.8, aspect=30)
            bar.ax.tick_params(labelsize=7)
    height, width = (
        side // count for side, count in zip(below_one_another(images).shape, (len(chosen), 1), strict=True)
    )
    for row, z in enumerate(chosen):
        _label_slice(axes[0][0], result.stack.affine, z, row * height, (height - _GAP, width))
    _save(figure, path)


def _label_slice(axis: Axes, affine: np.ndarray, z: int, upper: int, shape: tuple[int, int]) -> None:
    """Writes the patient's directions at a slice's edges, and its height in millimetres.

    Args:
        axis: the panel.
        affine: (4, 4), from (column, row, slice) to RAS world space.
        z: the slice.
        upper: the row of the panel at which the slice begins.
        shape: rows and columns of the slice in the panel.
    """
    height, width = shape
    right, lower = (str(code) for code in nib.orientations.aff2axcodes(affine)[:2])
    middle_row, middle_column = upper + height / 2, width / 2
    style: dict[str, Any] = {"color": "white", "fontsize": 8, "ha": "center", "va": "center", "clip_on": True}
    for letter, column, row in (
        (_OPPOSITE[right], 4, middle_row),
        (right, width - 5, middle_row),
        (_OPPOSITE[lower], middle_column, upper + 4),
        (lower, middle_column, upper + height - 5),
    ):
        axis.text(column, row, letter, **style)
    position_mm = float((affine @ [middle_column, height / 2, z, 1])[2])
    axis.text(2, upper + height - 3, f"z = {position_mm:.0f} mm", color="white", fontsize=7, clip_on=True)


def thumbnail(result: Segmentation, path: Path | BinaryIO) -> None:
    """Draws the slice with most lesion, or the middle one, and the lesion on it, as a small PNG."""
    if result.stack.images.size == 0:
        _save(_message("no slices"), path)
        return
    (z,) = _slices_to_show(result, 1)
    box = _bounding_box(result.stack.brain)
    image, found = result.stack.images[z][box][..., 0], result.outline.found[z][box]
    figure = Figure(figsize=(1.8, 1.8 * image.shape[0] / image.shape[1]))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.imshow(_finite(image), cmap="gray", vmin=0, vmax=upper_limit(image))
    axis.imshow(np.ma.masked_equal(found, 0), cmap=_LESION, alpha=0.5, vmin=0, vmax=1)
    _save(figure, path)


def dice_by_patient(comparisons: Sequence[Comparison], path: Path | BinaryIO) -> None:
    """Draws each patient's Dice, by the baseline's, one mark per method (cut in its own way), to a PNG."""
    own = [one for one in comparisons if one.cut == OWN]
    if not own:
        _save(_message("no patients"), path)
        return
    found: dict[str, dict[str, list[float]]] = {}
    for one in own:
        found.setdefault(one.method, {}).setdefault(one.patient, []).append(one.dice)
    dice = {method: {name: float(np.mean(each)) for name, each in by.items()} for method, by in found.items()}
    baseline = list(dice.values())[-1]
    order = sorted({one.patient for one in own}, key=lambda name: (name not in baseline, baseline.get(name, 0.0), name))
    width = max(6.0, 0.32 * len(order) + 2)
    figure, ((axis,),) = _panels(1, 1, min(width, _LARGEST_WIDTH), 4.2)
    for method, by_patient in dice.items():
        values = [by_patient.get(name, np.nan) for name in order]
        known = [value for value in values if np.isfinite(value)]
        style: dict[str, Any] = {"color": "black", "marker": "_", "s": 120} if method == MIXTURE else {"alpha": 0.8}
        mean = f"{np.mean(known):.3f}" if known else "unknown"
        axis.scatter(range(len(order)), values, label=f"{method}, mean {mean}", **style)
    axis.set(ylabel="Dice, whole volume", ylim=(-0.02, 1.02), xlabel="patients, by the baseline's Dice")
    # Beyond this width the names would overlap.
    labels = [_label(name.removeprefix("BraTS19_")) for name in order] if width <= _LARGEST_WIDTH else []
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7, parse_math=False)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def reliability(counts: Mapping[str, np.ndarray], path: Path | BinaryIO) -> None:
    """Draws the share of lesion by the posterior's tenths, and how many voxels have it, a line per method, to a PNG.

    Args:
        counts: by method, ``metrics.reliability`` of all patients together.
        path: the PNG's.
    """
    figure = Figure(figsize=(4.6, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="calibrated")
    shares: list[float] = []
    for method, (voxels, expected, found) in ((name, table.T) for name, table in counts.items()):
        known = voxels > 0
        posterior, share = expected[known] / voxels[known], voxels[known] / max(float(voxels.sum()), 1.0)
        upper.plot(posterior, found[known] / voxels[known], marker="o", label=_label(method))
        lower.plot(posterior, share, marker="o")
        shares += share.tolist()
    upper.set(ylabel="share of lesion", ylim=(-0.02, 1.02))
    lower.set(xlabel="posterior of a lesion", ylabel="voxels")
    _log_if_positive(lower, "y", shares)
    upper.legend(fontsize=8)
    _save(figure, path)


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` x ``height`` inches, and its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _message(text: str) -> Figure:
    """A figure for a result that has nothing to draw."""
    figure = Figure(figsize=(3, 1.5))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def _log_if_positive(axis: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Makes an axis logarithmic if anything can be drawn on it then; its numbers are plain text, not mathematics.

    matplotlib's parser of mathematics, which draws powers of ten, cannot be used by two threads at once.
    """
    numbers = np.asarray(values, float)
    if not (np.isfinite(numbers) & (numbers > 0)).any():
        return
    axis.set(**{f"{which}scale": "log"})
    along = axis.yaxis if which == "y" else axis.xaxis
    along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axis.get_ylim() if which == "y" else axis.get_xlim()
    # Within a decade there may be no power of ten to show.
    within_a_decade = np.floor(np.log10(high)) <= np.floor(np.log10(low))
    along.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}") if within_a_decade else NullFormatter())


def _label(name: str) -> str:
    """A name from outside as a label: one line, of limited length, in characters that the font has."""
    known = _characters()
    text = "".join(one if ord(one) in known else one.encode("unicode_escape").decode() for one in printable(name))
    # matplotlib leaves labels that begin with an underscore out of a legend.
    text = f" {text}" if text.startswith("_") else text
    half = _LABEL_LENGTH // 2 - 1
    return text if len(text) <= _LABEL_LENGTH else f"{text[:half]}...{text[-half:]}"


@lru_cache(1)
def _characters() -> frozenset[int]:
    """Code points that the font of the labels has."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _finite(image: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.masked_invalid(image)


def upper_limit(values: np.ndarray) -> float:
    """The end of a grey scale: nearly the largest finite value, and above 0."""
    finite = values[np.isfinite(values)]
    top = float(np.quantile(finite, 0.998)) if finite.size else 0.0
    return top if top > 0 else 1.0


def _slices_to_show(result: Segmentation, count: int) -> list[int]:
    """Indices of the slices with most lesion, else with most brain, else of the middle one."""
    for volume in (result.outline.found, result.stack.brain):
        areas = volume.sum(axis=(1, 2))
        if areas.any():
            return _spread_out(areas, count)
    return [len(result.stack.brain) // 2]


def _spread_out(areas: np.ndarray, count: int, apart: int = 8) -> list[int]:
    """Indices of the largest areas, from below up, at least ``apart`` slices from one another."""
    left, found = areas.astype(float), list[int]()
    while len(found) < count and left.max() > 0:
        z = int(left.argmax())
        found.append(z)
        left[max(0, z - apart + 1) : z + apart] = 0
    return sorted(found)


def _bounding_box(brain: np.ndarray, margin: int = 4) -> tuple[slice, slice]:
    """Rows and columns around the brain of (N, H, W); all of them if there is no brain."""
    if not brain.any():
        return slice(None), slice(None)
    ends = (np.flatnonzero(brain.any(axis=others))[[0, -1]] for others in ((0, 2), (0, 1)))
    rows, columns = (slice(max(0, low - margin), high + margin + 1) for low, high in ends)
    return rows, columns


def _save(figure: Figure, path: Path | BinaryIO) -> None:
    if isinstance(path, Path):
        with replacing(path) as beside:
            figure.savefig(beside, dpi=_DPI, format="png")
    else:
        figure.savefig(path, dpi=_DPI, format="png")
