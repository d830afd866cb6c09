"""The command fit, and evaluate with its models: exit codes, output and files."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import click
import pytest
from click.testing import Result

from brainseg_tf.architectures import ARCHITECTURES, recipe_for, recipe_of
from brainseg_tf.model_card import read_card, training_options
from brainseg_tf.saved_model import find, open_folder
from brainseg_tf.training.runs import nothing_to_do
from helpers import FAST, call, fails, small_options


def test_fit_refuses_a_folder_without_patients(tmp_path):
    message = fails(call("fit", tmp_path, "--out", tmp_path / "run"))
    assert message.startswith(f"Error: {tmp_path}: no patient with flair in it")
    message = fails(call("fit", tmp_path / "no", "--out", tmp_path / "run"))
    assert message.startswith(f"Error: {tmp_path}/no: no such folder")
    assert not (tmp_path / "run").exists()


def test_fit_refuses_folders_that_cannot_be_made(brats_like, tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    assert f"{below}: cannot be created" in fails(call("fit", brats_like, "--out", below))
    assert f"{below}: cannot be created" in fails(call("fit", brats_like, "--out", tmp_path / "run", "--cache", below))
    assert os.listdir(tmp_path / "run") == [".lock"]


@pytest.mark.slow
def test_fit_then_evaluate(brats_like, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(brats_like, data)
    broken = next(data.glob("HGG/*00_1/*_flair.nii.gz"))
    broken.write_bytes(b"broken")
    small = ("--size", 48, "--epochs", 2, "--min-brain", 0.05, "--batch", 8)
    result = call("fit", data, "--out", run, *small)
    assert result.exit_code == 0, result.output
    assert "BraTS19_TEST_00_1: left out" in result.stdout
    assert "7 patients" in result.stdout
    assert result.stdout.splitlines()[-1] == f"model: {run}/1"
    message = fails_after_output(call("fit", data, "--out", run, *small))
    assert "contains a training run already; give --resume" in message

    # Without --epochs a resumed run keeps its number of epochs, which is not that of the recipe.
    result = call("fit", data, "--out", run, "--resume", *small[:2], *small[4:])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [nothing_to_do(run, small_options()), f"model: {run}/1"]

    out = tmp_path / "table"
    result = call("evaluate", data, "--model", run, "--out", out, "--update-card", "--patients", "train", *FAST)
    assert result.exit_code == 0, result.output
    assert "no network" in result.stdout
    card = json.loads((run / "1/assets.extra/model_card.json").read_text())
    assert {"network", "no network", "paper_iou_slice"} <= set(card["metrics"])
    assert f"{card['metrics']['network']['mixture']['iou_slice']:.3f}" in result.stdout
    # The updated card has valid checksums.
    open_folder(run).check()
    text = (run / "1/assets.extra/model_card.md").read_text()
    assert f"| network, mixture | {card['metrics']['network']['mixture']['dice']:.4g} | " in text
    assert f"| no network, mixture | {card['metrics']['no network']['dice']:.4g} | " in text
    rows = list(csv.DictReader((out / "comparisons.csv").read_text().splitlines()))
    # Four cuts of three methods, except the cut "mixture" of the equalised input.
    assert len(rows) == 11 * len(card["data"]["train"])
    assert {row["method"] for row in rows} == {"run", "no network", "equalised"}
    summary = json.loads((out / "summary.json").read_text())["methods"]["run"]
    assert set(summary) == {"mixture", "5 % false", "validation", "oracle"}
    assert summary == card["metrics"]["network"]
    assert (out / "dice.png").stat().st_size > 5000
    assert sorted(os.listdir(out)) == ["calibration.png", "comparisons.csv", "dice.png", "summary.json"]
    message = fails(call("evaluate", data, "--model", run, "--out", out))
    assert "exists already" in message


def test_resuming_a_finished_run_does_not_import_tensorflow(trained, brats_like):
    """The command runs in a new process, because this one has imported TensorFlow."""
    options = small_options()
    given = {
        "--size": options.slices.size,
        "--min-brain": options.slices.min_brain,
        "--batch": options.batch,
        "--learning-rate": options.learning_rate,
        "--patience": options.patience,
    }
    # The slices of the fixture are 5 mm apart, for which there is no command line option.
    code = (
        "import sys; from dataclasses import replace; from brainseg_tf_cli import fit, main\n"
        "original = fit._options\n"
        "def with_spacing(*given):\n"
        "    options = original(*given)\n"
        "    return replace(options, slices=replace(options.slices, spacing=5.0))\n"
        "fit._options = with_spacing\n"
        "try: main.main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, [name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    words = [str(word) for pair in given.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", str(brats_like), "--out", str(trained), "--resume", *words],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [nothing_to_do(trained, small_options()), f"model: {trained}/1", "0 []"], (
        done.stderr
    )
    assert done.stderr == ""


def test_every_option_of_fit_has_a_help_with_its_default():
    from brainseg_tf_cli.fit import fit

    helps = {option.name: option.help for option in fit.params if isinstance(option, click.Option)}
    assert all(helps.values())
    for name, default in {
        "epochs": "[default: cvae: 60; dcvae: 36; dae: 14; unet: 30; selfseg, fusion: 100; brain: 12; "
        "with --preset paper: 100]",
        "batch": "[default: cvae, unet, selfseg, fusion: 16; dcvae, dae: 8; with --preset paper: 16]",
        "learning_rate": "[default: cvae, dae, unet, brain: 0.001; dcvae, selfseg, fusion: 0.002; "
        "with --preset paper: 0.001]",
        "modalities": "[default: cvae, dcvae, dae, unet, selfseg: flair; fusion: flair and t2; "
        "brain: flair and t1 and t1ce and t2; with --preset paper: flair]",
        "examples": "[default: cvae, dcvae, dae, unet: 0; selfseg, fusion: 1600; brain: 200; with --preset paper: 0]",
        "views": "[default: cvae, dcvae, dae, unet: 1; selfseg, fusion: 3; with --preset paper: 1]",
        "slices_normalisation": "[default: robust; with --preset paper: volume]",
        "slices_size": "[default: 128]",
        "corruption_augment": "[default: cvae, dcvae: no; dae, unet, selfseg, fusion: yes; with --preset paper: no]",
        "objective_kl": "[default: cvae, dae, unet, selfseg, fusion: 0.01; dcvae: 0.002; with --preset paper: 0.01]",
    }.items():
        assert helps[name].endswith(default), helps[name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modality", "flair", "--modality", "flair"), "modalities: contains 'flair' twice"),
        (("--modality", "flair", "--modality", "FLAIR"), "modalities: contains 'flair' twice"),
        (("--modality", "seg"), "--modality seg: is the ground truth"),
    ],
)
def test_invalid_options_give_a_message_of_one_line(brats_like, tmp_path, arguments, message):
    assert message in fails(call("fit", brats_like, "--out", tmp_path / "run", *arguments))
    assert not (tmp_path / "run").exists()


def test_the_recipe_gives_the_defaults(brats_like, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("brainseg_tf.training.fit.fit", lambda data, out, options, settings: given.append(options))
    small = ("--size", 48, "--epochs", 1, "--min-brain", 0.05, "--batch", 8)
    for name, more in (
        ("selfseg", ()),
        ("unet", ("--corruption", "both", "--no-augment")),
        ("cvae", ("--preset", "paper")),
        ("fusion", ()),
    ):
        result = call("fit", brats_like, "--out", tmp_path / name, "--model", name, *small, *more)
        assert result.exit_code == 0, result.output
    selfseg, unet, paper, fusion = given
    assert selfseg == replace(
        ARCHITECTURES["selfseg"].recipe,
        epochs=1,
        batch=8,
        columns=36,  # Of 48, as wide as 96 of 128.
        slices=replace(ARCHITECTURES["selfseg"].recipe.slices, size=48, min_brain=0.05),
    )
    assert (unet.corruption.kind, unet.corruption.augment) == ("both", False)
    assert (paper.corruption.kind, paper.slices.normalisation, paper.slices.central) == ("shapes", "volume", 0.7)
    assert fusion.modalities == ("flair", "t2")
    assert recipe_for("fusion", ("t2", "flair")).corruption.augmentation.ventricles == 0
    assert recipe_for("selfseg", ("t2",)).corruption.augmentation.ventricles == 0.25
    result = call("fit", brats_like, "--out", tmp_path / "one", "--model", "fusion", "--modality", "flair")
    assert "needs at least 2 modalities" in fails(result, code=2)


def test_modalities_can_be_in_capitals(brats_like, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("brainseg_tf.training.fit.fit", lambda data, out, options, settings: given.append(options))
    result = call("fit", brats_like, "--out", tmp_path / "run", "--modality", "FLAIR", "--modality", "T2w")
    assert result.exit_code == 0, result.output
    assert given[0].modalities == ("flair", "t2")


def test_a_model_can_be_fine_tuned_for_another_modality(brats_like, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("brainseg_tf.training.fit.fit", lambda data, out, options, settings: given.append(options))
    command = ("fit", brats_like, "--from", "selfseg-flair", "--out", tmp_path / "run")
    assert call(*command).exit_code == 0
    assert call(*command, "--modality", "t2").exit_code == 0
    same, other = given
    assert (same.modalities, other.modalities) == (("flair",), ("t2",))
    assert same.corruption == recipe_of(find("selfseg-flair").card).corruption
    # On T2 fluid is bright, so a lesion leaves it out.
    assert other.corruption == recipe_for("selfseg", ("t2",)).corruption
    assert other.corruption.lesions.spares_fluid == 1
    assert replace(other, modalities=same.modalities, corruption=same.corruption) == same
    assert (other.epochs, other.initial) == (10, find("selfseg-flair").identity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--modality", "t2", "--modality", "flair"),
            "--modality names t2 and flair, but the network of --from has the",
        ),
        (("--size", 64), "--from takes the slices of the model; omit the options for them"),
        (("--model", "cvae"), "--model and --preset do not go with --from"),
    ],
)
def test_fine_tuning_refuses_other_channels_slices_or_networks(brats_like, tmp_path, arguments, message):
    command = ("fit", brats_like, "--from", "selfseg-flair", "--out", tmp_path / "run", *arguments)
    assert message in fails(call(*command), code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_recipe_is_read_back_from_a_card(trained, tmp_path, name):
    """Cross-validation trains with the recipe in the card."""
    card, options = read_card(trained / "1"), ARCHITECTURES[name].recipe
    network = {"architecture": options.architecture, "modalities": options.modalities, "slices": options.slices}
    replace(card, **network, training=training_options(options)).write(tmp_path)
    assert recipe_of(read_card(tmp_path)) == options


def fails_after_output(result: Result) -> str:
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_the_brain_network_is_trained_on_one_folder(brats_like, tmp_path):
    message = fails(call("fit", brats_like, brats_like, "--model", "brain", "--out", tmp_path / "run"), 2)
    assert "--model brain takes one folder" in message
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_network_is_not_resumed_as_a_brain_network(trained, brats_like):
    message = fails(call("fit", brats_like, "--model", "brain", "--out", trained, "--resume"))
    assert "was started with architecture cvae, not brain" in message
