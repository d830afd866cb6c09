"""The data of a training run: its cached slices, its split, and what its model card says of them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from brainseg_tf.errors import InputError
from brainseg_tf.keras_backend import keras
from brainseg_tf.model_card import TrainingData
from brainseg_tf.options import FitOptions
from brainseg_tf.training.cohort import Cohort, Split, split_patients
from brainseg_tf.training.distribution import Distribution
from brainseg_tf.training.pipeline import CachedSlices, cache_slices
from brainseg_tf.training.runs import RunRecord, RunSettings


def cache_cohort(
    cohort: Cohort, options: FitOptions, folder: Path, workers: Distribution | None, settings: RunSettings
) -> list[CachedSlices]:
    """Caches the slices of all patients; several workers decode different patients first.

    Returns:
        The patients that can be read. A line says why each of the others is left out.

    Raises:
        InputError: no patient has a slice for the training, or the cache cannot be written.
    """
    say = settings.say
    cache = partial(
        cache_slices, options=options.slices, folder=folder, views=options.views, lesions=options.given_lesions
    )
    for problem in cohort.problems:
        say(problem)
    if workers:
        for _ in cache(workers.share(cohort.patients)):
            pass
        workers.barrier()  # After this the slices of all patients are in the cache.
    cached: list[CachedSlices] = []
    progress = keras.utils.Progbar(len(cohort.patients), unit_name="patient") if settings.verbose == 1 else None
    for done, result in enumerate(cache(cohort.patients), start=1):
        if isinstance(result, str):
            say(result)
        else:
            cached.append(result)
        if progress:
            progress.update(done)
    slices, chosen, used = (sum(getattr(one, key) for one in cached) for key in ("slices", "chosen", "used"))
    if not used:
        raise InputError(
            f"{cohort.title}: no healthy slice in {len(cached)} readable patients; training needs slices without "
            "lesions, so lower --min-brain, raise --central or add patients"
        )
    say(
        f"{len(cached)} patients, {slices} slices, {chosen} selected ({chosen / slices:.0%}), {used} of them "
        f"{'used' if options.given_lesions else 'healthy'}"
    )
    return cached


def split_of(
    cohort: Cohort,
    cached: Sequence[CachedSlices],
    options: FitOptions,
    settings: RunSettings,
    record: RunRecord | None,
) -> Split:
    """The split of a resumed run, else the one in ``settings``, else that of the tables, else a random one by subject.

    Patients that were added to the cohort after a run was started do not change its split.

    Raises:
        InputError: there are too few subjects, or the column split of a table is not complete.
    """
    if record:
        return record.split
    names = [slices.patient for slices in cached]
    if demanded := settings.split or cohort.demanded_split(names):
        return demanded
    by_subject = split_patients(cohort.subjects(names), options.validation, options.test, options.seed)
    return cohort.of_subjects(by_subject, names)


def slices_of(cached: Sequence[CachedSlices], names: Sequence[str]) -> list[CachedSlices]:
    """The patients with these names that have slices for the training."""
    return [slices for slices in cached if slices.patient in set(names) and slices.used]


def describe(cached: Sequence[CachedSlices], cohort: Cohort, split: Split, settings: RunSettings) -> TrainingData:
    """What the model card says of the data.

    Args:
        cached: the slices of all patients that can be read.
        cohort: all patients.
        split: of the patients.
        settings: with the model that the training starts from.
    """
    names = (*split.train, *split.validation)
    return TrainingData(
        patients=len(cached),
        slices=sum(slices.slices for slices in cached),
        chosen=sum(slices.chosen for slices in cached),
        healthy=sum(len(slices.rows) for slices in cached),
        train=split.train,
        validation=split.validation,
        test=split.test,
        earlier=settings.initial.card.data.seen if settings.initial else (),
        subjects=tuple(subject for subject in cohort.subjects(names) if subject not in names),
    )
