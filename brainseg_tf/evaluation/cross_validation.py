"""k-fold cross-validation by patient of a model's recipe: every patient is a test patient once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from brainseg_tf import card_schema
from brainseg_tf.architectures import recipe_of
from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, write_json
from brainseg_tf.json_file import read_json
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import FitOptions
from brainseg_tf.saved_model import ModelFolder, newest_version, open_folder
from brainseg_tf.schema import Items, MismatchError, Record, Text, Whole
from brainseg_tf.training.cohort import Split

_FOLDS = Record(
    {
        "seed": Whole(),
        "folds": Items(Record({side: Items(Text(), unique=True) for side in card_schema.SIDES}), least=2),
    }
)
_REMEDY = "restore it from a copy, or choose another --out"


def folds(names: Sequence[str], count: int, validation: float, seed: int) -> list[Split]:
    """Divides patients into ``count`` test sides; of the rest of each, a share is for validation.

    Args:
        names: all patients; their order does not matter.
        validation: share of all patients, at least one.
        seed: the same seed gives the same folds.

    Raises:
        InputError: too few patients.
    """
    validations = max(1, round(validation * len(names)))
    if count < 2 or len(names) - -(-len(names) // count) - validations < 1:
        raise InputError(f"{len(names)} patients cannot be split into {count} folds; give fewer --folds")
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(names))]
    splits: list[Split] = []
    for test in np.array_split(order, count):
        rest = [name for name in order if name not in set(test)]
        # Each fold its own validation patients, so that none is always spared from training.
        start = len(splits) * validations % len(rest)
        validating = set((rest + rest)[start : start + validations])
        training = [name for name in rest if name not in validating]
        splits.append(Split(*(tuple(sorted(str(name) for name in side)) for side in (training, validating, test))))
    return splits


def recorded_folds(file: Path, names: Sequence[str], count: int, validation: float, seed: int) -> list[Split]:
    """The folds that ``file`` (JSON) holds, or new ones, written there.

    Raises:
        InputError: the file is damaged, or is of other patients, another seed or another number of folds.
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
            f"{printable(file)}: was made for other patients, another seed or another number of folds; choose another "
            "--out"
        )
    return splits


def train_fold(
    data: Path, card: ModelCard, split: Split, seed: int, run: Path, cache: Path, say: Callable[[str], None]
) -> ModelFolder:
    """Trains a model's recipe on one split, or takes up where a killed run stopped; a finished run is not redone."""
    from brainseg_tf.training.fit import RunSettings, fit

    if not run.is_dir() or newest_version(run) is None:
        options: FitOptions = replace(recipe_of(card), seed=seed)
        settings = RunSettings(split=split, resume=(run / "run.json").exists(), cache=cache, say=say)
        fit(data, run, options, settings)
    return open_folder(run)
