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

# The shipped models of the tested package, which can be a checkout or an installation.
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
def test_an_exported_model_is_exact_and_does_not_need_the_package(trained, tmp_path):
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
    signature = saved_model.signature_of_tensorflow(saved_model.find(str(trained)).path)
    one_batch = saved_model.LocalModel(signature).reconstruct(images)
    small_batches = saved_model.LocalModel(signature, batch=2).reconstruct(images)
    np.testing.assert_allclose(one_batch.images, small_batches.images, atol=1e-6)
    assert one_batch.probability is None


def test_models_are_found_by_folder_and_version(trained, tmp_path):
    assert saved_model.find(str(trained)).path == trained / "1"
    assert saved_model.find(str(trained / "1")).path == trained / "1"
    for number in ("2", "10"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "saved_model.pb").touch()
    (tmp_path / "11").mkdir()
    assert saved_model.newest_version(tmp_path) == tmp_path / "10"


def test_unknown_and_damaged_models_are_refused(trained, tmp_path):
    with pytest.raises(InputError, match=r"nonsense: no such model; give a shipped model \(.*cvae"):
        saved_model.find("nonsense")
    with pytest.raises(InputError, match="contains no SavedModel"):
        saved_model.find(str(tmp_path))
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match="contains no assets.extra"):
        saved_model.find(str(tmp_path))
    (tmp_path / FILE).parent.mkdir()
    for content in ("{", json.dumps({"name": "x"})):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(InputError, match="is not a model card"):
            saved_model.find(str(tmp_path))


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """The working directory, with a model in ``cvae``, which is also the name of a shipped model, and in ``mine``."""
    folder = tmp_path / "here"
    for name in ("cvae", "mine"):
        shutil.copytree(SHIPPED / "cvae" / "2", folder / name / "1")
    monkeypatch.chdir(folder)
    return folder


def test_a_path_is_never_a_shipped_model(working_folder):
    for text in ("./cvae", "cvae/", "cvae/1", "./cvae/1/", "mine/../cvae", ".//cvae", f"{working_folder}/cvae"):
        assert saved_model.find(text).path.resolve() == working_folder / "cvae" / "1", text
    assert saved_model.find("mine").path == Path("mine/1")
    shutil.rmtree(working_folder / "cvae")
    for text in ("./cvae", "cvae/", "cvae/1", "./nonsense", "../cvae", f"{working_folder}/cvae", "~/cvae"):
        with pytest.raises(InputError) as caught:
            saved_model.find(text)
        assert str(caught.value).startswith(f"{text}: no such folder; give an existing one, or the name of a shipped ")
        assert "(brain, cvae, " in str(caught.value)


def test_an_ambiguous_name_is_refused_and_both_models_are_named(working_folder):
    with pytest.raises(InputError) as caught:
        saved_model.find("cvae")
    assert str(caught.value) == (
        "cvae: is both a shipped model and a folder in the working directory; give shipped:cvae for the shipped model, "
        "or ./cvae for the folder"
    )
    assert saved_model.find("shipped:cvae").path == SHIPPED / "cvae" / "2"
    assert saved_model.find("shipped:cvae/2").path == SHIPPED / "cvae" / "2"
    shutil.rmtree(working_folder / "cvae")
    assert saved_model.find("cvae").path == SHIPPED / "cvae" / "2"
    (working_folder / "cvae").touch()
    assert saved_model.find("cvae").path == SHIPPED / "cvae" / "2"


def test_a_name_is_also_ambiguous_if_the_folder_contains_no_model(working_folder):
    shutil.rmtree(working_folder / "cvae" / "1")
    with pytest.raises(InputError, match="is both a shipped model and a folder in the working directory"):
        saved_model.find("cvae")


def test_a_name_is_not_ambiguous_in_the_folder_of_the_shipped_models(monkeypatch):
    monkeypatch.chdir(SHIPPED)
    assert saved_model.find("cvae").path.resolve() == SHIPPED / "cvae" / "2"


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_name_is_refused(text):
    with pytest.raises(
        InputError, match=r"the model's name is empty; give a shipped model \(cvae, .*\), or the folder"
    ):
        saved_model.find(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shipped:", "shipped:: no such model; give a shipped model (cvae, "),
        ("shipped:nonsense", "shipped:nonsense: no such model; give a shipped model (cvae, "),
        ("shipped:../cvae", "shipped:../cvae: no such model; "),
        ("shipped:cvae/../dae", "shipped:cvae/../dae: no such version; choose from 2"),
        ("shipped:cvae/9", "shipped:cvae/9: no such version; choose from 2"),
        (".", ".: contains no SavedModel"),
        ("..", "..: contains no SavedModel"),
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
def test_an_invalid_model_gives_a_message_of_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "empty" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "below")
    monkeypatch.setenv("HOME", str(tmp_path / "no-home"))
    with pytest.raises(InputError) as caught:
        saved_model.find(text)
    assert message in str(caught.value) and str(caught.value).isprintable()


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match=r"saved_model\.pb: is a file; give the folder of the model"):
        saved_model.find(str(tmp_path / "saved_model.pb"))


def test_an_unreadable_folder_gives_a_message_of_one_line(tmp_path, monkeypatch):
    def without_permission(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "model").mkdir()
    monkeypatch.setattr(Path, "iterdir", without_permission)
    monkeypatch.setattr(saved_model, "shipped_folders", dict)
    with pytest.raises(InputError, match=r"model: cannot be read \(Permission denied\); give a readable model folder"):
        saved_model.find(str(tmp_path / "model"))


def test_only_ascii_digits_are_versions(tmp_path):
    for name in ("3", "\u00b2", "\u0665", "4" * 30):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    assert saved_model.version_folders(tmp_path) == [tmp_path / "3"]


def test_a_reference_means_the_same_model_in_every_working_directory(working_folder, tmp_path, monkeypatch):
    """References are sent to the workers of a cluster."""
    for text in ("./cvae", "mine", "shipped:cvae", "shipped:dae/2", str(SHIPPED / "cvae" / "2")):
        monkeypatch.chdir(working_folder)
        found = saved_model.find(text)
        reference, path = found.reference, found.path.resolve()
        # In this working directory the name "cvae" means another folder.
        (tmp_path / "elsewhere" / "cvae").mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        again = saved_model.find(reference)
        assert again.path.resolve() == path and again.reference == reference
    assert saved_model.find("shipped:cvae/2").reference == "shipped:cvae/2"


def test_the_card_is_read_as_it_was_written(trained, tmp_path):
    card = read_card(trained / "1")
    card.write(tmp_path)
    assert read_card(tmp_path) == card


def test_a_damaged_or_swapped_model_is_refused(trained, tmp_path, scan):
    model = tmp_path / "model" / "1"
    shutil.copytree(trained / "1", model)
    assert set(read_card(model).checksums) >= {"saved_model.pb", "variables/variables.index"}
    weights = model / "variables" / "variables.data-00000-of-00001"
    undamaged = weights.read_bytes()
    weights.write_bytes(undamaged[:-1] + bytes([undamaged[-1] ^ 1]))
    out = tmp_path / "mask.nii.gz"
    result = call("predict", scan, "--out", out, "--model", model.parent)
    message = fails(result)
    assert message.startswith(f"Error: {weights}: does not match the checksum in the model card; reinstall")
    assert not out.exists()
    with pytest.raises(InputError, match="does not match the checksum"):
        publish(saved_model.find(str(model)), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
    weights.write_bytes(undamaged)
    (model / "variables" / "more").touch()
    with pytest.raises(InputError, match="variables/more: does not match the checksum"):
        saved_model.find(str(model)).load()


def test_an_export_is_checked_with_its_card_and_its_warmup_requests(trained, tmp_path):
    shutil.copytree(trained / "1", tmp_path / "1")
    found = saved_model.find(str(tmp_path))
    found.check()
    assert {FILE.as_posix(), "assets.extra/tf_serving_warmup_requests"} < set(found.card.checksums)
    published = saved_model.open_folder(publish(found, tmp_path / "repository", 7))
    published.check()
    (tmp_path / "1" / FILE).write_text((tmp_path / "1" / FILE).read_text().replace('"trim": 0', '"trim": 2'))
    with pytest.raises(InputError, match=r"model_card\.json: does not match the checksum in the model card"):
        saved_model.find(str(tmp_path)).load()
    with pytest.raises(InputError, match="does not match the checksum"):
        publish(saved_model.find(str(tmp_path)), tmp_path / "repository", 8)
