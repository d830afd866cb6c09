import os

import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.files import check_writable, make_folder, replacing, write_json


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    place = tmp_path / "a.txt"
    place.write_text("old")
    with pytest.raises(RuntimeError), replacing(place) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert place.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    with replacing(place) as beside:
        beside.write_text("new")
    assert place.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_folders_are_replaced_whole(tmp_path):
    place = tmp_path / "1"
    for content in ("a", "b"):
        with replacing(place) as beside:
            beside.mkdir()
            (beside / content).touch()
    assert os.listdir(place) == ["b"]
    assert os.listdir(tmp_path) == ["1"]


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path / "a") as beside:
        beside.write_text("half")
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_outputs_are_refused_early(tmp_path):
    (tmp_path / "there").touch()
    check_writable(tmp_path / "new")
    check_writable(tmp_path / "there", overwrite=True)
    for place, what in (("there", "exists already"), ("no/file", "does not exist"), (".", "is a folder")):
        with pytest.raises(InputError, match=what):
            check_writable(tmp_path / place)


def test_json_cannot_be_written_into_nowhere(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_json(tmp_path / "no" / "a.json", {})


def test_a_folder_is_made_or_refused(tmp_path, monkeypatch):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(InputError, match="cannot be created"):
            make_folder(tmp_path / place)
    # The tests may run as root, whom no permission stops.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(InputError, match="no permission"):
        make_folder(tmp_path / "a")
