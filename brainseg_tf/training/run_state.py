"""The callback that saves the state of a training run after every epoch and restores it."""

import csv
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import tensorflow as tf

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing
from brainseg_tf.keras_backend import keras
from brainseg_tf.links import for_tensorflow
from brainseg_tf.serving.export import explain_write_errors
from brainseg_tf.training import runs

Network = TypeVar("Network", bound=keras.Model)


class RunState(keras.callbacks.Callback):
    """Writes history, best weights and checkpoint after every epoch, and stops the training early.

    Keras' callbacks for these tasks keep the best loss and the patience in memory only, so a resumed run would start
    without them. Here both follow from ``history.csv``. The checkpoint is written last in each epoch.

    Args:
        folder: of the run.
        model: compiled.
        patience: training stops after this many epochs without a lower validation loss.
        writes: whether this process writes the files; True for one of several workers.
        counted_from: see ``runs.History``.
    """

    def __init__(
        self, folder: Path, model: keras.Model, patience: int, *, writes: bool = True, counted_from: int = 0
    ) -> None:
        super().__init__()
        self.folder, self.patience, self.writes = folder, patience, writes
        self.history = runs.History(counted_from=counted_from)
        self.best_weights = folder / "best.weights.h5"
        self.epoch = tf.Variable(0, dtype=tf.int64)
        model.optimizer.build(model.trainable_variables)
        state = [variable.value for variable in (*model.variables, *model.optimizer.variables)]
        self._checkpoint = tf.train.Checkpoint(state=state, epoch=self.epoch)
        with ExitStack() as stack:
            place = stack.enter_context(for_tensorflow(folder)) / runs.CHECKPOINTS
            # A link is needed as long as the state.
            weakref.finalize(self, stack.pop_all().close)
        try:
            self._manager = tf.train.CheckpointManager(self._checkpoint, str(place), max_to_keep=2)
        except UnicodeDecodeError as error:
            record = folder / runs.CHECKPOINTS / "checkpoint"
            raise InputError(f"{printable(record)}: is damaged; {runs.REMEDY}") from error

    @property
    def best(self) -> dict[str, float]:
        """The history's row with the lowest validation loss.

        Raises:
            InputError: no epoch has finite losses.
        """
        best = self.history.best
        if best is None:
            raise InputError(
                f"{printable(self.folder)}: no epoch has finite losses; start a new run with a lower "
                "--learning-rate and another --out"
            )
        return best

    @property
    def exhausted(self) -> bool:
        """Whether the last ``patience`` epochs did not lower the validation loss."""
        return self.history.exhausted(self.patience)

    def restore(self) -> int:
        """Restores the state after the last finished epoch.

        Returns:
            The number of finished epochs; 0 if there is no checkpoint yet.

        Raises:
            InputError: the checkpoint or the history is damaged or missing.
        """
        history = self.folder / runs.HISTORY
        rows = runs.read_history(history) if history.exists() else []
        checkpoints = self.folder / runs.CHECKPOINTS
        latest = self._manager.latest_checkpoint
        if latest is None:
            # A single row is no error: the run was interrupted between its first row and its first checkpoint.
            if len(rows) > 1:
                raise InputError(
                    f"{printable(checkpoints)}: no checkpoint found, but history.csv has {len(rows)} epochs; "
                    f"{runs.REMEDY}"
                )
            return 0
        try:
            self._checkpoint.restore(latest).assert_consumed()
        except Exception as error:  # TensorFlow raises errors of many classes here, some of them protobuf's.
            raise InputError(
                f"{printable(checkpoints)}: the checkpoint {Path(latest).name} is damaged; {runs.REMEDY}"
            ) from error
        done = int(self.epoch.numpy())
        if len(rows) < done:
            raise InputError(
                f"{printable(history)}: has {len(rows)} epochs, but the checkpoint has {done}; {runs.REMEDY}"
            )
        self.history.rows = rows[:done]
        return done

    def load_best(self, network: Network) -> Network:
        """Loads the best weights into a new network and returns it.

        It is not the trained model itself, because one worker cannot export variables that several devices share.

        Raises:
            InputError: the weights are damaged or missing, or no epoch has finite losses.
        """
        _ = self.best  # Without it no weights were written.
        try:
            network.load_weights(self.best_weights)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{printable(self.best_weights)}: cannot be read as weights; {runs.REMEDY}") from error
        return network

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row = {"epoch": epoch + 1} | {name: float(value) for name, value in (logs or {}).items()}
        self.history.rows.append(row)
        self.model.stop_training = self.exhausted
        if not self.writes:
            return
        with replacing(self.folder / runs.HISTORY) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(self.history.rows)
        if self.history.best is row:
            with replacing(self.best_weights) as temporary:
                self.model.save_weights(temporary)
        self.epoch.assign(epoch + 1)
        with explain_write_errors(self.folder / runs.CHECKPOINTS):
            self._manager.save()
