import os
import shutil
import threading

import pytest

from brainseg_tf.errors import InputError, InputWarning
from brainseg_tf.model_card import read_card
from brainseg_tf.saved_model import find
from brainseg_tf.serving.repository import publish, versions_of_models
from helpers import somebody_else


def test_versions_are_added(trained, tmp_path):
    model = find(str(trained))
    assert publish(model, tmp_path / "new") == tmp_path / "new" / "small" / "1"
    assert publish(model, tmp_path / "new", 12) == tmp_path / "new" / "small" / "12"
    assert versions_of_models(tmp_path / "new") == {"small": [1, 12]}
    assert read_card(tmp_path / "new" / "small" / "12").version == 12
    assert find(str(tmp_path / "new" / "small")).path.name == "12"


def test_a_version_is_never_replaced(trained, tmp_path):
    model = find(str(trained))
    published = publish(model, tmp_path)
    before = (published / "saved_model.pb").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"small/1: exists already, .* give --version 2"):
        publish(model, tmp_path)
    assert (published / "saved_model.pb").stat().st_mtime_ns == before


def test_a_server_that_polls_the_folder_never_finds_an_incomplete_model(trained, tmp_path):
    model = find(str(trained))
    complete = sorted(file.relative_to(model.path) for file in model.path.rglob("*"))
    found, stop = [], threading.Event()

    def poll():
        folder = tmp_path / "small"
        while not stop.is_set():
            # Like TensorFlow Serving, every folder whose name is a number is taken as a version.
            for version in [one for one in (folder.iterdir() if folder.is_dir() else ()) if one.name.isdigit()]:
                found.append(sorted(file.relative_to(version) for file in version.rglob("*")))

    watcher = threading.Thread(target=poll)
    watcher.start()
    for version in range(1, 9):
        publish(model, tmp_path, version)
    stop.set()
    watcher.join()
    assert found
    assert all(files == complete for files in found)


def test_a_failure_leaves_nothing(trained, tmp_path, monkeypatch):
    def full(*arguments, **more):
        shutil.copytree_really(*arguments, **more)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree_really", shutil.copytree, raising=False)
    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(InputError, match="cannot be written"):
        publish(find(str(trained)), tmp_path)
    assert list((tmp_path / "small").iterdir()) == []


def test_models_without_warmup_and_folders_without_models_are_refused(trained, tmp_path):
    old = tmp_path / "old" / "1"
    shutil.copytree(trained / "1", old)
    (old / "assets.extra" / "tf_serving_warmup_requests").unlink()
    with pytest.raises(InputError, match="because an older brainseg-tf exported it"):
        publish(find(str(old)), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
    (tmp_path / "empty" / "small" / "1").mkdir(parents=True)
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="contains no NAME/VERSION/saved_model.pb; add a model with"):
            versions_of_models(folder)


def test_a_version_that_another_export_adds_meanwhile_is_not_replaced(trained, tmp_path, monkeypatch):
    other, copy = tmp_path / "small" / "1" / "saved_model.pb", shutil.copytree

    def copy_while_another_adds(*arguments, **more):
        other.parent.mkdir(exist_ok=True)  # The function calls itself for subfolders.
        other.write_bytes(b"other")
        return copy(*arguments, **more)

    monkeypatch.setattr(shutil, "copytree", copy_while_another_adds)
    with pytest.raises(InputError, match=r"small/1: cannot be written \(Directory not empty\)"):
        publish(find(str(trained)), tmp_path)
    assert other.read_bytes() == b"other"
    assert [file.name for file in (tmp_path / "small").iterdir()] == ["1"]


def test_the_copy_of_a_read_only_model_can_be_written(trained, tmp_path):
    shutil.copytree(trained / "1", tmp_path / "model")
    places = [tmp_path / "model", *(tmp_path / "model").rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    copy = publish(find(str(tmp_path / "model")), tmp_path / "models", 3)
    assert all(place.stat().st_mode & 0o200 for place in (copy, *copy.rglob("*")))
    assert read_card(copy).version == 3
    for place in places:
        assert not place.stat().st_mode & 0o200
        if place.is_dir():
            place.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_folder_that_cannot_be_read_is_left_out_of_the_configuration(trained, open_folder):
    """Such as lost+found."""
    shutil.copytree(trained / "1", open_folder / "small" / "1")
    (open_folder / "closed").mkdir(mode=0)
    with (
        somebody_else(open_folder),
        pytest.warns(InputWarning, match=r"closed: left out, cannot be read \(Permission denied\)"),
    ):
        assert versions_of_models(open_folder) == {"small": [1]}
