"""k-fold cross-validation of a model's recipe by patient: every patient is tested once."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np

from brainseg_tf import card_schema
from brainseg_tf.architectures import recipe_of
from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, write_json
from brainseg_tf.json_file import read_json
from brainseg_tf.model_card import TrainingData
from brainseg_tf.options import RANDOM_WEIGHTS, FitOptions
from brainseg_tf.saved_model import ModelFolder, newest_version, open_folder
from brainseg_tf.schema import Integer, Items, MismatchError, Record, Text
from brainseg_tf.training.cohort import Split
from brainseg_tf.training.runs import RunSettings, read_record

_FOLDS = Record(
    {
        "seed": Integer(),
        "folds": Items(Record({side: Items(Text(), unique=True) for side in card_schema.SIDES}), least=2),
    }
)
_OTHER = "choose another --out"
_REMEDY = f"restore it from a copy, or {_OTHER}"


def folds(names: Sequence[str], count: int, validation: float, seed: int) -> list[Split]:
    """Divides patients into folds, each with training, validation and test patients.

    Every patient is a test patient in one of the folds.

    Args:
        names: all patients; their order does not matter.
        count: number of folds.
        validation: validation patients of each fold as a share of all patients; there is at least one.
        seed: the same seed gives the same folds.

    Raises:
        InputError: there are too few patients.
    """
    validations = max(1, round(validation * len(names)))
    if count < 2 or len(names) - -(-len(names) // count) - validations < 1:
        raise InputError(f"{len(names)} patients cannot be split into {count} folds; give fewer --folds")
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(names))]
    splits: list[Split] = []
    for test in np.array_split(order, count):
        rest = [name for name in order if name not in set(test)]
        # Folds have different validation patients, so that no patient is left out of the training of all folds.
        start = len(splits) * validations % len(rest)
        validating = set((rest + rest)[start : start + validations])
        training = [name for name in rest if name not in validating]
        splits.append(Split(*(tuple(sorted(str(name) for name in side)) for side in (training, validating, test))))
    return splits


def recorded_folds(file: Path, names: Sequence[str], count: int, validation: float, seed: int) -> list[Split]:
    """Reads the folds in a JSON file; makes and writes new folds if the file does not exist.

    Args:
        file: the JSON file.
        names, count, validation, seed: as in ``folds``.

    Raises:
        InputError: the file is damaged, or was written for other patients, another seed or another number of folds.
    """
    if not file.exists():
        splits = folds(names, count, validation, seed)
        write_json(file, {"seed": seed, "folds": [asdict(split) for split in splits]})
        return splits
    recorded = read_json(file, _FOLDS, what="a record of folds", remedy=_REMEDY)
    try:
        for number, one in enumerate(recorded["folds"]):
            card_schema.check_sides(one, f"folds[{number}]")
    except MismatchError as mismatch:
        raise InputError(f"{printable(file)}: is damaged ({mismatch}); {_REMEDY}") from mismatch
    splits = [Split(**one) for one in recorded["folds"]]
    tested = sorted(name for split in splits for name in split.test)
    if len(splits) != count or tested != sorted(names) or recorded["seed"] != seed:
        raise InputError(
            f"{printable(file)}: was written for other patients, another seed or another number of folds; choose "
            "another --out"
        )
    return splits


def train(
    data: Sequence[Path], run: Path, options: FitOptions, settings: RunSettings, tested: Sequence[str]
) -> ModelFolder:
    """Trains a network; resumes an interrupted run, and does not repeat a finished one.

    A finished run that was started from the weights of a model can be put there; its recipe is not compared.

    Args:
        data: folders of the cohorts.
        run: folder of the run.
        options: the recipe, with the seed of the run.
        settings: with the split.
        tested: names of the test patients, and their subjects.

    Returns:
        The trained model.

    Raises:
        InputError: the run has other training or validation patients than those of the split, or another recipe, or a
            model that it was started from has seen a test patient.
    """
    from brainseg_tf.training.fit import fit

    split = settings.split
    assert split is not None
    finished = run.is_dir() and newest_version(run) is not None
    interrupted = not finished and (run / "run.json").exists()
    if interrupted:
        _check_patients(run, read_record(run).split, split)
    if not finished:
        fit(data, run, options, replace(settings, resume=interrupted))
    trained = open_folder(run)
    _check_patients(run, trained.card.data, split)
    if trained.card.training.get("initial", RANDOM_WEIGHTS) == RANDOM_WEIGHTS:
        _check_recipe(run, recipe_of(trained.card), options)
    elif leaked := set(trained.card.data.seen) & set(tested):
        raise InputError(f"{printable(run)}: was started from a model that has seen {printable(min(leaked))}; {_OTHER}")
    return trained


def _check_patients(run: Path, used: Split | TrainingData, wanted: Split) -> None:
    """Raises ``InputError`` if a run uses other training or validation patients."""
    for side in ("train", "validation"):
        if differing := set(getattr(used, side)) ^ set(getattr(wanted, side)):
            example = printable(min(differing))
            raise InputError(f"{printable(run)}: has other patients for {side}, for instance {example}; {_OTHER}")


def _check_recipe(run: Path, used: FitOptions, wanted: FitOptions) -> None:
    """Raises ``InputError`` if a run was trained with another recipe."""
    name = next((one.name for one in fields(used) if getattr(used, one.name) != getattr(wanted, one.name)), None)
    if name:
        raise InputError(f"{printable(run)}: was trained with another recipe, which differs in {name}; {_OTHER}")
