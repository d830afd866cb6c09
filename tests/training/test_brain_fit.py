"""Training of a brain network, as a user runs it, with few and small examples."""

import json

import numpy as np
import pytest

from brainseg_tf import saved_model
from brainseg_tf.brain.network import network_mask
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import read_volume
from brainseg_tf.training import random_heads
from helpers import call, fails, make_brain, save


@pytest.fixture
def heads(tmp_path, monkeypatch):
    """Two heads with masks and two stripped subjects."""
    monkeypatch.setattr(random_heads, "SHAPES", ((48, 48, 32), (32, 48, 48)))
    folder = tmp_path / "data"
    for number in range(4):
        data, _ = make_brain(number)
        place = folder / f"s{number}"
        noise = np.random.default_rng(0).normal(0, 3, data.shape).astype(np.float32) if number < 2 else 0
        save(data + noise, place / f"s{number}_flair.nii.gz")
        if number < 2:
            save(data > 0, place / f"s{number}_brain.nii.gz")
    return folder


@pytest.mark.slow
def test_fit_exports_a_brain_network_that_predict_can_use(heads, tmp_path):
    run = tmp_path / "brain"
    arguments = ("fit", heads, "--model", "brain", "--out", run, "--examples", 4)
    result = call(*arguments, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "heads" in result.stdout and result.stdout.splitlines()[-1] == f"model: {run / '1'}"
    found = saved_model.find_any(str(run))
    found.check()
    card = found.card
    assert (card.architecture, card.data.heads, card.data.stripped) == ("brain", 2, 2)
    assert len(card.data.train) == 3 and len(card.data.validation) == 1
    assert card.training["examples"] == 4
    # Those that the subjects have, of the four that the options name.
    assert card.modalities == ("flair",)
    scan = read_volume(heads / "s0" / "s0_flair.nii.gz")
    mask = network_mask(scan, found.load()).mask
    assert mask.shape == scan.data.shape and mask.dtype == bool

    # A finished run is not changed; more epochs continue it.
    again = call(*arguments, "--epochs", 1, "--resume")
    assert "there is nothing to do" in again.stdout
    more = call(*arguments, "--epochs", 2, "--resume", "--tensorboard", tmp_path / "board")
    assert more.exit_code == 0 and "resuming after 1 epochs" in more.stdout
    assert len((run / "history.csv").read_text().splitlines()) == 3
    assert (run / "losses.png").is_file()
    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))
    # The same seed gives the same network.
    other = tmp_path / "other"
    assert call("fit", heads, "--model", "brain", "--out", other, "--examples", 4, "--epochs", 1).exit_code == 0
    first = json.loads((run / "history.csv").read_text().splitlines()[1].join("[]"))
    second = json.loads((other / "history.csv").read_text().splitlines()[1].join("[]"))
    np.testing.assert_allclose(first, second, rtol=0.02)

    # It is a brain network and no lesion model.
    scan_file = heads / "s2" / "s2_flair.nii.gz"
    assert "is a brain network" in fails(call("predict", scan_file, "--out", tmp_path / "m.nii.gz", "--model", run))
    exported = call("export", run, "--to", tmp_path / "models")
    assert exported.exit_code == 0, exported.output
    assert (tmp_path / "models" / "brain" / "1" / "saved_model.pb").is_file()
    configured = call("serving-config", tmp_path / "models", "--out", tmp_path / "served")
    assert configured.exit_code == 0, configured.output
    assert "brain" in (tmp_path / "served" / "models.config").read_text()
    with pytest.raises(InputError, match="is a brain network, which finds the brain and no lesions"):
        saved_model.open_folder(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kl-weight", 1), "--kl-weight does not go with --model brain"),
        (("--batch", 2), "--batch does not go with --model brain"),
        (("--strategy", "mirrored"), "--strategy, --preset and --from do not go with --model brain"),
    ],
)
def test_options_of_the_lesion_models_are_refused(heads, tmp_path, arguments, message):
    result = call("fit", heads, "--model", "brain", "--out", tmp_path / "run", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "run").exists()


def test_too_few_subjects_are_named(heads, tmp_path):
    missing = call("fit", tmp_path / "nowhere", "--model", "brain", "--out", tmp_path / "run")
    assert "no such folder; give a folder of heads with brain masks" in fails(missing)
    assert not (tmp_path / "run").exists()
