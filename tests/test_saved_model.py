import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf import models, saved_model
from brainseg_tf.errors import InputError
from brainseg_tf.model_card import FILE, read_card
from brainseg_tf.serving.repository import publish
from helpers import call, fails

# Where the package that is tested has them: in the checkout, or where it was installed.
SHIPPED = saved_model._home().resolve()
CODE = """
import sys, numpy, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = tf.constant(numpy.load(sys.argv[2]))
outputs = model.signatures["serving_default"](images=images)
encoded = model.signatures["encode"](images=images)
assert not any(name.partition(".")[0] in ("brainseg_tf", "tensorflow_probability") for name in sys.modules)
numpy.savez(sys.argv[3], **{name: value.numpy() for name, value in (outputs | encoded).items()})
"""


@pytest.mark.slow
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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with a model in ``cvae``, whose name is a shipped model's, and the same one in ``mine``."""
    place = tmp_path / "here"
    for name in ("cvae", "mine"):
        shutil.copytree(SHIPPED / "cvae" / "1", place / name / "1")
    monkeypatch.chdir(place)
    return place


def test_a_path_is_the_users_folder_and_never_a_shipped_model(here):
    for text in ("./cvae", "cvae/", "cvae/1", "./cvae/1/", "mine/../cvae", ".//cvae", f"{here}/cvae"):
        assert saved_model.find(text).path.resolve() == here / "cvae" / "1", text
    assert saved_model.find("mine").path == Path("mine/1")
    shutil.rmtree(here / "cvae")
    for text in ("./cvae", "cvae/", "cvae/1", "./nonsense", "../cvae", f"{here}/cvae", "~/cvae"):
        with pytest.raises(InputError) as caught:
            saved_model.find(text)
        assert str(caught.value).startswith(f"{text}: no such folder; a shipped model is named without a path (cvae, ")


def test_a_name_that_is_both_is_refused_and_both_are_named(here):
    with pytest.raises(InputError) as caught:
        saved_model.find("cvae")
    assert str(caught.value) == (
        "cvae: is a shipped model and a folder here; give shipped:cvae for the shipped model, or ./cvae for the folder"
    )
    assert saved_model.find("shipped:cvae").path == SHIPPED / "cvae" / "2"
    assert saved_model.find("shipped:cvae/1").path == SHIPPED / "cvae" / "1"
    shutil.rmtree(here / "cvae")
    assert saved_model.find("cvae").path == SHIPPED / "cvae" / "2"
    (here / "cvae").touch()
    assert saved_model.find("cvae").path == SHIPPED / "cvae" / "2"


def test_a_folder_without_a_model_is_a_second_meaning_too(here):
    shutil.rmtree(here / "cvae" / "1")
    with pytest.raises(InputError, match="is a shipped model and a folder here"):
        saved_model.find("cvae")


def test_in_the_folder_of_the_shipped_models_a_name_has_one_meaning(monkeypatch):
    monkeypatch.chdir(SHIPPED)
    assert saved_model.find("cvae").path.resolve() == SHIPPED / "cvae" / "2"


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_name_is_refused(text):
    with pytest.raises(InputError, match="the model's name is empty; shipped are cvae, .*, or give a folder"):
        saved_model.find(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shipped:", "shipped:: no such model; shipped are cvae, "),
        ("shipped:nonsense", "shipped:nonsense: no such model; shipped are cvae, "),
        ("shipped:../cvae", "shipped:../cvae: no such model; "),
        ("shipped:cvae/../dae", "shipped:cvae/../dae: no such version of it; there are 1, 2"),
        ("shipped:cvae/9", "shipped:cvae/9: no such version of it; there are 1, 2"),
        (".", ".: no SavedModel in it"),
        ("..", "..: no SavedModel in it"),
        ("nonsense/../nonsense", "nonsense/../nonsense: no such folder"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x: no such folder"),
        ("~", "~: no such folder"),
        ("a\0b", r"a\x00b: no such model"),
        ("./a\0b", r"./a\x00b: no such folder"),
        ("~\0b", r"~\x00b: no such folder"),
        ("a\nb", r"a\nb: no such model"),
        ("\udcff", r"\xff: no such model"),
        ("x" * 5000, "x: cannot be read (File name too long)"),
        ("\u00b2", "\u00b2: no such model"),
    ],
)
def test_whatever_is_no_model_is_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "empty" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "below")
    monkeypatch.setenv("HOME", str(tmp_path / "no-home"))
    with pytest.raises(InputError) as caught:
        saved_model.find(text)
    assert message in str(caught.value) and str(caught.value).isprintable()


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match=r"saved_model\.pb: is a file; name the folder of the model"):
        saved_model.find(str(tmp_path / "saved_model.pb"))


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def refused(place):
        raise PermissionError(13, "Permission denied", str(place))

    (tmp_path / "model").mkdir()
    monkeypatch.setattr(Path, "iterdir", refused)
    monkeypatch.setattr(saved_model, "shipped_folders", dict)
    with pytest.raises(InputError, match=r"model: cannot be read \(Permission denied\); name a model folder that can"):
        saved_model.find(str(tmp_path / "model"))


def test_digits_of_other_scripts_are_no_versions(tmp_path):
    for name in ("3", "\u00b2", "\u0665", "4" * 30):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    assert saved_model.version_folders(tmp_path) == [tmp_path / "3"]


def test_a_reference_means_the_same_model_in_every_folder(here, tmp_path, monkeypatch):
    """What is sent to a cluster's workers."""
    for text in ("./cvae", "mine", "shipped:cvae", "shipped:dae/1", str(SHIPPED / "cvae" / "1")):
        monkeypatch.chdir(here)
        found = saved_model.find(text)
        reference, path = found.reference, found.path.resolve()
        # Where names mean something else.
        (tmp_path / "elsewhere" / "cvae").mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        again = saved_model.find(reference)
        assert again.path.resolve() == path and again.reference == reference
    assert saved_model.find("shipped:cvae/1").reference == "shipped:cvae/1"


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


def test_an_export_is_checked_with_its_card_and_its_warmup_requests(trained, tmp_path):
    shutil.copytree(trained / "1", tmp_path / "1")
    found = saved_model.find(str(tmp_path))
    found.check()
    assert {FILE.as_posix(), "assets.extra/tf_serving_warmup_requests"} < set(found.card.checksums)
    published = saved_model.open_folder(publish(found, tmp_path / "repository", 7))
    published.check()
    (tmp_path / "1" / FILE).write_text((tmp_path / "1" / FILE).read_text().replace('"trim": 0', '"trim": 2'))
    with pytest.raises(InputError, match=r"model_card\.json: is not the file that the model card was written for"):
        saved_model.find(str(tmp_path)).load()
    with pytest.raises(InputError, match="is not the file"):
        publish(saved_model.find(str(tmp_path)), tmp_path / "repository", 8)
