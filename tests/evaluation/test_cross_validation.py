import json

import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.evaluation.cross_validation import folds, recorded_folds

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
