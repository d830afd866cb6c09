import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from test_cli import call, fails

from brainseg_tf import models, saved_model
from brainseg_tf.errors import InputError
from brainseg_tf.model_card import FILE, read_card
from brainseg_tf.serving.repository import publish

CODE = """
import sys, numpy, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = tf.constant(numpy.load(sys.argv[2]))
outputs = model.signatures["serving_default"](images=images)
encoded = model.signatures["encode"](images=images)
assert not any(name.partition(".")[0] in ("brainseg_tf", "tensorflow_probability") for name in sys.modules)
numpy.savez(sys.argv[3], **{name: value.numpy() for name, value in (outputs | encoded).items()})
"""


def test_the_export_does_not_need_us_and_is_exact(trained, tmp_path):
    images = np.random.default_rng(0).random((3, 50, 61, 1)).astype(np.float32)
    np.save(tmp_path / "in.npy", images)
    files = [str(trained / "1"), str(tmp_path / "in.npy"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", CODE, *files], check=True, capture_output=True)
    outputs = np.load(tmp_path / "out.npz")
    model = models.create("cvae", 1)
    model.load_weights(trained / "best.weights.h5")
    np.testing.assert_allclose(outputs["reconstruction"], model(images), atol=1e-5)
    np.testing.assert_allclose(outputs["residual"], images - outputs["reconstruction"], atol=1e-6)
    assert outputs["mean"].shape == outputs["stddev"].shape == (3, 2, 2, 64)
    assert (outputs["stddev"] > 0).all()


def test_every_weight_is_written_once(trained):
    written = sum(file.stat().st_size for file in (trained / "1" / "variables").iterdir())
    assert written < 4.2 * models.create("cvae", 1).count_params()


def test_slices_do_not_depend_on_their_batch(trained):
    images = np.random.default_rng(0).random((5, 48, 48, 1)).astype(np.float32)
    path = saved_model.find(str(trained)).path
    whole = saved_model.LocalModel(path).reconstruct(images)
    parts = saved_model.LocalModel(path, batch=2).reconstruct(images)
    np.testing.assert_allclose(whole.images, parts.images, atol=1e-6)
    assert whole.probability is None


def test_models_are_found_by_folder_and_version(trained, tmp_path):
    assert saved_model.find(str(trained)).path == trained / "1"
    assert saved_model.find(str(trained / "1")).path == trained / "1"
    for number in ("2", "10"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "saved_model.pb").touch()
    (tmp_path / "11").mkdir()
    assert saved_model.newest_version(tmp_path) == tmp_path / "10"


def test_unknown_and_damaged_models_are_refused(trained, tmp_path):
    with pytest.raises(InputError, match="nonsense: no such model; shipped are .*cvae"):
        saved_model.find("nonsense")
    with pytest.raises(InputError, match="no SavedModel in it"):
        saved_model.find(str(tmp_path))
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match="no assets.extra"):
        saved_model.find(str(tmp_path))
    (tmp_path / FILE).parent.mkdir()
    for content in ("{", json.dumps({"name": "x"})):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(InputError, match="is not a model card"):
            saved_model.find(str(tmp_path))


def test_the_card_is_read_as_it_was_written(trained, tmp_path):
    card = read_card(trained / "1")
    card.write(tmp_path)
    assert read_card(tmp_path) == card


def test_a_damaged_or_swapped_model_is_refused(trained, tmp_path, scan):
    model = tmp_path / "model" / "1"
    shutil.copytree(trained / "1", model)
    assert set(read_card(model).checksums) >= {"saved_model.pb", "variables/variables.index"}
    weights = model / "variables" / "variables.data-00000-of-00001"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    out = tmp_path / "mask.nii.gz"
    result = call("predict", scan, "--out", out, "--model", model.parent)
    message = fails(result)
    assert message.startswith(f"Error: {weights}: is not the file that the model card was written for; install")
    assert not out.exists()
    with pytest.raises(InputError, match="is not the file"):
        publish(saved_model.find(str(model)), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
    weights.write_bytes(sound)
    (model / "variables" / "more").touch()
    with pytest.raises(InputError, match="variables/more: is not the file"):
        saved_model.find(str(model)).load()
