"""Figures of a segmented scan: the stages of the segmentation, and a thumbnail."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from brainseg_tf.drawing import finite, message, panels, save, upper_limit
from brainseg_tf.segmentation import Segmentation

# Rows of pixels between two slices in a column.
_GAP = 4
_LESION = ListedColormap(["#e8202a"])
_BRAIN = "#30c8e0"
# Pixels around the brain that are shown if the figure shows the head.
_HEAD_MARGIN = 14
_OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))


@dataclass(frozen=True)
class Backdrop:
    """What is drawn besides the result, on the model's slices.

    Attributes:
        scan: (N, H, W), the scan with what is outside the brain; drawn with the brain's outline if given.
        truth: (N, H, W) bool, the ground truth.
    """

    scan: np.ndarray | None = None
    truth: np.ndarray | None = None


def segmentation(result: Segmentation, path: Path | BinaryIO, backdrop: Backdrop | None = None, rows: int = 3) -> None:
    """Draws input, reconstruction, residual and result (figure 3 of the paper) as a PNG.

    There is a further panel for the scan with the brain's outline, if the scan is given, and for the probability, if
    the network gives one. The letters at the edges of the input panel
    are the patient's directions: right, left, anterior and posterior.

    Args:
        result: of ``segment``.
        path: the file, by its path or opened in binary mode.
        backdrop: the scan and the ground truth, for further panels.
        rows: number of slices: those with the largest lesion area, or with the largest brain area if there is no
            lesion.
    """
    backdrop = backdrop or Backdrop()
    images = result.stack.images[..., 0]
    if images.size == 0:
        save(message("no slices"), path)
        return
    selected = _slices_to_show(result, rows)
    box = bounding_box(result.stack.brain, 4 if backdrop.scan is None else _HEAD_MARGIN)
    top = upper_limit(images[result.stack.brain])
    grey, diverging = {"cmap": "gray", "vmin": 0, "vmax": top}, {"cmap": "RdBu_r", "vmin": -top / 2, "vmax": top / 2}
    head = {} if backdrop.scan is None else {"scan and brain": (backdrop.scan, _grey_of(backdrop.scan, result))}
    columns: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        **head,
        "input": (images, grey),
        "reconstruction": (result.reconstruction[..., 0], grey),
        "residual": (result.residual.mean(axis=-1), diverging),
    }
    if result.outline.kind == "probability":
        columns["probability"] = (result.outline.score, {"cmap": "magma", "vmin": 0, "vmax": 1})
    masks = {"result": result.outline.found} | ({"ground truth": backdrop.truth} if backdrop.truth is not None else {})

    def in_one_column(volume: np.ndarray) -> np.ndarray:
        """The selected slices below each other as one image, which is twice as fast to draw as one axis per slice."""
        values = volume.astype(np.float32)
        return np.concatenate([np.pad(values[z][box], ((0, _GAP), (0, 0)), constant_values=np.nan) for z in selected])

    names = [*columns, *masks]
    figure, axes = panels(1, len(names), 2.3 * len(names), 2.6 * len(selected))
    for axis, name in zip(axes[0], names, strict=True):
        volume, style = columns.get(name, columns["input"])
        drawn = axis.imshow(finite(in_one_column(volume)), interpolation="nearest", **style)
        if name in masks:
            lesion = in_one_column(np.where(masks[name], 1.0, np.nan))
            axis.imshow(finite(lesion), interpolation="nearest", cmap=_LESION, alpha=0.5, vmin=0, vmax=1)
        if name in head:
            brain = np.nan_to_num(in_one_column(result.stack.brain))
            axis.contour(brain, [0.5], colors=[_BRAIN], linewidths=0.8)
        axis.set_axis_off()
        axis.set_title(name, fontsize=10)
        if name == "residual":
            bar = figure.colorbar(drawn, ax=axis, location="bottom", shrink=0.8, aspect=30)
            bar.ax.tick_params(labelsize=7)
    height, width = (side // count for side, count in zip(in_one_column(images).shape, (len(selected), 1), strict=True))
    for row, z in enumerate(selected):
        label_slice(axes[0][0], cropped_affine(result.stack.affine, box), z, row * height, (height - _GAP, width))
    save(figure, path)


def _grey_of(scan: np.ndarray, result: Segmentation) -> dict[str, Any]:
    """The grey scale for a scan: up to the brightest brain tissue, because fat around the brain can be brighter."""
    low, high = (float(value) for value in np.percentile(scan[result.stack.brain], [0, 99.8]))
    return {"cmap": "gray", "vmin": min(low, float(scan.min())), "vmax": high}


def cropped_affine(affine: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """The affine of slices that are cropped to rows and columns, (4, 4), from (column, row, slice).

    Args:
        affine: of the whole slices.
        box: rows and columns, see ``bounding_box``.
    """
    corner = np.eye(4)
    corner[:2, 3] = box[1].start or 0, box[0].start or 0
    return affine @ corner


def label_slice(axis: Axes, affine: np.ndarray, z: int, upper: int, shape: tuple[int, int]) -> None:
    """Writes the patient's directions at the edges of a slice, and its z coordinate in millimetres.

    Args:
        axis: the panel.
        affine: (4, 4), from (column, row, slice) to millimetres in RAS world space.
        z: index of the slice.
        upper: first row of the slice in the panel.
        shape: rows and columns of the slice in the panel.
    """
    height, width = shape
    right, lower = (str(code) for code in nib.orientations.aff2axcodes(affine)[:2])
    middle_row, middle_column = upper + height / 2, width / 2
    # The outline makes the text readable on a bright scalp.
    common: dict[str, Any] = {
        "color": "white",
        "clip_on": True,
        "path_effects": [withStroke(linewidth=1.5, foreground="black")],
    }
    style = common | {"fontsize": 8, "ha": "center", "va": "center"}
    for letter, column, row in (
        (_OPPOSITE[right], 4, middle_row),
        (right, width - 5, middle_row),
        (_OPPOSITE[lower], middle_column, upper + 4),
        (lower, middle_column, upper + height - 5),
    ):
        axis.text(column, row, letter, **style)
    position_mm = float((affine @ [middle_column, height / 2, z, 1])[2])
    axis.text(2, upper + height - 3, f"z = {position_mm:.0f} mm", fontsize=7, **common)


def thumbnail(result: Segmentation, path: Path | BinaryIO) -> None:
    """Draws the slice with the largest lesion area, or else with the largest brain area, as a small PNG.

    Args:
        result: of ``segment``.
        path: the file, by its path or opened in binary mode.
    """
    if result.stack.images.size == 0:
        save(message("no slices"), path)
        return
    (z,) = _slices_to_show(result, 1)
    box = bounding_box(result.stack.brain)
    image, found = result.stack.images[z][box][..., 0], result.outline.found[z][box]
    figure = Figure(figsize=(1.8, 1.8 * image.shape[0] / image.shape[1]))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.imshow(finite(image), cmap="gray", vmin=0, vmax=upper_limit(image))
    axis.imshow(np.ma.masked_equal(found, 0), cmap=_LESION, alpha=0.5, vmin=0, vmax=1)
    save(figure, path)


def _slices_to_show(result: Segmentation, count: int) -> list[int]:
    """Indices of the slices with most lesion, or else with most brain, or else of the middle slice."""
    for volume in (result.outline.found, result.stack.brain):
        areas = volume.sum(axis=(1, 2))
        if areas.any():
            return largest_areas(areas, count)
    return [len(result.stack.brain) // 2]


def largest_areas(areas: np.ndarray, count: int, distance: int = 8) -> list[int]:
    """Indices of the slices with the largest areas, sorted and at least ``distance`` slices apart."""
    remaining, found = areas.astype(float), list[int]()
    while len(found) < count and remaining.max() > 0:
        z = int(remaining.argmax())
        found.append(z)
        remaining[max(0, z - distance + 1) : z + distance] = 0
    return sorted(found)


def bounding_box(brain: np.ndarray, margin: int = 4) -> tuple[slice, slice]:
    """Rows and columns around the brain, (N, H, W) bool; all of them if there is no brain."""
    if not brain.any():
        return slice(None), slice(None)
    ends = (np.flatnonzero(brain.any(axis=others))[[0, -1]] for others in ((0, 2), (0, 1)))
    rows, columns = (slice(max(0, low - margin), high + margin + 1) for low, high in ends)
    return rows, columns
