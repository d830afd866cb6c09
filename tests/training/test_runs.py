"""Reading the files of a training run.

To avoid TensorFlow, the exported model is a shipped model with another card.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.model_card import FILE, read_card, training_options
from brainseg_tf.options import FitOptions
from brainseg_tf.serving.warmup import FILE as WARMUP
from brainseg_tf.training import runs
from brainseg_tf.training.cohort import Split

SHIPPED = Path(__file__).parents[2] / "saved_models" / "cvae" / "2"
OPTIONS = FitOptions("cvae", epochs=3, patience=10)
SPLIT = Split(("a", "b"), ("c",), ("d",))
LOSSES = (0.5, 0.3, 0.4)


def write_history(out: Path, losses: tuple[float, ...]) -> None:
    rows = "".join(f"{epoch},{loss / 2},{loss}\n" for epoch, loss in enumerate(losses, start=1))
    (out / "history.csv").write_text("epoch,loss,val_loss\n" + rows)


def export(out: Path, options: FitOptions, epoch: int) -> None:
    shutil.copytree(SHIPPED, out / "1", dirs_exist_ok=True)
    losses = {"epoch": epoch, "val_loss": 0.3}
    replace(read_card(out / "1"), training=training_options(options), losses=losses).write(out / "1")


@pytest.fixture
def out(tmp_path) -> Path:
    """A finished run of three epochs, of which the second was the best."""
    folder = tmp_path / "run"
    folder.mkdir()
    runs.write_record(folder, OPTIONS, SPLIT)
    write_history(folder, LOSSES)
    export(folder, OPTIONS, 2)
    return folder


def test_a_record_is_read_as_it_was_written(out):
    record = runs.read_record(out)
    assert (record.epochs, record.split, record.lengthened_from) == (3, SPLIT, ())
    runs.write_record(out, replace(OPTIONS, epochs=5), SPLIT, record)
    runs.write_record(out, replace(OPTIONS, epochs=9), SPLIT, runs.read_record(out))
    again = runs.read_record(out)
    assert (again.epochs, again.split, again.lengthened_from) == (9, SPLIT, (3, 5))
    assert again.versions == record.versions


def test_the_history_is_read_as_it_was_written(out):
    rows = runs.read_history(out / "history.csv")
    assert rows == [{"epoch": k + 1, "loss": loss / 2, "val_loss": loss} for k, loss in enumerate(LOSSES)]
    assert runs.History(rows).best == rows[1]
    assert [runs.History(rows).exhausted(patience) for patience in (1, 2)] == [True, False]


def test_epochs_whose_loss_is_no_number_are_not_the_best(out):
    write_history(out, (0.5, float("nan"), float("inf")))
    history = runs.History(runs.read_history(out / "history.csv"))
    assert history.best is not None and history.best["epoch"] == 1
    assert history.exhausted(2) and not history.exhausted(3)
    write_history(out, (float("nan"),) * 2)
    history = runs.History(runs.read_history(out / "history.csv"))
    assert history.best is None and history.exhausted(2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON in line 1"),
        (b"\x80\x02binary", "not UTF-8 at byte 0"),
        (b'{"options": ', "not JSON in line 1"),
        (b"[]", "top level: expected an object, found a list"),
        (b"{}", "options: is missing"),
        (b'{"options": {}, "split": {}, "versions": {}}', "options.epochs: is missing"),
        (b'{"options": {"epochs": "3"}, "split": {}, "versions": {}}', "options.epochs: expected an integer"),
        (b'{"options": {"epochs": 3}, "split": {"train": []}, "versions": {}}', "split.validation: is missing"),
        (b'{"options": {"epochs": 3}, "split": [], "versions": {}}', "split: expected an object, found a list"),
        (
            b'{"options": {"epochs": 3}, "split": {"train": [1], "validation": [], "test": []}, "versions": {}}',
            "split.train[0]: expected one line of text",
        ),
        (
            b'{"options": {"epochs": 3}, "split": {"train": ["a"], "validation": [], "test": ["a"]}, "versions": {}}',
            "split: patient a is in train and in test",
        ),
    ],
)
def test_a_damaged_record_gives_a_message_of_one_line(out, content, reason):
    (out / "run.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        runs.check_run(out, OPTIONS, resume=True)
    message = str(caught.value)
    assert message.startswith(f"{out / 'run.json'}: is ") and f"({reason}" in message
    assert message.endswith("); restore it from a copy, or start a new run with another --out")
    assert message.isprintable()


HEAD = b"epoch,loss,val_loss\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the columns epoch and val_loss are missing"),
        (HEAD, "it contains no epoch"),
        (b"epoch,loss\n1,2\n", "the columns epoch and val_loss are missing"),
        (HEAD + b"1,0.5\n", "epoch 1 does not have the same number of columns"),
        (HEAD + b"1,0.5,0.5,0.5\n", "epoch 1 does not have the same number of columns"),
        (HEAD + b"1,0.5,0.", None),
        (HEAD + b"1,0.5,low\n", "could not convert string to float: 'low'"),
        (HEAD + b"1,0.5,\n", "could not convert string to float"),
        (HEAD + b"one,0.5,0.5\n", "invalid literal for int"),
        (HEAD + b"2,0.5,0.5\n", "expected epoch 1, found epoch 2"),
        (HEAD + b"1,0.5,0.5\n3,0.5,0.5\n", "expected epoch 2, found epoch 3"),
        (HEAD + b"1,\xff,0.5\n", "not UTF-8 at byte"),
        (HEAD + b'1,"0.5', "unexpected end of data"),
        (b"\x00" * 100, "the columns epoch and val_loss are missing"),
    ],
)
def test_a_damaged_history_gives_a_message_of_one_line(out, content, reason):
    (out / "history.csv").write_bytes(content)
    if reason is None:  # A truncated number can still be a valid number.
        assert runs.read_history(out / "history.csv") == [{"epoch": 1, "loss": 0.5, "val_loss": 0.0}]
        return
    with pytest.raises(InputError) as caught:
        runs.check_run(out, OPTIONS, resume=True)
    message = str(caught.value)
    assert message.startswith(f"{out / 'history.csv'}: is not a valid training history ({reason}")
    assert message.endswith("); restore it from a copy, or start a new run with another --out")
    assert message.isprintable()


def test_a_finished_run_has_nothing_left_to_do(out):
    found = runs.check_run(out, OPTIONS, resume=True)
    assert found is not None and found.path == out / "1"
    assert runs.nothing_to_do(out, OPTIONS) == (
        f"the run in {out} is finished after 3 epochs; there is nothing to do (a larger --epochs continues it)"
    )


def test_a_run_that_stopped_early_is_finished(out):
    options = replace(OPTIONS, epochs=60, patience=1)
    runs.write_record(out, options, SPLIT)
    export(out, options, 2)
    assert runs.check_run(out, options, resume=True) is not None
    assert runs.nothing_to_do(out, options).endswith("; there is nothing to do")
    with pytest.raises(InputError, match=r"ended by early stopping after 3 epochs, the last 1 .* larger --patience"):
        runs.check_run(out, replace(options, epochs=61), resume=True)


def test_more_epochs_are_not_offered_where_they_are_refused(out):
    """The slices that are left out depend on the number of epochs."""
    options = replace(OPTIONS, labels="none", rounds=1)
    assert options.counted_from > 0
    assert runs.nothing_to_do(out, options).endswith("; there is nothing to do")
    content = json.loads((out / "run.json").read_text())
    content["versions"]["brainseg-tf"] = "0.1.0"
    (out / "run.json").write_text(json.dumps(content))
    assert runs.nothing_to_do(out, OPTIONS).endswith("; there is nothing to do")


def test_a_training_scan_that_is_gone_is_named(out):
    split = Split(("a", "b"), ("c",), ("d",))
    runs.check_readable(out, split, {"a", "b", "c"})
    with pytest.raises(InputError, match=r"started with 2 scans for training, of which b cannot be read; "):
        runs.check_readable(out, split, {"a", "c"})
    with pytest.raises(InputError, match=r"started with 1 scans for validation, of which c cannot"):
        runs.check_readable(out, split, {"a", "b"})


@pytest.mark.parametrize("damage", ["no model", "weights", "card", "warmup", "of another epoch", "of fewer epochs"])
def test_a_run_whose_model_is_missing_or_damaged_is_not_finished(out, damage):
    options = OPTIONS
    if damage == "no model":
        shutil.rmtree(out / "1")
    elif damage == "weights":
        (out / "1" / "variables" / "variables.index").write_bytes(b"x")
    elif damage == "card":
        (out / "1" / FILE).write_text("{}")
    elif damage == "warmup":
        (out / "1" / WARMUP).unlink()
    elif damage == "of another epoch":
        export(out, OPTIONS, 1)
    else:
        # The run was continued to four epochs, but their export was interrupted: the model is that of three epochs.
        options = replace(OPTIONS, epochs=4)
        runs.write_record(out, options, SPLIT, runs.read_record(out))
        write_history(out, (*LOSSES, 0.6))
    assert runs.check_run(out, options, resume=True) is None


def test_a_finished_run_of_another_version_stays_usable(out):
    record = json.loads((out / "run.json").read_text())
    record["versions"]["brainseg-tf"] = "0.1.0"
    (out / "run.json").write_text(json.dumps(record))
    assert runs.check_run(out, OPTIONS, resume=True) is not None
    for options in (replace(OPTIONS, epochs=4), OPTIONS):
        with pytest.raises(InputError, match=r"was started with brainseg-tf 0\.1\.0, .* install 0\.1\.0 to continue"):
            runs.check_run(out, options, resume=True)
        shutil.rmtree(out / "1", ignore_errors=True)


def test_the_number_of_epochs_can_change_but_not_below_the_finished_epochs(out):
    assert runs.check_run(out, replace(OPTIONS, epochs=4), resume=True) is None
    with pytest.raises(InputError, match=r"has 3 finished epochs, more than 2; give --epochs 3 or more"):
        runs.check_run(out, replace(OPTIONS, epochs=2), resume=True)
    # A run that was killed after three of twenty epochs can be resumed with fewer than twenty.
    runs.write_record(out, replace(OPTIONS, epochs=20), SPLIT)
    assert runs.check_run(out, replace(OPTIONS, epochs=5), resume=True) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 4}, "was started with batch 16, not 4; give the same options"),
        ({"modalities": ("flair", "t2")}, "was started with modalities flair, not flair and t2; give"),
        ({"slices": replace(OPTIONS.slices, size=64)}, "was started with slices.size 128, not 64; give"),
        ({"corruption": replace(OPTIONS.corruption, kind="noise")}, "started with corruption.kind shapes, not noise"),
        ({"architecture": "dae"}, "was started with architecture cvae, not dae; give"),
    ],
)
def test_changed_options_are_refused_and_named(out, changes, message):
    with pytest.raises(InputError) as caught:
        runs.check_run(out, replace(OPTIONS, epochs=4, **changes), resume=True)
    assert message in str(caught.value)


def test_a_new_run_does_not_begin_in_what_another_has_left(out, tmp_path):
    with pytest.raises(InputError, match="contains a training run already; give --resume to continue it, or another"):
        runs.check_run(out, OPTIONS, resume=False)
    (out / "run.json").unlink()
    for name in ("history.csv", "1"):
        with pytest.raises(InputError, match=rf"{name}: belongs to another run or model; choose another --out"):
            runs.check_run(out, OPTIONS, resume=False)
        (out / name).unlink() if (out / name).is_file() else shutil.rmtree(out / name)
    (out / "checkpoints").mkdir()
    with pytest.raises(InputError, match="checkpoints: belongs to another run or model"):
        runs.check_run(out, OPTIONS, resume=False)
    assert runs.check_run(tmp_path / "new", OPTIONS, resume=False) is None
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="new: contains no training run to resume; omit --resume to start one"):
        runs.check_run(tmp_path / "new", OPTIONS, resume=True)


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"learning_rate": float("nan")}, "run", "learning_rate: expected a number from 1e-12 to 1000, found nan"),
        (
            {"objective": replace(OPTIONS.objective, kl=float("inf"))},
            "run",
            "objective.kl: expected a number of at least 0",
        ),
        ({"modalities": ("flair", "flair")}, "run", "modalities: contains 'flair' twice"),
        ({"modalities": ("../flair",)}, "run", "modalities[0]: expected a name"),
        ({"modalities": ()}, "run", "modalities: expected a list of 1 to 64 items"),
        (
            {"architecture": "selfseg"},
            "run",
            "corruption: selfseg learns from synthetic lesions, not from shapes",
        ),
        ({}, "a\nb", r"the model's name: expected a name (no path, no control characters), found 'a\nb'"),
    ],
)
def test_options_that_are_invalid_in_a_card_are_refused_before_training(tmp_path, changes, name, message):
    with pytest.raises(InputError) as caught:
        runs.check_run(tmp_path / name, replace(OPTIONS, **changes), resume=False)
    assert message in str(caught.value) and str(caught.value).isprintable()
