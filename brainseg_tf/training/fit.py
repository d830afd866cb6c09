"""Training (section 5.2): from a folder of patients to a SavedModel with its card. Runs can be resumed at any point."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import tensorflow as tf

from brainseg_tf import models
from brainseg_tf.card_schema import LARGEST_LEVEL
from brainseg_tf.corruption import CorruptionTask
from brainseg_tf.errors import InputError
from brainseg_tf.files import exclusive_lock, make_folder
from brainseg_tf.keras_backend import keras
from brainseg_tf.model_card import ModelCard, TrainingData, terms_of, training_options, versions
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.options import RANDOM_WEIGHTS, FitOptions
from brainseg_tf.reconstruction import Reconstruction, in_batches
from brainseg_tf.serving.export import export
from brainseg_tf.slices import Stack
from brainseg_tf.training import run_data, runs
from brainseg_tf.training.calibration import healthy_levels
from brainseg_tf.training.cohort import Cohort, Patient, read_cohort
from brainseg_tf.training.distribution import Distribution, steps_in_epoch
from brainseg_tf.training.initial_weights import load_weights
from brainseg_tf.training.pipeline import CachedSlices, Part, batches, ordered_batches
from brainseg_tf.training.progress import Progress, draw_figures, tensorboard
from brainseg_tf.training.run_state import RunState
from brainseg_tf.training.runs import RunSettings, Say, read_history
from brainseg_tf.training.screening import (
    LeftOut,
    abnormal_slices,
    find_abnormal,
    read_rounds,
    unlike_others,
    write_rounds,
)

# The sides of a split that have slices, by their names in messages.
_SIDES = {"training": "train", "validation": "validation"}
__all__ = ["KerasReconstructor", "RunSettings", "Say", "compiled", "fit", "read_history"]


def fit(data: Path | Sequence[Path], out: Path, options: FitOptions, settings: RunSettings | None = None) -> Path:
    """Trains a network on the healthy slices of a cohort and exports it.

    A resumed run can have a different number of epochs, which must not be below the number of finished epochs. The
    learning rate then follows the cosine schedule of the new number. A larger number therefore raises it at once, and
    the final weights differ from those of a run that was started with that number. A run that ended by early stopping
    cannot be continued. A finished run is not changed, but a missing or damaged model is exported again.

    Args:
        data: one or several folders in the BraTS 2019 layout, see ``read_cohort``.
        out: the folder of the run: checkpoints, history, figures, and the SavedModel as version ``out/1``.
        options: of the network, its data and its training.
        settings: how the run is carried out.

    Returns:
        The folder of the exported model version.

    Raises:
        InputError: there are no usable patients, or ``out`` does not fit ``settings.resume`` and ``options``.
    """
    settings = settings or RunSettings()
    if options.initial != (settings.initial.identity if settings.initial else RANDOM_WEIGHTS):
        raise ValueError("options.initial must be the identity of settings.initial")
    # This comes before the workers wait for each other; the result is the same for all of them.
    finished = runs.check_run(out, options, resume=settings.resume)
    if finished is not None:
        settings.say(runs.nothing_to_do(out, options))
        return finished.path
    cohort = read_cohort(data, options.modalities, options.labels)
    make_folder(out)
    # Several workers share the folder, so it cannot be locked by one of them.
    with nullcontext() if settings.strategy == "multi-worker" else exclusive_lock(out):
        return _fit(cohort, out, options, settings)


def _fit(cohort: Cohort, out: Path, options: FitOptions, settings: RunSettings) -> Path:
    say, workers = settings.say, _workers(options, settings)
    cached = run_data.cache_cohort(cohort, options, settings.cache or out / "cache", workers, settings)
    record = runs.read_record(out) if settings.resume else None
    split = run_data.split_of(cohort, cached, options, settings, record)
    if options.slices.normalisation == "robust":
        for line in unlike_others(cached):
            say(line)
    readable = {one.patient for one in cached}
    if record and settings.split is None:
        runs.check_readable(out, split, readable)
    sides = {name: run_data.slices_of(cached, getattr(split, side)) for name, side in _SIDES.items()}
    for name, side in sides.items():
        count = sum(slices.used for slices in side)
        say(f"{name}: {len(side)} patients, {count} slices")
        if readable.isdisjoint(getattr(split, _SIDES[name])):
            raise InputError(f"{cohort.title}: no patient for {name} can be read; see the lines above")
        if count == 0:
            raise InputError(f"{cohort.title}: no slice for {name}; lower --min-brain or raise --central")
    validation = [patient for patient in cohort.named(split.validation) if patient.name in readable]
    if options.given_lesions and not healthy_levels(validation, None, options.slices):
        raise InputError(
            f"{cohort.title}: every slice for validation shows a lesion, so the healthy threshold cannot be measured; "
            "add patients"
        )
    writes_files = workers is None or workers.chief
    if record and record.epochs != options.epochs:
        say(
            f"the run continues to {options.epochs} epochs instead of {record.epochs}; the learning rate now follows "
            f"the cosine schedule of {options.epochs} epochs"
        )
    if writes_files and (record is None or record.epochs != options.epochs):
        runs.write_record(out, options, split, record)

    steps = steps_in_epoch(sides["training"], options.batch, workers.workers if workers else 1, options.examples)
    with workers.strategy.scope() if workers else nullcontext():
        model = compiled(options, steps)
        if settings.initial:
            load_weights(model, settings.initial)
        state = RunState(out, model, options.patience, writes=writes_files, counted_from=options.counted_from)
    done = state.restore()
    if done:
        say(f"resuming after {done} epochs")
    used = sides

    def draw() -> None:
        draw_figures(model, state.history.rows, used["validation"], options, out)

    callbacks: list[keras.callbacks.Callback] = [state]
    if writes_files:
        callbacks.append(Progress(options.epochs, say, draw))
        if settings.tensorboard:
            callbacks.append(tensorboard(settings.tensorboard))
    for start, stop in pairwise((*options.round_starts, options.epochs)):
        if done >= stop or state.exhausted:
            continue
        if start or options.screens_first:
            find = partial(
                find_abnormal, model=KerasReconstructor(model), kind=model.score, columns=options.columns, epochs=start
            )
            left_out = _left_out([*sides["training"], *sides["validation"]], state, find, start, done, say)
            used = {name: left_out.apply(side) for name, side in sides.items()}
        for name, side in used.items():
            if not side:
                raise InputError(
                    f"{cohort.title}: the network flags every slice for {name} as abnormal; give other scans, or "
                    "--rounds 0 to use all slices"
                )
        _train_part(model, callbacks, used, range(done, stop), steps, options, workers, settings)
        done = stop
    target = out / "1"
    if writes_files:
        best = state.load_best(models.create(options.architecture, len(options.modalities)))
        say("drawing losses.png and reconstructions.png")
        draw_figures(best, state.history.rows, used["validation"], options, out)
        rounds = read_rounds(out)
        flagged = rounds[-1].rows if rounds else {}
        data = run_data.describe(
            [replace(one, left_out=flagged.get(one.patient, ())) for one in cached], cohort, split, settings
        )
        _export(best, state, validation, data, options, target, settings)
    if workers:
        workers.barrier()  # No worker returns before the model is exported.
    return target


def _train_part(
    model: ContextModel,
    callbacks: list[keras.callbacks.Callback],
    sides: Mapping[str, Sequence[CachedSlices]],
    epochs: range,
    steps: int,
    options: FitOptions,
    workers: Distribution | None,
    settings: RunSettings,
) -> None:
    """Trains for some epochs on the same slices. The parameters are what ``_fit`` has prepared for all parts."""
    training, validation = sides["training"], sides["validation"]
    if workers:
        workers.fit(
            model,
            training,
            validation,
            options,
            epochs=epochs,
            steps=steps,
            callbacks=callbacks,
            verbose=settings.verbose,
        )
        return
    # The learning rate's schedule needs the same number of steps in all parts, also if slices or patients are left out.
    unchanged = steps_in_epoch(training, options.batch, 1, options.examples) == steps
    count = options.examples or (None if unchanged else steps * options.batch)
    model.fit(
        batches(
            training,
            options.batch,
            options.seed,
            first_epoch=epochs.start,
            epochs=epochs.stop,
            part=Part(count),
            columns=options.columns,
        ),
        validation_data=ordered_batches(validation, options.batch, options.validation_examples, options.columns),
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        steps_per_epoch=steps,
        callbacks=callbacks,
        verbose=settings.verbose,
        shuffle=False,
    )


def _export(
    best: ContextModel,
    state: RunState,
    validation: Sequence[Patient],
    data: TrainingData,
    options: FitOptions,
    target: Path,
    settings: RunSettings,
) -> None:
    """Measures the healthy threshold on the validation patients, and exports the network with its card."""
    say = settings.say
    say(f"measuring the healthy threshold on {len(validation)} validation scans")

    def abnormal(stack: Stack, reconstruction: Reconstruction) -> np.ndarray:
        return abnormal_slices(stack.images, stack.brain, reconstruction, best.score)

    screens = options.labels == "none" and options.rounds > 0
    measure = partial(healthy_levels, validation, KerasReconstructor(best), options.slices, best.trim)
    # If the final network flags every slice, all are used.
    levels = (measure(abnormal) if screens else {}) or measure()
    if not levels:
        raise InputError(f"{target.parent}: the scans for validation changed and have no healthy slice; restore them")
    if (largest := max(levels.values())) > LARGEST_LEVEL:
        raise InputError(
            f"{target.parent}: the residual in healthy tissue is {largest:.0f} times the range of the input, so the "
            "training diverged; start a new run with a lower --learning-rate and another --out"
        )
    card = ModelCard(
        name=target.parent.resolve().name,
        version=1,
        architecture=options.architecture,
        parameters=best.count_params(),
        modalities=options.modalities,
        slices=options.slices,
        data=data,
        training=training_options(options),
        losses=state.best,
        score=best.score,
        trim=best.trim,
        healthy_levels=levels,
        terms=terms_of((*data.train, *data.validation), settings.initial.card if settings.initial else None),
        versions=versions(),
    )
    say(f"exporting the model as {target}")
    export(best, card, target)


def _left_out(
    cached: Sequence[CachedSlices],
    state: RunState,
    find: Callable[[Sequence[CachedSlices]], LeftOut],
    start: int,
    done: int,
    say: Say,
) -> LeftOut:
    """The slices that are left out in the part of the training that begins after ``start`` epochs.

    They are looked for once, with the weights at that time, and recorded in the run's folder.

    Args:
        cached: the slices of training and validation.
        state: of the run.
        find: looks for them with the present weights.
        start: number of epochs before the part.
        done: number of finished epochs; larger than ``start`` if the run was interrupted within the part.
        say: called with a line for the user.
    """
    rounds = [one for one in read_rounds(state.folder) if one.epochs <= done]
    if rounds and (rounds[-1].epochs == start or done > start):
        return rounds[-1]
    found = find(cached)
    say(found.describe(cached))
    if state.writes:
        write_rounds(state.folder, [*rounds, found])
    return found


def _workers(options: FitOptions, settings: RunSettings) -> Distribution | None:
    """The distribution strategy; None for a single device."""
    if settings.strategy == "single":
        return None
    multi = settings.strategy == "multi-worker"
    settings.say("waiting for all workers" if multi else "training on all devices")
    workers = Distribution(settings.strategy)
    settings.say(workers.describe())
    workers.check_batch(options.batch)
    return workers


def compiled(options: FitOptions, steps: int) -> ContextModel:
    """A new, compiled network.

    Args:
        options: of the run.
        steps: training steps in an epoch, from which the learning rate schedule follows.
    """
    keras.utils.set_random_seed(options.seed)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    policy = {"float32": None, "mixed": "mixed_float16" if on_gpu else "mixed_bfloat16"}[options.precision]
    model = models.create(options.architecture, len(options.modalities), policy)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps * options.epochs, alpha=0.01)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        corruption=CorruptionTask(options.corruption, given_lesions=options.given_lesions),
        objective=options.objective,
        # XLA makes these networks several times slower on a CPU, and faster on a GPU.
        jit_compile=on_gpu,
    )
    return model


class KerasReconstructor:
    """A Keras model as a ``Reconstructor``."""

    def __init__(self, model: ContextModel) -> None:
        self._outputs = tf.function(model.outputs, reduce_retracing=True)

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return in_batches(images, 16, self._predict)

    def _predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values.numpy() for name, values in self._outputs(tf.constant(images)).items()}
