"""Models and runs in folders whose names TensorFlow cannot open by itself."""

import gc
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf import models, saved_model
from brainseg_tf.errors import InputError
from brainseg_tf.links import for_tensorflow, linked
from brainseg_tf.resources import Runtime
from brainseg_tf.training.fit import RunSettings, fit
from brainseg_tf.training.initial_weights import load_weights
from helpers import call, small_options

# Other systems do not allow all of these names.
LINUX = sys.platform == "linux"
NAMES = ["run [v2]", *(["a*b?", "back\\slash", os.fsdecode(b"caf\xe9")] if LINUX else [])]


@pytest.mark.parametrize("name", ["run (v2)", "Übung"])
def test_other_names_are_used_as_they_are(name, tmp_path):
    with for_tensorflow(tmp_path / name) as folder:
        assert folder == tmp_path / name


def test_the_link_is_gone_afterwards(tmp_path):
    (tmp_path / "file").write_text("content")
    with linked(tmp_path / "file", "other.txt") as link:
        assert (link.name, link.read_text()) == ("other.txt", "content")
    assert not link.parent.exists()
    assert (tmp_path / "file").read_text() == "content"


def test_a_link_that_cannot_be_made_is_one_line(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "1", tmp_path / "run [1]")
    model = saved_model.find(str(tmp_path / "run [1]"))

    def refused(*given, **more):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    with pytest.raises(InputError) as caught:
        model.load(Runtime("c-api"))
    assert str(caught.value) == (
        f"{tmp_path}/run [1]: cannot be opened by this name, and no link to it can be made (Operation not permitted); "
        "rename it"
    )


@pytest.mark.skipif(not LINUX, reason="other systems do not allow such names")
def test_the_c_library_needs_no_link_for_other_bytes(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with for_tensorflow(folder, any_bytes=True) as same:
        assert same == folder


@pytest.mark.parametrize("name", NAMES)
def test_a_model_in_such_a_folder_gives_the_same_outputs(name, trained, tmp_path):
    shutil.copytree(trained / "1", tmp_path / name)
    found, original = saved_model.find(str(tmp_path / name)), saved_model.find(str(trained))
    images = np.random.default_rng(0).random((2, 48, 48, 1), np.float32)
    expected = original.load().reconstruct(images).images
    for engine in ("tensorflow", "c-api"):
        np.testing.assert_allclose(found.load(Runtime(engine)).reconstruct(images).images, expected, atol=1e-6)
    network = models.create("cvae", 1)
    load_weights(network, found)
    np.testing.assert_allclose(network.outputs(images)["reconstruction"], expected, atol=1e-5)


def test_a_run_in_such_a_folder_is_resumed_and_exported(trained, brats_like, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "run [v2]"
    shutil.copytree(trained, out)
    options = replace(small_options(), epochs=43)
    lines: list[str] = []
    fit(brats_like, out, options, RunSettings(resume=True, say=lines.append))
    assert "resuming after 40 epochs" in lines
    saved_model.find(str(out)).load()
    # Old checkpoints are deleted, which TensorFlow does by a pattern too.
    assert len(list((out / "checkpoints").glob("*.index"))) == 2
    gc.collect()
    assert [one for one in tmp_path.iterdir() if one.name.startswith("brainseg-tf-")] == []
    result = call("export", f"{out}/1", "--to", tmp_path / "models [b]")
    assert result.exit_code == 0, result.output
    assert isinstance(saved_model.find(str(tmp_path / "models [b]" / "run [v2]")).load(), saved_model.LocalModel)
