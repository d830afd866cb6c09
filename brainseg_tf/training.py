"""Training: from a folder of patients to a SavedModel with its card (section 5.2). Resumable after any kill."""

import csv
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import tensorflow as tf

from brainseg_tf import figures, models, runs, saved_model
from brainseg_tf.calibration import healthy_levels
from brainseg_tf.cohort import Cohort, Split, read_cohort, split_patients
from brainseg_tf.corruption import CorruptionTask, corrupt
from brainseg_tf.distribution import Distribution, steps_in_epoch
from brainseg_tf.errors import InputError
from brainseg_tf.files import alone, make_folder, printable, replacing
from brainseg_tf.keras_backend import keras
from brainseg_tf.model_card import ModelCard, TrainingData, training_options, versions
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.pipeline import CachedSlices, batches, cache_slices, ordered_batches
from brainseg_tf.recipes import FitOptions
from brainseg_tf.runs import read_history
from brainseg_tf.workers import Strategy

__all__ = ["KerasReconstructor", "Run", "Say", "compiled", "fit", "read_history"]

Say = Callable[[str], None]


def fit(
    data: Path,
    out: Path,
    options: FitOptions,
    *,
    split: Split | None = None,
    resume: bool = False,
    cache: Path | None = None,
    strategy: Strategy = "single",
    say: Say = print,
    verbose: int = 2,
) -> Path:
    """Trains a network on the healthy slices of a cohort and exports it.

    A run that is resumed can be lengthened: the options may have more epochs than it was begun with (or fewer, but not
    fewer than it has behind it). From there on the learning rate follows the cosine of the new number of epochs, so it
    rises at once from where the old one had it, and the weights are not those of a run that was begun with that number.
    A run that stopped early, for lack of a better validation loss, cannot be lengthened. One that is finished stays as
    it is, unless its exported model is missing or damaged: then it is exported again.

    Args:
        data: a folder in the BraTS 2019 layout.
        out: the run's folder: checkpoints, history and figures, and the SavedModel as version ``out/1``.
        split: which patients stand on which side; drawn from the options if None.
        resume: go on with the run that ``out`` holds, with the same options but for the number of epochs; at most the
            epoch that was under way is repeated.
        cache: where decoded slices are kept; ``out/cache`` if None.
        strategy: which devices train; with several hosts all of them call this, with folders that they share.
        say: takes a line for the user.
        verbose: as in ``keras.Model.fit``; 1 shows progress bars.

    Returns:
        The exported version folder.

    Raises:
        InputError: no usable patients, or ``out`` does not fit ``resume`` and ``options``.
    """
    # Before the workers wait for each other: what one of them finds, all do.
    finished = runs.check_run(out, options, resume=resume)
    if finished is not None:
        say(runs.nothing_to_do(out))
        return finished.path
    cohort = read_cohort(data, options.modalities)
    make_folder(out)
    # Several workers are in one folder by intention.
    with nullcontext() if strategy == "multi-worker" else alone(out):
        return _fit(data, cohort, out, options, split, resume, cache or out / "cache", strategy, say, verbose)


def _fit(
    data: Path,
    cohort: Cohort,
    out: Path,
    options: FitOptions,
    split: Split | None,
    resume: bool,
    cache: Path,
    strategy: Strategy,
    say: Say,
    verbose: int,
) -> Path:
    together = None
    if strategy != "single":
        say("waiting until all workers are there" if strategy == "multi-worker" else "training on all devices")
        together = Distribution(strategy)
        say(together.describe())
        together.check_batch(options.batch)
    cached = _decode(cohort, options, cache, together, say, bar=verbose == 1)
    names = [slices.patient for slices in cached]
    record = runs.read_record(out) if resume else None
    if record:
        # Patients who came later change no side.
        split = record.split
    elif split is None:
        split = split_patients(names, options.validation, options.test, options.seed)
    training, validation = (_of(cached, side) for side in (split.train, split.validation))
    for name, side in (("training", training), ("validation", validation)):
        count = sum(slices.healthy for slices in side)
        say(f"{name}: {len(side)} patients, {count} healthy slices")
        if count == 0:
            raise InputError(f"{data}: no healthy slice for {name}; lower --min-brain or raise --central")
    writes = together is None or together.chief
    if record and record.epochs != options.epochs:
        say(
            f"the run goes on to {options.epochs} epochs instead of {record.epochs}; from here on the learning rate "
            f"follows the cosine of {options.epochs} epochs"
        )
    if writes and (record is None or record.epochs != options.epochs):
        runs.write_record(out, options, split, record)

    steps = steps_in_epoch(training, options.batch, together.workers if together else 1)
    with together.strategy.scope() if together else nullcontext():
        model = compiled(options, steps)
        run = Run(out, model, options.patience, writes=writes)
    first = run.restore()
    if first:
        say(f"resuming after {first} epochs")
    if first < options.epochs and not run.exhausted:
        if together:
            together.fit(model, training, validation, options, first=first, callbacks=[run], verbose=verbose)
        else:
            model.fit(
                batches(training, options.batch, options.seed, first_epoch=first, epochs=options.epochs),
                validation_data=ordered_batches(validation, options.batch),
                initial_epoch=first,
                epochs=options.epochs,
                steps_per_epoch=steps,
                callbacks=[run],
                verbose=verbose,
                shuffle=False,
            )
    target = out / "1"
    if writes:
        losses, best = run.best, run.best_network(options)
        say(f"measuring the healthy level on {len(cohort.named(split.validation))} validation scans")
        card = _card(best, out.resolve().name, options, cohort, cached, split, losses)
        say("drawing losses.png and reconstructions.png")
        _draw(best, run.history.rows, _of(cached, split.validation), options, out)
        say(f"exporting the model as {target}")
        saved_model.export(best, card, target)
    if together:
        together.total([0])  # Nobody leaves before the model is there.
    return target


def compiled(options: FitOptions, steps: int) -> ContextModel:
    """A new network, ready to train ``steps`` steps an epoch."""
    keras.utils.set_random_seed(options.seed)
    model = models.create(options.architecture, len(options.modalities))
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps * options.epochs, alpha=0.01)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        corruption=CorruptionTask(options.corruption),
        objective=options.objective,
        # XLA makes these networks several times slower on a CPU and faster on a GPU.
        jit_compile=bool(tf.config.list_physical_devices("GPU")),
    )
    return model


class KerasReconstructor:
    """A network that is still in Keras' hands, as ``segmentation`` wants it."""

    def __init__(self, model: ContextModel) -> None:
        self._outputs = tf.function(model.outputs, reduce_retracing=True)

    def reconstruct(self, images: np.ndarray) -> saved_model.Reconstruction:
        return saved_model.in_batches(images, 16, self._numbers)

    def _numbers(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values.numpy() for name, values in self._outputs(tf.constant(images)).items()}


class Run(keras.callbacks.Callback):
    """History, best weights, checkpoint and early stopping of a run, all on disk after every epoch.

    Keras' own callbacks for these four keep their state in memory only, so a resumed run would forget its best epoch
    and its patience. Here all of it follows from ``history.csv`` and the checkpoint, which is written last. Of several
    workers that train one network, one ``writes``.
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
        rows = read_history(history) if history.exists() else []
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
        with saved_model.written(self.folder / runs.CHECKPOINTS):
            self._manager.save()


def _decode(
    cohort: Cohort, options: FitOptions, folder: Path, together: Distribution | None, say: Say, *, bar: bool
) -> list[CachedSlices]:
    for problem in cohort.problems:
        say(problem)
    if together:
        for _ in cache_slices(together.share(cohort.patients), options.slices, folder):
            pass
        together.total([0])  # From here on all of it is there, for all of them.
    cached: list[CachedSlices] = []
    progress = keras.utils.Progbar(len(cohort.patients), unit_name="patient") if bar else None
    for done, result in enumerate(cache_slices(cohort.patients, options.slices, folder), start=1):
        if isinstance(result, str):
            say(result)
        else:
            cached.append(result)
        if progress:
            progress.update(done)
    slices, chosen, healthy = (sum(getattr(one, key) for one in cached) for key in ("slices", "chosen", "healthy"))
    if not healthy:
        raise InputError(f"{cohort.folder}: no healthy slice in {len(cached)} readable patients; nothing to learn from")
    say(f"{len(cached)} patients, {slices} slices, {chosen} chosen ({chosen / slices:.0%}), {healthy} of them healthy")
    return cached


def _of(cached: Sequence[CachedSlices], names: Sequence[str]) -> list[CachedSlices]:
    return [slices for slices in cached if slices.patient in set(names) and slices.healthy]


def _draw(
    model: ContextModel,
    history: Sequence[dict[str, float]],
    validation: Sequence[CachedSlices],
    options: FitOptions,
    out: Path,
) -> None:
    """The figures of a finished run."""
    # As it is: for one batch XLA takes longer than it spares.
    task = corrupt(tf.constant(_samples(validation)), tf.zeros(2, tf.int32), options.corruption)
    restored = model.outputs(task.corrupted)["reconstruction"]
    figures.history(history, out / "losses.png")
    figures.reconstructions(task.clean.numpy(), task.corrupted.numpy(), restored.numpy(), out / "reconstructions.png")


def _card(
    model: ContextModel,
    name: str,
    options: FitOptions,
    cohort: Cohort,
    cached: Sequence[CachedSlices],
    split: Split,
    losses: dict[str, float],
) -> ModelCard:
    reconstructor = KerasReconstructor(model)
    return ModelCard(
        name=name,
        version=1,
        architecture=options.architecture,
        parameters=model.count_params(),
        modalities=options.modalities,
        slices=options.slices,
        data=_describe(cohort, cached, split),
        training=training_options(options),
        losses=losses,
        score=model.score,
        trim=model.trim,
        healthy_levels=healthy_levels(cohort.named(split.validation), reconstructor, options.slices, model.trim),
        versions=versions(),
    )


def _samples(cached: Sequence[CachedSlices], count: int = 4) -> np.ndarray:
    """Healthy slices from low to high, one patient after another, (N, H, W, C)."""
    picked = []
    for k in range(count):
        slices = cached[k % len(cached)]
        picked.append(np.load(slices.file, mmap_mode="r")[(2 * k + 1) * slices.healthy // (2 * count)])
    return np.stack(picked)


def _describe(cohort: Cohort, cached: Sequence[CachedSlices], split: Split) -> TrainingData:
    return TrainingData(
        patients=len(cached),
        slices=sum(slices.slices for slices in cached),
        chosen=sum(slices.chosen for slices in cached),
        healthy=sum(slices.healthy for slices in cached),
        train=split.train,
        validation=split.validation,
        test=split.test,
    )
