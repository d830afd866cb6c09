"""Figures: what a run learned, and what a prediction is made of."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from brainseg_tf.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)
from matplotlib.figure import Figure  # noqa: E402

_DPI = 110


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


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as beside:
        figure.savefig(beside, dpi=_DPI, format="png")
    plt.close(figure)
