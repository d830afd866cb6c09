import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from brainseg_tf.architectures import ARCHITECTURES, recipe_of, recipe_to_repeat
from brainseg_tf.errors import InputError
from brainseg_tf.evaluation.cross_validation import folds, recorded_folds, train
from brainseg_tf.model_card import read_card
from brainseg_tf.training.cohort import Split
from brainseg_tf.training.runs import RunSettings
from helpers import small_options

NAMES = [f"p{number}" for number in range(8)]


def test_every_patient_is_tested_once_and_has_one_role_per_fold():
    splits = folds(NAMES, 3, 0.15, seed=0)
    assert sorted(name for split in splits for name in split.test) == NAMES
    for split in splits:
        assert sorted((*split.train, *split.validation, *split.test)) == NAMES
        assert len(split.validation) == 1
    assert splits == folds(NAMES[::-1], 3, 0.15, seed=0) != folds(NAMES, 3, 0.15, seed=1)
    with pytest.raises(InputError, match="2 patients cannot be split into 2 folds"):
        folds(NAMES[:2], 2, 0.15, seed=0)


def test_folds_are_written_and_reused(tmp_path):
    file = tmp_path / "folds-seed0.json"
    assert (
        recorded_folds(file, NAMES, 3, 0.15, 0) == recorded_folds(file, NAMES, 3, 0.15, 0) == folds(NAMES, 3, 0.15, 0)
    )
    for names, count, seed in ((NAMES[1:], 3, 0), ([*NAMES, "p8"], 3, 0), (NAMES, 4, 0), (NAMES, 3, 1)):
        with pytest.raises(InputError, match="was written for other patients, another seed or another number of folds"):
            recorded_folds(file, names, count, 0.15, seed)


def damaged(change: str) -> bytes:
    content = {"seed": 0, "folds": [vars(split) for split in folds(NAMES, 3, 0.15, 0)]}
    first = content["folds"][0]
    if change == "a patient in two roles":
        first["train"] = [*first["train"], first["test"][0]]
    elif change == "a patient twice":
        first["train"] = [*first["train"], first["train"][0]]
    elif change == "no validation":
        del first["validation"]
    elif change == "another type":
        first["test"] = {"a": 1}
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON in line 1"),
        (b"\x00\xff", "not UTF-8 at byte 1"),
        (damaged("nothing")[:100], "not JSON in line 1"),
        (b"[]", "top level: expected an object, found a list"),
        (b'{"seed": 0}', "folds: is missing"),
        (b'{"seed": 0, "folds": {}}', "folds: expected a list, found an object"),
        (b'{"seed": 0, "folds": [1, 2]}', "folds[0]: expected an object, found 1"),
        (damaged("a patient in two roles"), "folds[0]: patient "),
        (damaged("a patient twice"), "folds[0].train: contains "),
        (damaged("no validation"), "folds[0].validation: is missing"),
        (damaged("another type"), "folds[0].test: expected a list, found an object"),
    ],
)
def test_damaged_folds_are_one_line(tmp_path, content, reason):
    file = tmp_path / "folds-seed0.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        recorded_folds(file, NAMES, 3, 0.15, 0)
    message = str(caught.value)
    assert message.startswith(f"{file}: is ") and f"({reason}" in message
    assert message.endswith("; restore it from a copy, or choose another --out") and message.isprintable()


def run_of(trained, folder, **data) -> Path:
    """A copy of a finished run whose card says that it has other data."""
    shutil.copytree(trained, folder)
    card = read_card(folder / "1")
    replace(card, data=replace(card.data, **data)).write(folder / "1")
    return folder


def test_a_finished_run_is_used_again_only_for_the_same_patients_and_recipe(trained):
    data = read_card(trained / "1").data
    split = Split(data.train, data.validation, data.test)
    # The options of the fixture, not those in the card.
    options = small_options()
    assert train([], trained, options, RunSettings(split=split), []).card.data == data
    fewer = Split(data.train[1:], data.validation, (*data.test, data.train[0]))
    more = Split((*data.train, *data.test), data.validation, ())
    for other, example in ((fewer, data.train[0]), (more, min(data.test))):
        with pytest.raises(InputError, match=f"has other patients for train, for instance {example}; choose another"):
            train([], trained, options, RunSettings(split=other), [])
    with pytest.raises(InputError, match="was trained with another recipe, which differs in epochs; choose another"):
        train([], trained, replace(options, epochs=41), RunSettings(split=split), [])


def test_an_interrupted_run_of_other_patients_is_not_resumed(trained, tmp_path):
    data = read_card(trained / "1").data
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "1")
    more = Split((*data.train, *data.test), data.validation, ())
    with pytest.raises(InputError, match="has other patients for train"):
        train([], tmp_path / "run", small_options(), RunSettings(split=more), [])
    assert not (tmp_path / "run" / "1").exists()


def test_a_run_from_a_model_that_has_seen_a_test_patient_is_refused(trained, tmp_path):
    data = read_card(trained / "1").data
    run = run_of(trained, tmp_path / "run", earlier=("other", data.test[0]))
    card = read_card(run / "1")
    replace(card, training=card.training | {"initial": "small/1 0123"}).write(run / "1")
    split = Split(data.train, data.validation, data.test)
    message = f"was started from a model that has seen {data.test[0]}; choose another --out"
    with pytest.raises(InputError, match=message):
        train([], run, small_options(), RunSettings(split=split), split.test)
    untested = replace(split, test=())
    assert train([], run, small_options(), RunSettings(split=untested), []).card.data.earlier == ("other", data.test[0])
    with pytest.raises(InputError, match=message):
        train([], run, small_options(), RunSettings(split=untested), [data.test[0]])


def test_the_recipe_of_a_fine_tuned_model_is_that_of_its_architecture(trained):
    card = read_card(trained / "1")
    assert recipe_to_repeat(card) == recipe_of(card)
    tuned = replace(card, training=card.training | {"initial": "other/1 0123", "epochs": 6, "labels": "none"})
    expected = replace(ARCHITECTURES["cvae"].recipe, slices=card.slices, labels="none", batch=8)
    assert recipe_to_repeat(tuned) == expected
