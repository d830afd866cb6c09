"""What a user sees of a training while it runs: a line per epoch with the time left, figures, and TensorBoard."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from brainseg_tf.corruption import corrupt
from brainseg_tf.keras_backend import keras
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.options import FitOptions
from brainseg_tf.training import figures
from brainseg_tf.training.pipeline import CachedSlices
from brainseg_tf.training.runs import Say, check_tensorboard

# Shortest time in seconds between two drawings of the figures, each of which takes about one second.
DRAWING_INTERVAL_S = 30.0


class Progress(keras.callbacks.Callback):
    """Says a line after each epoch, with the time that the remaining ones will take, and renews the figures.

    Args:
        epochs: number of epochs of the run.
        say: called with each line.
        draw: called after an epoch if the last call is ``DRAWING_INTERVAL_S`` ago; None if nothing is drawn.
    """

    def __init__(self, epochs: int, say: Say, draw: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.epochs, self.say, self.draw = epochs, say, draw
        self._started = self._drawn = time.monotonic()
        self._seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._seconds.append(time.monotonic() - self._started)
        # The first epoch includes the compilation of the graph.
        steady = self._seconds[1:] or self._seconds
        left = sum(steady) / len(steady) * (self.epochs - epoch - 1)
        losses = {name: value for name, value in (logs or {}).items() if name in ("loss", "val_loss")}
        values = ", ".join(f"{name.replace('val_', 'validation ')} {value:.4f}" for name, value in losses.items())
        self.say(f"epoch {epoch + 1} of {self.epochs}: {values}; {duration(left)} left")
        if self.draw and time.monotonic() - self._drawn >= DRAWING_INTERVAL_S:
            self.draw()
            self._drawn = time.monotonic()


def duration(seconds: float) -> str:
    """A time for readers: ``40 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def tensorboard(folder: Path) -> keras.callbacks.Callback:
    """The callback that writes the losses for TensorBoard.

    Raises:
        InputError: TensorBoard is not installed.
    """
    check_tensorboard()
    return keras.callbacks.TensorBoard(str(folder), write_graph=False)


def draw_figures(
    model: ContextModel,
    history: Sequence[dict[str, float]],
    validation: Sequence[CachedSlices],
    options: FitOptions,
    out: Path,
) -> None:
    """Draws losses.png and reconstructions.png of a run, with the network as it is at the time."""
    # Eagerly: for a single batch the XLA compilation takes longer than it saves.
    samples, seed = tf.constant(_samples(validation)), tf.zeros(2, tf.int32)
    task = corrupt(samples, seed, options.corruption, given_lesions=options.given_lesions)
    reconstructed = model.outputs(task.corrupted)["reconstruction"].numpy()
    figures.history(history, out / "losses.png")
    figures.reconstructions(task.clean.numpy(), task.corrupted.numpy(), reconstructed, out / "reconstructions.png")


def _samples(cached: Sequence[CachedSlices], count: int = 4) -> np.ndarray:
    """Slices at increasing height, from different patients if possible, (count, H, W, C)."""
    samples = []
    for k in range(count):
        slices = cached[k % len(cached)]
        row = slices.rows[(2 * k + 1) * len(slices.rows) // (2 * count)]
        samples.append(np.load(slices.file, mmap_mode="r")[row])
    return np.stack(samples)
