"""Figures of a training run: losses and reconstructions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from brainseg_tf.drawing import finite, label, log_if_positive, message, panels, save

if TYPE_CHECKING:
    from brainseg_tf.training.calibration import CalibrationScan


def history(rows: Sequence[Mapping[str, float]], path: Path | BinaryIO) -> None:
    """Plots the training and validation value of each loss term over the epochs.

    Args:
        rows: one per epoch: ``epoch``, and each term as ``NAME`` and ``val_NAME``.
        path: of the PNG file.
    """
    first = rows[0] if rows else {}
    names = [name for name in first if name != "epoch" and not name.startswith("val_") and f"val_{name}" in first]
    if not names:
        save(message("no epochs"), path)
        return
    figure, axes = panels(1, len(names), 4.0 * len(names), 3.2)
    epochs = [row["epoch"] for row in rows]
    # A line with a single point is invisible.
    marker = "o" if len(rows) == 1 else None
    for axis, name in zip(axes[0], names, strict=True):
        training, validation = ([row.get(key, np.nan) for row in rows] for key in (name, f"val_{name}"))
        axis.plot(epochs, training, label="training", marker=marker)
        axis.plot(epochs, validation, label="validation", marker=marker)
        axis.set_title(label(name), parse_math=False)
        axis.set_xlabel("epoch")
        log_if_positive(axis, "y", [*training, *validation])
    axes[0][0].legend()
    save(figure, path)


def calibration(scans: Sequence["CalibrationScan"], path: Path | BinaryIO) -> None:
    """Plots what is flagged in each lesion-free scan before and after a calibration.

    Args:
        scans: what was measured.
        path: of the PNG file.
    """
    figure, ((axis,),) = panels(1, 1, 6.0, 1.2 + 0.3 * max(3, len(scans)))
    rows = np.arange(len(scans))
    for offset, name, values in (
        (-0.18, "before", [one.before_ml for one in scans]),
        (0.18, "after", [one.after_ml for one in scans]),
    ):
        axis.barh(rows + offset, values, 0.34, label=f"{name}: {sum(value > 0 for value in values)} of {len(scans)}")
    axis.set_yticks(rows, [label(one.name) for one in scans], fontsize=8, parse_math=False)
    axis.invert_yaxis()
    axis.set(xlabel="flagged in lesion-free slices, ml")
    axis.set_xlim(0, max(1.0, 1.05 * max(max(one.before_ml, one.after_ml) for one in scans)))
    axis.legend(title="scans with a mask")
    save(figure, path)


def reconstructions(clean: np.ndarray, corrupted: np.ndarray, reconstructed: np.ndarray, path: Path | BinaryIO) -> None:
    """Draws the first channel of slices, one row per slice.

    Args:
        clean: (N, H, W, C), the slices.
        corrupted: (N, H, W, C), the corrupted slices.
        reconstructed: (N, H, W, C), their reconstructions.
        path: of the PNG file.
    """
    if clean.size == 0:
        save(message("no slices"), path)
        return
    with np.errstate(invalid="ignore"):
        difference = np.abs(clean - reconstructed)
    columns = {"clean": clean, "corrupted": corrupted, "reconstruction": reconstructed, "difference": difference}
    figure, axes = panels(len(clean), len(columns), 2.4 * len(columns), 2.5 * len(clean))
    for row, line in enumerate(axes):
        for axis, (title, images) in zip(line, columns.items(), strict=True):
            axis.imshow(finite(images[row, ..., 0]), cmap="gray", vmin=0, vmax=0.3 if title == "difference" else 0.8)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title)
    save(figure, path)
