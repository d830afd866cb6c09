"""Training of the brain network: from a folder of heads with brain masks to a SavedModel with its card."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from brainseg_tf.errors import InputError
from brainseg_tf.files import exclusive_lock, make_folder, printable
from brainseg_tf.keras_backend import keras
from brainseg_tf.model_card import BrainCard, BrainTrainingData, training_options, versions
from brainseg_tf.models.brain import BrainNetwork
from brainseg_tf.options import BrainFitOptions
from brainseg_tf.serving.export import export_brain_network
from brainseg_tf.training import figures, runs
from brainseg_tf.training.brain_cohort import CachedSubject, HeadFiles, cache_subjects, read_heads
from brainseg_tf.training.cohort import Split, split_patients
from brainseg_tf.training.progress import Progress, tensorboard
from brainseg_tf.training.random_heads import random_example
from brainseg_tf.training.run_state import RunState
from brainseg_tf.training.runs import RunSettings

# Warming up the learning rate takes this share of the steps.
_WARMUP = 0.05
# Examples from each validation scan.
_VALIDATION_EXAMPLES = 2
_LARGEST_GRADIENT = 1.0


def fit_brain(data: Path, out: Path, options: BrainFitOptions, settings: RunSettings | None = None) -> Path:
    """Trains a brain network and exports it. A run is resumed as in ``training.fit.fit``.

    Args:
        data: a folder of subjects, see ``read_heads``. Those with a brain mask are heads; skull-stripped ones without
            a mask are wrapped in random heads.
        out: the folder of the run: checkpoints, history, figures, and the SavedModel as version ``out/1``.
        options: of the network, its data and its training.
        settings: how the run is carried out, on a single device.

    Returns:
        The folder of the exported version.

    Raises:
        InputError: there are too few subjects, or ``out`` does not fit ``settings.resume`` and ``options``.
    """
    settings = settings or RunSettings()
    finished = runs.check_run(out, options, resume=settings.resume)
    if finished is not None:
        settings.say(runs.nothing_to_do(out, options))
        return finished.path
    subjects = read_heads(data, options.modalities)
    make_folder(out)
    with exclusive_lock(out):
        return _fit(subjects, out, options, settings)


def _fit(subjects: Sequence[HeadFiles], out: Path, options: BrainFitOptions, settings: RunSettings) -> Path:
    say = settings.say
    cached = _cache(subjects, settings.cache or out / "cache", settings)
    record = runs.read_record(out) if settings.resume else None
    split = _split(cached, options, settings, record)
    if record:
        runs.check_readable(out, split, {one.name for one in cached})
    training, validation = ([one for one in cached if one.name in names] for names in (split.train, split.validation))
    for name, side in (("training", training), ("validation", validation)):
        stripped = sum(one.stripped for one in side)
        say(f"{name}: {len(side) - stripped} heads, {stripped} skull-stripped brains")
        if not side:
            raise InputError(f"{printable(out)}: no subject for {name}; add subjects, or change --validation-share")
    if record is None or record.epochs != options.epochs:
        runs.write_record(out, options, split, record)
    model = compiled(options)
    state = RunState(out, model, options.patience)
    callbacks: list[keras.callbacks.Callback] = [state, Progress(options.epochs, say)]
    if settings.tensorboard:
        callbacks.append(tensorboard(settings.tensorboard))
    first = state.restore()
    if first:
        say(f"resuming after {first} epochs")
    if first < options.epochs and not state.exhausted:
        model.fit(
            training_examples(training, options, first_epoch=first),
            validation_data=validation_examples(validation, options),
            initial_epoch=first,
            epochs=options.epochs,
            steps_per_epoch=options.examples,
            callbacks=callbacks,
            verbose=settings.verbose,
            shuffle=False,
        )
    best = state.load_best(new_network())
    figures.history(state.history.rows, out / "losses.png")
    target = out / "1"
    say(f"exporting the model as {target}")
    export_brain_network(best, _card(best, out.resolve().name, options, cached, split, state.best), target)
    return target


def new_network() -> BrainNetwork:
    """An untrained brain network."""
    model = BrainNetwork(name="brain")
    model.build((None, None, None, None, 1))
    return model


def compiled(options: BrainFitOptions) -> BrainNetwork:
    """An untrained brain network with its optimizer."""
    keras.utils.set_random_seed(options.seed)
    model = new_network()
    steps = options.epochs * options.examples
    warmup = max(1, round(_WARMUP * steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), alpha=0.01, warmup_target=options.learning_rate, warmup_steps=warmup
    )
    model.compile(optimizer=keras.optimizers.Adam(schedule, global_clipnorm=_LARGEST_GRADIENT))
    return model


def training_examples(
    subjects: Sequence[CachedSubject], options: BrainFitOptions, *, first_epoch: int
) -> tf.data.Dataset:
    """Random examples of the epochs from ``first_epoch`` on; those of an epoch depend on the seed and its number only.

    Returns:
        A dataset of (image (1, x, y, z, 1) float32, brain (1, x, y, z) float32).
    """
    heads = [one for one in subjects if not one.stripped]
    stripped = [one for one in subjects if one.stripped]

    def example(number: np.int64) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([options.seed, 1, int(number)])
        synthetic = stripped and (not heads or random.random() < options.synthetic)
        pool = stripped if synthetic else heads
        subject = pool[random.integers(len(pool))]
        scan = int(random.integers(subject.scans))
        return random_example(subject.load(scan), random, options.heads, options.grid.voxel_mm)

    numbers = tf.data.Dataset.range(first_epoch * options.examples, options.epochs * options.examples)
    return _examples(numbers, example)


def validation_examples(subjects: Sequence[CachedSubject], options: BrainFitOptions) -> tf.data.Dataset:
    """Two fixed examples of each scan; elements as in ``training_examples``."""
    scans = [(subject, scan) for subject in subjects for scan in range(subject.scans)]

    def example(number: np.int64) -> tuple[np.ndarray, np.ndarray]:
        subject, scan = scans[number % len(scans)]
        random = np.random.default_rng([options.seed, 2, int(number)])
        return random_example(subject.load(scan), random, options.heads, options.grid.voxel_mm)

    return _examples(tf.data.Dataset.range(_VALIDATION_EXAMPLES * len(scans)), example)


def _examples(numbers: tf.data.Dataset, example: object) -> tf.data.Dataset:
    def load(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, brain = tf.numpy_function(example, [number], [tf.float32, tf.float32])
        return (
            tf.ensure_shape(image, [None] * 3)[None, ..., None],
            tf.ensure_shape(brain, [None] * 3)[None],
        )

    return numbers.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def _cache(subjects: Sequence[HeadFiles], folder: Path, settings: RunSettings) -> list[CachedSubject]:
    cached: list[CachedSubject] = []
    progress = keras.utils.Progbar(len(subjects), unit_name="subject") if settings.verbose == 1 else None
    for done, result in enumerate(cache_subjects(subjects, folder), start=1):
        if isinstance(result, str):
            settings.say(result)
        else:
            cached.append(result)
        if progress:
            progress.update(done)
    return cached


def _split(
    cached: Sequence[CachedSubject], options: BrainFitOptions, settings: RunSettings, record: runs.RunRecord | None
) -> Split:
    """The split of a resumed run, else the one in ``settings``, else a random one."""
    if record:
        return record.split
    names = [subject.name for subject in cached]
    return settings.split or split_patients(names, options.validation, options.test, options.seed)


def _card(
    model: BrainNetwork,
    name: str,
    options: BrainFitOptions,
    cached: Sequence[CachedSubject],
    split: Split,
    losses: dict[str, float],
) -> BrainCard:
    stripped = sum(subject.stripped for subject in cached)
    return BrainCard(
        name=name,
        version=1,
        architecture=options.architecture,
        parameters=model.count_params(),
        modalities=tuple(
            name
            for name in options.modalities
            if any(name in subject.modalities for subject in cached if subject.name in split.train)
        ),
        grid=options.grid,
        data=BrainTrainingData(len(cached) - stripped, stripped, split.train, split.validation, split.test),
        training=training_options(options),
        losses=losses,
        versions=versions(),
    )
