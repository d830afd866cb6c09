import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from brainseg_tf.errors import InputError, InputWarning
from brainseg_tf.files import (
    check_outputs,
    check_writable,
    exclusive_lock,
    exists,
    file_lock,
    make_folder,
    printable,
    replacing,
    replacing_all,
    write_json,
)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failing", ["mask", "figure", "report"])
def test_if_a_renaming_fails_all_files_are_the_old_ones(tmp_path, monkeypatch, failing):
    """A colleague's file in a folder where everybody may write their own files only, or one that is open on Windows."""
    paths = {name: tmp_path / name for name in ("mask", "map", "figure", "report")}
    for name in ("mask", "figure", "report"):
        paths[name].write_text(f"old {name}")
    original = Path.replace

    def refused(self, target):
        if failing in (self.name, Path(target).name) and "old" not in self.read_text():
            raise PermissionError(errno.EPERM, "Operation not permitted", str(self))
        return original(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refused)
        with (
            pytest.raises(InputError, match=rf"{failing}: cannot be written \(Operation not permitted\)"),
            replacing_all(paths) as staged,
        ):
            for name, temporary in staged.items():
                temporary.write_text(f"new {name}")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        name: f"old {name}" for name in ("mask", "figure", "report")
    }
    with replacing_all(paths) as staged:
        for name, temporary in staged.items():
            temporary.write_text(f"new {name}")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {name: f"new {name}" for name in paths}


def test_a_file_that_may_not_be_renamed_stays(tmp_path, monkeypatch):
    paths = {name: tmp_path / name for name in ("mask", "report")}
    for path in paths.values():
        path.write_text("old")
    original = Path.replace

    def refused(self, target):
        if self.name == "report":
            raise PermissionError(errno.EPERM, "Operation not permitted", str(self))
        return original(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    with (
        pytest.raises(InputError, match=r"report: cannot be written \(Operation not permitted\)"),
        replacing_all(paths) as staged,
    ):
        for temporary in staged.values():
            temporary.write_text("new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"mask": "old", "report": "old"}


def test_a_run_that_fails_keeps_what_another_run_has_written_meanwhile(tmp_path, monkeypatch):
    paths = {name: tmp_path / name for name in ("mask", "map", "report")}
    original = Path.replace

    def interrupted(self, target):
        if Path(target).name == "mask" and self.read_text() == "ours":
            paths["mask"].write_text("theirs")
            paths["report"].write_text("theirs")
            raise OSError(errno.EIO, "Input/output error", str(self))
        return original(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(InputError, match="mask: cannot be written"), replacing_all(paths) as staged:
        for temporary in staged.values():
            temporary.write_text("ours")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"mask": "theirs", "report": "theirs"}


def test_two_runs_that_replace_the_same_files_do_not_fail(tmp_path):
    paths = {name: tmp_path / name for name in ("mask", "report")}

    def run(text: str) -> None:
        for _ in range(100):
            with replacing_all(paths) as staged:
                for temporary in staged.values():
                    temporary.write_text(text)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, ("a", "b")))
    assert sorted(os.listdir(tmp_path)) == ["mask", "report"]


def test_names_that_some_file_systems_do_not_distinguish_are_one(tmp_path):
    for first, second in (("a.nii", "A.nii"), ("\u00e9.nii", "e\u0301.nii")):
        with pytest.raises(InputError, match="is named twice"):
            check_outputs([tmp_path / first, tmp_path / second], [])
        with pytest.raises(InputError, match="is named twice"):
            check_outputs([tmp_path / second], [tmp_path / first])
    check_outputs([tmp_path / "a.nii", tmp_path / "b.nii"], [tmp_path / "c.nii"])


def test_what_cannot_be_asked_for_is_one_line(tmp_path):
    assert exists(tmp_path) and not exists(tmp_path / "none")
    with pytest.raises(InputError, match=r"x: cannot be opened \(File name too long\); check the path"):
        exists(tmp_path / ("x" * 300))


def test_windows_does_not_state_the_longest_name(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pathconf")
    check_writable(tmp_path / "a")
    with pytest.raises(InputError, match="the file system allows 255"):
        check_writable(tmp_path / ("x" * 256))


def test_temporary_names_cannot_be_foreseen_and_are_short(tmp_path):
    path = tmp_path / f"{'x' * 240}_mask.nii.gz"
    with replacing(path) as first, replacing(path) as second:
        assert first.name != second.name
        assert str(os.getpid()) not in first.name.split(".")
        for temporary in (first, second):
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".") and temporary.name.endswith(".nii.gz")
            assert len(temporary.name) < 64
            temporary.touch()
    assert os.listdir(tmp_path) == [path.name]


def test_names_that_are_too_long_are_refused_early(tmp_path):
    check_writable(tmp_path / ("é" * 127))
    with pytest.raises(
        InputError, match=r"the file name has 256 bytes, the file system allows 255; shorten the scan's name"
    ):
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
    for guarded in (exclusive_lock(tmp_path), file_lock(tmp_path / "summary.csv")):
        entered = []
        with pytest.warns(InputWarning, match="has no locks; do not start a second run in this folder"), guarded:
            entered.append(1)
        assert entered == [1]


def test_a_second_lock_waits_and_then_fails(tmp_path):
    with file_lock(tmp_path / "a.csv"):
        with pytest.raises(InputError, match="another run has locked it"), file_lock(tmp_path / "a.csv", seconds=0.2):
            pass
        with (
            exclusive_lock(tmp_path),
            pytest.raises(InputError, match="another run is using this folder"),
            exclusive_lock(tmp_path),
        ):
            pass
    with file_lock(tmp_path / "a.csv", seconds=0.2):
        pass


def test_folders_are_replaced(tmp_path):
    path = tmp_path / "1"
    for content in ("a", "b"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert os.listdir(path) == ["b"]
    assert os.listdir(tmp_path) == ["1"]


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_outputs_are_refused_early(tmp_path):
    (tmp_path / "existing").touch()
    check_writable(tmp_path / "new")
    check_writable(tmp_path / "existing", overwrite=True)
    for name, message in (("existing", "exists already"), ("no/file", "does not exist"), (".", "is a folder")):
        with pytest.raises(InputError, match=message):
            check_writable(tmp_path / name)


def test_json_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_json(tmp_path / "no" / "a.json", {})


def test_a_folder_is_created_or_refused(tmp_path, monkeypatch):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(InputError, match="cannot be created"):
            make_folder(tmp_path / place)
    # The tests may run as root, for whom permissions are not checked.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(InputError, match="no permission"):
        make_folder(tmp_path / "a")
