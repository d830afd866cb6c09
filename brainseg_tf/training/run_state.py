"""The state of a training run on disk: history, best weights and checkpoint after every epoch."""

import csv
from pathlib import Path

import tensorflow as tf

from brainseg_tf import models
from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing
from brainseg_tf.keras_backend import keras
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.options import FitOptions
from brainseg_tf.serving.export import written
from brainseg_tf.training import runs


class RunState(keras.callbacks.Callback):
    """History, best weights, checkpoint and early stopping of a run, on disk after every epoch.

    Keras' own callbacks for these keep their state in memory, so a resumed run would forget its best epoch and its
    patience. Here everything follows from ``history.csv`` and from the checkpoint, which is written last.

    Args:
        folder: of the run.
        model: compiled.
        patience: epochs without a lower validation loss after which training stops.
        writes: whether this process writes; of several workers that train one network, one does.
    """

    def __init__(self, folder: Path, model: ContextModel, patience: int, *, writes: bool = True) -> None:
        super().__init__()
        self.folder, self.patience, self.writes = folder, patience, writes
        self.history = runs.History()
        self.best_weights = folder / "best.weights.h5"
        self.epoch = tf.Variable(0, dtype=tf.int64)
        model.optimizer.build(model.trainable_variables)
        state = [variable.value for variable in (*model.variables, *model.optimizer.variables)]
        self._checkpoint = tf.train.Checkpoint(state=state, epoch=self.epoch)
        place = folder / runs.CHECKPOINTS
        try:
            self._manager = tf.train.CheckpointManager(self._checkpoint, str(place), max_to_keep=2)
        except UnicodeDecodeError as error:
            raise InputError(f"{printable(place / 'checkpoint')}: is damaged; {runs.REMEDY}") from error

    @property
    def best(self) -> dict[str, float]:
        """The history's row with the lowest validation loss.

        Raises:
            InputError: no epoch's loss is a number.
        """
        best = self.history.best
        if best is None:
            raise InputError(
                f"{printable(self.folder)}: the validation loss of no epoch is a number; begin anew with a lower "
                "--learning-rate and another --out"
            )
        return best

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` epochs have gone by without a better validation loss."""
        return self.history.exhausted(self.patience)

    def restore(self) -> int:
        """Brings back the state after the last whole epoch; returns how many epochs that is.

        Raises:
            InputError: the checkpoint or the history is damaged or missing.
        """
        history = self.folder / runs.HISTORY
        rows = runs.read_history(history) if history.exists() else []
        place = self.folder / runs.CHECKPOINTS
        newest = self._manager.latest_checkpoint
        if newest is None:
            # One row: the run ended after it and before its checkpoint.
            if len(rows) > 1:
                raise InputError(f"{printable(place)}: holds no checkpoint of {len(rows)} epochs; {runs.REMEDY}")
            return 0
        try:
            self._checkpoint.restore(newest).assert_consumed()
        except Exception as error:  # TensorFlow raises errors of many kinds here, protobuf's among them.
            raise InputError(
                f"{printable(place)}: the checkpoint {Path(newest).name} is damaged; {runs.REMEDY}"
            ) from error
        done = int(self.epoch.numpy())
        if len(rows) < done:
            raise InputError(f"{printable(history)}: has {len(rows)} epochs, the checkpoint {done}; {runs.REMEDY}")
        self.history = runs.History(rows[:done])
        return done

    def best_network(self, options: FitOptions) -> ContextModel:
        """A network of its own with the best weights: one that several devices hold cannot be exported by one of them.

        Raises:
            InputError: the weights are damaged or missing.
        """
        network = models.create(options.architecture, len(options.modalities))
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
        with replacing(self.folder / runs.HISTORY) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(self.history.rows)
        if self.history.best is row:
            with replacing(self.best_weights) as beside:
                self.model.save_weights(beside)
        self.epoch.assign(epoch + 1)
        with written(self.folder / runs.CHECKPOINTS):
            self._manager.save()
