"""The figure of a comparison: both scans and what has changed, side by side on the grid of the scan before."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from brainseg_tf.drawing import panels, save, upper_limit
from brainseg_tf.images.background import head_mask
from brainseg_tf.prediction.comparison import Comparison
from brainseg_tf.prediction.figures import bounding_box, cropped_affine, label_slice, largest_areas
from brainseg_tf.prediction.longitudinal import APPEARED, DISAPPEARED, NOT_COVERED, STABLE

# None of the colours of the change map.
OUTLINE = "#20e080"
# Colours that are different for colour-blind readers too, by the values of the change map.
CHANGES = {
    STABLE: ("unchanged", "#f0c000"),
    APPEARED: ("new or grown", "#e8202a"),
    DISAPPEARED: ("gone or shrunk", "#30a0ff"),
    NOT_COVERED: ("not covered", "#a0a0a0"),
}
# Smallest distance between the slices that are shown.
_APART_MM = 8.0


def draw(result: Comparison, path: Path | BinaryIO, rows: int = 3) -> None:
    """Draws the scan before, the registered scan after, and the change map as a PNG.

    Args:
        result: of ``compare_time_points``.
        path: the file, by its path or opened in binary mode.
        rows: number of axial slices: those with the largest change, or else with the largest lesion or head area.
    """
    scan, changes = result.before.scan, result.change_map
    head = head_mask(scan.data)
    chosen = _slices(changes, head, rows, scan.spacing[2])
    # Rows and columns of a transposed slice point to the back and to the left, as in radiological convention.
    box = bounding_box(head.transpose(2, 1, 0))
    aspect = scan.spacing[1] / scan.spacing[0]
    volumes = {
        f"before, {result.before.lesion_ml:.1f} ml": (scan.data, result.before.mask),
        f"after, {result.after.lesion_ml:.1f} ml": (result.registered.data, result.registered_mask),
        "change": (result.registered.data, None),
    }
    shape = scan.data[:, :, 0].T[box].shape
    figure, axes = panels(len(chosen), len(volumes), 9.0, 3.0 * len(chosen) * aspect * shape[0] / shape[1] + 0.6)
    for column, (title, (data, mask)) in enumerate(volumes.items()):
        grey = {"cmap": "gray", "vmin": float(data[head].min()), "vmax": upper_limit(data[head & result.covered])}
        for row, z in enumerate(chosen):
            axis = axes[row][column]
            axis.imshow(data[:, :, z].T[box], aspect=aspect, interpolation="nearest", **grey)
            if mask is None:
                _overlay(axis, changes[:, :, z].T[box])
            elif mask[:, :, z].any():
                axis.contour(mask[:, :, z].T[box].astype(float), [0.5], colors=[OUTLINE], linewidths=1.0)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=10)
    for row, z in enumerate(chosen):
        label_slice(axes[row][0], cropped_affine(scan.affine, box), z, 0, (shape[0], shape[1]))
    shown = [Patch(color=colour, label=name) for value, (name, colour) in CHANGES.items() if (changes == value).any()]
    if shown:
        figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), fontsize=9, frameon=False)
    save(figure, path)


def _overlay(axis: Axes, changes: np.ndarray) -> None:
    """Draws a slice of the change map over a scan."""
    style: dict[str, Any] = {"cmap": ListedColormap([colour for _, colour in CHANGES.values()]), "alpha": 0.55}
    values = np.ma.masked_equal(changes, 0)
    axis.imshow(values, aspect=axis.get_aspect(), interpolation="nearest", vmin=0.5, vmax=len(CHANGES) + 0.5, **style)


def _slices(changes: np.ndarray, head: np.ndarray, rows: int, step_mm: float) -> list[int]:
    """Indices of the slices with the largest areas of change, or else of lesion, or else of the head, or the middle."""
    apart = max(1, round(_APART_MM / step_mm))
    found: list[int] = []
    for volume in (changes > STABLE, changes > 0, head):
        areas = volume.sum(axis=(0, 1)).astype(float)
        for z in found:
            areas[max(0, z - apart + 1) : z + apart] = 0
        if areas.any() and len(found) < rows:
            found += largest_areas(areas, rows - len(found), apart)
    return sorted(found) or [changes.shape[2] // 2]
