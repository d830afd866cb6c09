"""The commands export, serving-config and predict --server."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.brain.mask import brain_mask
from brainseg_tf.images.volume import read_volume
from brainseg_tf.model_card import read_card
from brainseg_tf.slices import to_stack
from helpers import FAST, ROOT, call, fails
from stand_in import Models, StandIn


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_the_mask_of_a_served_model_equals_that_of_the_local_model(urls, trained, scan, tmp_path, scheme):
    result = call("predict", scan, "--model", trained, "--out", tmp_path / "local.nii.gz", *FAST)
    assert result.exit_code == 0, result.output
    report = tmp_path / "report.json"
    arguments = ["--model", trained, "--server", urls[scheme], "--server-label", "stable", "--report", report]
    result = call("predict", scan, *arguments, "--out", tmp_path / "served.nii.gz", *FAST)
    assert result.exit_code == 0, result.output
    local, served = (np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj) for name in ("local", "served"))
    assert local.any()
    np.testing.assert_array_equal(served, local)
    assert json.loads(report.read_text())["server"] == urls[scheme]


@pytest.mark.parametrize("scheme", ["grpc", pytest.param("http", marks=pytest.mark.slow)])
def test_the_brain_of_a_head_is_found_on_the_server(repository, trained, tmp_path, scheme):
    """The brain network is exported to the server; without it there, a head is a warning."""
    models = tmp_path / "models"
    shutil.copytree(repository / "small", models / "small")
    head = ROOT / "examples" / "phantom" / "head_flair.nii.gz"

    def run(name, *server):
        outputs = ("--out", tmp_path / f"{name}.nii.gz", "--save-brain-mask", tmp_path / f"{name}_brain.nii.gz")
        return call("predict", head, *outputs, "--model", trained, *server, *FAST)

    with StandIn(Models(models)) as server:
        url = dict(zip(("grpc", "http"), server.urls(), strict=True))[scheme]
        without = run("without", "--server", url)
        assert without.exit_code == 0, without.output
        assert "the scan seems not to be skull-stripped" in without.stderr
        refused = run("refused", "--server", url, "--brain", "network")
        assert "add it to the server with brainseg-tf export brain" in fails(refused)
    assert call("export", "brain", "--to", models).exit_code == 0
    with StandIn(Models(models)) as server:
        url = dict(zip(("grpc", "http"), server.urls(), strict=True))[scheme]
        served = run("served", "--server", url)
    local = run("local")
    assert (served.exit_code, served.stderr, local.exit_code) == (0, "", 0), served.output
    first, second = (np.asarray(nib.load(tmp_path / f"{name}_brain.nii.gz").dataobj) for name in ("served", "local"))
    assert first.sum() > 500_000
    np.testing.assert_array_equal(first, second)


def test_a_server_gets_slices_of_one_size(urls, trained, scan, tmp_path):
    shutil.copytree(trained / "1", tmp_path / "1")
    replace(read_card(tmp_path / "1"), trim=2).write(tmp_path / "1")
    card, volume = read_card(tmp_path / "1"), read_volume(scan)
    assert to_stack([volume], brain_mask(volume), card.slices, card.trim).brain[0].size < card.slices.size**2
    arguments = ["--model", tmp_path, "--server", urls["grpc"], "--server-model", "small"]
    result = call("predict", scan, *arguments, "--out", tmp_path / "served.nii.gz", *FAST)
    assert result.exit_code == 0, result.output
    result = call("predict", scan, "--model", trained, "--out", tmp_path / "whole.nii.gz", *FAST)
    assert result.exit_code == 0, result.output
    served, whole = (np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj) for name in ("served", "whole"))
    np.testing.assert_array_equal(served, whole)


def test_many_scans_through_one_server(urls, trained, scan, tmp_path):
    shutil.copy(scan, tmp_path / "other.nii.gz")
    arguments = ["--model", trained, "--server", urls["grpc"], "--server-version", 2, "--server-model", "small"]
    result = call("predict", scan, tmp_path / "other.nii.gz", *arguments, "--out-dir", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").glob("*_mask.nii.gz"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--server-model", "nonsense"], "model nonsense: is not served"),
        (["--server-version", "7"], "model small version 7: is not served"),
        (["--server-label", "best"], "model small label best: is not served"),
        (["--server-ca", "nowhere.pem"], "nowhere.pem: no such file"),
        (["--model", "cvae", "--server-model", "small"], "its slices.size is 48, that of cvae is 128"),
        (["--server", "localhost"], "localhost: is not a server address"),
        (["--server", "grpc://localhost:1"], "no response from TensorFlow Serving"),
        (["--server", "http://localhost:1"], "no response from TensorFlow Serving"),
    ],
)
def test_a_failure_gives_a_message_of_one_line_and_leaves_no_file(urls, trained, scan, tmp_path, arguments, message):
    base = ["--model", trained, "--server", urls["grpc"]]
    out, report = tmp_path / "out" / "mask.nii.gz", tmp_path / "out" / "report.json"
    out.parent.mkdir()
    stderr = fails(call("predict", scan, "--out", out, "--report", report, *base, *arguments))
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert list(out.parent.iterdir()) == []


def test_an_invalid_response_leaves_no_file(served_models, trained, scan, tmp_path):
    (tmp_path / "out").mkdir()
    with StandIn(served_models) as server:
        server.faults.spoil = lambda outputs: {name: values * np.float32(np.nan) for name, values in outputs.items()}
        arguments = ["--model", trained, "--server", next(server.urls())]
        stderr = fails(call("predict", scan, "--out", tmp_path / "out" / "mask.nii.gz", *arguments))
    assert "contains NaN, infinity" in stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--server", "grpc://x", "--server-version", "1", "--server-label", "a"], "or --server-label, not both"),
        (["--server-model", "x"], "go with --server"),
        (["--server", "grpc://x", "--server-version", "0"], "--server-version"),
    ],
)
def test_wrong_usage(scan, tmp_path, arguments, message):
    assert message in fails(call("predict", scan, "--out", tmp_path / "mask.nii.gz", *arguments), code=2)


def test_export_and_serving_config(trained, tmp_path):
    repository, out = tmp_path / "models", tmp_path / "serving"
    result = call("export", trained, "--to", repository)
    assert (result.exit_code, result.stdout) == (0, f"{repository / 'small' / '1'}: exported\n")
    assert "give --version 2" in fails(call("export", trained, "--to", repository))
    assert call("export", trained, "--to", repository, "--version", 2).exit_code == 0
    result = call("serving-config", repository, "--out", out)
    assert result.exit_code == 0, result.output
    assert "small" in (out / "models.config").read_text()
    assert "exists already" in fails(call("serving-config", repository, "--out", out))
    assert call("serving-config", repository, "--out", out, "--overwrite").exit_code == 0


def test_export_and_serving_config_refuse(tmp_path):
    assert "no such model" in fails(call("export", "nonsense", "--to", tmp_path / "models"))
    assert "add a model with brainseg-tf export" in fails(call("serving-config", tmp_path, "--out", tmp_path / "out"))
    (tmp_path / "file").touch()
    assert "cannot be created" in fails(call("export", "cvae", "--to", tmp_path / "file"))
    assert sorted(place.name for place in tmp_path.iterdir()) == ["file"]
