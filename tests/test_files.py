import errno
import fcntl
import os

import pytest

from brainseg_tf.errors import InputError, InputWarning
from brainseg_tf.files import check_writable, exclusive_lock, make_folder, printable, replacing, waiting_for, write_json


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


def test_temporary_names_cannot_be_foreseen_and_are_short(tmp_path):
    place = tmp_path / f"{'x' * 240}_mask.nii.gz"
    with replacing(place) as first, replacing(place) as second:
        assert first.name != second.name
        assert str(os.getpid()) not in first.name.split(".")
        for beside in (first, second):
            assert beside.parent == tmp_path
            assert beside.name.startswith(".") and beside.name.endswith(".nii.gz")
            assert len(beside.name) < 64
            beside.touch()
    assert os.listdir(tmp_path) == [place.name]


def test_names_that_are_too_long_are_refused_early(tmp_path):
    check_writable(tmp_path / ("é" * 127))
    with pytest.raises(InputError, match=r"the name has 256 bytes, 255 are allowed here; shorten the scan's name"):
        check_writable(tmp_path / ("é" * 128))
    with pytest.raises(InputError, match="cannot be created"):
        make_folder(tmp_path / ("x" * 300))


def test_text_for_people():
    assert printable("plain ünïcödé 中文") == "plain ünïcödé 中文"
    assert printable("a\nb\tc\x1b[0m\x7f\u2028\u202e") == "a\\nb\\tc\\x1b[0m\\x7f\\u2028\\u202e"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    printable("\ud800x").encode()


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for guarded in (exclusive_lock(tmp_path), waiting_for(tmp_path / "summary.csv")):
        entered = []
        with pytest.warns(InputWarning, match="has no locks; start no second run in this folder"), guarded:
            entered.append(1)
        assert entered == [1]


def test_a_lock_that_is_held_is_waited_for(tmp_path):
    with waiting_for(tmp_path / "a.csv"):
        with pytest.raises(InputError, match="another run has held it"), waiting_for(tmp_path / "a.csv", seconds=0.2):
            pass
        with (
            exclusive_lock(tmp_path),
            pytest.raises(InputError, match="another run is at work in it"),
            exclusive_lock(tmp_path),
        ):
            pass
    with waiting_for(tmp_path / "a.csv", seconds=0.2):
        pass


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
