"""Full disks, interrupted processes, damaged files and unusual environments; see the table in docs/reliability.md."""

import contextlib
import gc
import gzip
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainseg_tf.errors import InputError
from brainseg_tf.files import exclusive_lock
from brainseg_tf.images.volume import read_volume
from brainseg_tf.training.fit import RunSettings, fit
from helpers import AFFINE, FAST, as_itk, call, make_brain, save, small_options

COMMAND = str(Path(sys.executable).with_name("brainseg-tf"))

QUIET = RunSettings(say=lambda line: None, verbose=0)


def leftovers(folder: Path) -> list[str]:
    """The names of temporary files in a folder."""
    return [file.name for file in folder.iterdir() if file.name.startswith(".") and file.name != ".lock"]


@contextlib.contextmanager
def largest_file(size: int):
    """Limits the size of files in bytes, to simulate a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


# --- A full disk ---


def test_a_full_disk_while_the_mask_is_written(scan, trained, tmp_path):
    with largest_file(100):
        result = call("predict", scan, "--out", tmp_path / "m.nii", "--model", trained, *FAST)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path}/m.nii: cannot be written")
    assert list(tmp_path.iterdir()) == [scan]


@pytest.fixture(scope="module")
def decoded(brats_like, tmp_path_factory):
    """The folder of a run with its decoded slices, and the sizes of its weights and its checkpoint in bytes."""
    folder = tmp_path_factory.mktemp("decoded")
    fit(brats_like, folder / "run", small_options(epochs=1), replace(QUIET, cache=folder / "cache"))
    weights = (folder / "run" / "best.weights.h5").stat().st_size
    checkpoint = max(file.stat().st_size for file in (folder / "run" / "checkpoints").iterdir())
    return folder, weights, checkpoint


def again(brats_like, folder, out, resume=False):
    options = small_options(epochs=1)
    return fit(brats_like, out, options, replace(QUIET, cache=folder / "cache", resume=resume))


# h5py raises a second exception, which cannot be caught, when it closes the incomplete file.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_while_the_weights_are_written(brats_like, decoded, tmp_path):
    folder, weights, _ = decoded
    out = tmp_path / "run"
    with largest_file(weights // 2), pytest.raises(InputError, match=r"best\.weights\.h5: cannot be written"):
        again(brats_like, folder, out)
    gc.collect()
    assert leftovers(out) == []
    # With free space, the run continues.
    assert (again(brats_like, folder, out, resume=True) / "saved_model.pb").is_file()


@pytest.mark.slow
def test_a_full_disk_while_the_checkpoint_is_written(brats_like, decoded, tmp_path, monkeypatch):
    folder, _, checkpoint = decoded
    # The weights are as large as the checkpoint and are written first, so their writing is replaced.
    monkeypatch.setattr("keras.Model.save_weights", lambda model, path: Path(path).write_bytes(b""))
    with largest_file(checkpoint // 2), pytest.raises(InputError, match="checkpoints: cannot be written"):
        again(brats_like, folder, tmp_path / "run")


@pytest.mark.slow
def test_a_full_disk_while_the_saved_model_is_written(brats_like, decoded, tmp_path):
    folder, weights, _ = decoded
    out = tmp_path / "run"
    shutil.copytree(folder / "run", out)
    shutil.rmtree(out / "1")  # A finished run has nothing to export.
    with largest_file(weights // 8), pytest.raises(InputError, match=r"/1: cannot be written"):
        again(brats_like, folder, out, resume=True)
    assert not (out / "1").exists()
    assert leftovers(out) == []


# --- Concurrent runs ---


def test_two_runs_in_one_folder(brats_like, tmp_path):
    (tmp_path / "run").mkdir()
    with exclusive_lock(tmp_path / "run"), pytest.raises(InputError, match="another run is using this folder"):
        fit(brats_like, tmp_path / "run", small_options(), QUIET)


@pytest.mark.slow
def test_two_predictions_of_one_mask(scan, trained, tmp_path):
    """Both processes write temporary files; the mask is the complete one of either process."""
    out = tmp_path / "m.nii.gz"
    command = [COMMAND, "predict", str(scan), "--out", str(out), "--model", str(trained), "--overwrite", *FAST]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=120) and process.returncode for process in both] == [0, 0]
    assert np.asarray(nib.load(out).dataobj).any()
    assert leftovers(tmp_path) == []


# --- Killed processes ---


@pytest.mark.slow
def test_sigterm_cleans_up(scan, trained, tmp_path):
    many = tmp_path / "scans"
    many.mkdir()
    for number in range(40):
        os.link(scan, many / f"{number:02}.nii.gz")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [COMMAND, "predict", str(many), "--out-dir", str(out), "--model", str(trained), *FAST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, "Error: terminated" in stderr, "Traceback" in stderr) == (143, True, False)
    done = list(out.glob("*_mask.nii.gz"))
    assert 1 <= len(done) < 40
    assert all(np.asarray(nib.load(mask).dataobj).any() for mask in done)
    assert sorted(leftovers(out)) == [".summary.csv.lock", ".volumes.tsv.lock"]
    assert (out / "summary.csv").is_file()


@pytest.mark.exhaustive
def test_kill_at_ten_moments_of_predict(scan, trained, tmp_path):
    out, generator = tmp_path / "m.nii.gz", random.Random(0)
    command = [COMMAND, "predict", str(scan), "--out", str(out), "--model", str(trained), "--overwrite", *FAST]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    duration, expected = time.monotonic() - start, np.asarray(nib.load(out).dataobj)
    out.unlink()
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(0.3, 1.05) * duration)
        process.kill()
        process.wait()
        # There is no mask or a complete one.
        if out.exists():
            np.testing.assert_array_equal(np.asarray(nib.load(out).dataobj), expected)
    subprocess.run(command, check=True, capture_output=True)
    np.testing.assert_array_equal(np.asarray(nib.load(out).dataobj), expected)


@pytest.mark.exhaustive
def test_kill_at_ten_moments_of_fit(brats_like, tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[3]); from helpers import small_options; from pathlib import Path;"
        "from brainseg_tf.training.fit import RunSettings, fit;"
        "settings = RunSettings(resume=sys.argv[4] == 'yes', verbose=0);"
        "fit(Path(sys.argv[1]), Path(sys.argv[2]), small_options(epochs=40), settings)"
    )

    def start(out: Path) -> subprocess.Popen[bytes]:
        resume = (out / "run.json").exists()
        command = [sys.executable, "-c", script, str(brats_like), str(out), str(Path(__file__).parent)]
        return subprocess.Popen([*command, "yes" if resume else "no"], stdout=subprocess.DEVNULL)

    begin = time.monotonic()
    assert start(tmp_path / "undisturbed").wait() == 0
    duration, generator, kills, number = time.monotonic() - begin, random.Random(1), 0, 0
    while kills < 10:
        killed = tmp_path / f"killed{number}"
        process = start(killed)
        # Some are at the start, some in an epoch. How far a run comes meanwhile depends on the machine.
        time.sleep(generator.uniform(0.1, 0.6) * duration)
        kills += process.poll() is None
        process.kill()
        process.wait()
        if kills == 10 or (killed / "1").exists():
            assert start(killed).wait() == 0
            same_weights(killed / "best.weights.h5", tmp_path / "undisturbed" / "best.weights.h5")
            number += 1


def same_weights(found: Path, wanted: Path) -> None:
    """Checks that the weights in two files are equal bit by bit."""
    weights, expected = h5py.File(found), h5py.File(wanted)
    names: list[str] = []
    expected.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    assert names
    for name in names:
        np.testing.assert_array_equal(weights[name][()], expected[name][()])


# --- Damaged and malicious files ---


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> "Seeds":
    """A small valid file of each format."""
    folder, data = tmp_path_factory.mktemp("seeds"), np.random.default_rng(0).random((7, 6, 5)).astype(np.float32)
    affine = np.diag([3.0, 3, 3, 1]) @ AFFINE  # The field of view is large enough for a head.
    nib.save(nib.Nifti1Image(data, affine), folder / "s.nii")
    nib.save(nib.Nifti1Image(data, affine), folder / "s.nii.gz")
    nib.save(nib.Nifti2Image(data, affine), folder / "t.nii")
    nib.save(nib.MGHImage(data, affine), folder / "s.mgz")
    as_itk(data, affine, folder / "s.nrrd")
    as_itk(data, affine, folder / "s.mha")
    return Seeds({file.name: file.read_bytes() for file in folder.iterdir()})


class Seeds(dict):
    """A dictionary with a short representation, because the contents are too long to print when a test fails."""

    def __repr__(self) -> str:
        return "seeds"


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_are_read_or_refused(seeds, tmp_path, data):
    name = data.draw(st.sampled_from(sorted(seeds)))
    content = bytearray(seeds[name])
    inside = name.endswith("z") and data.draw(st.booleans())
    if inside:
        content = bytearray(gzip.decompress(content))
    # Most of the damage is in the header, at the start of the file.
    reach = data.draw(st.sampled_from([60, 352, len(content)]))
    for place in data.draw(st.lists(st.integers(0, min(reach, len(content)) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.integers(0, 9)) == 0:
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, 1) if inside else content)
    before = psutil.Process().memory_info().rss
    with contextlib.suppress(InputError):
        volume = read_volume(path)
        assert volume.data.ndim == 3
        assert np.isfinite(volume.data).all()
    assert psutil.Process().memory_info().rss - before < 4e9


@pytest.mark.slow
def test_a_gzip_bomb_is_refused_within_memory(tmp_path):
    """A file of 350 kB with 360 MB of zeros, with a header of 343 million voxels and with one of 176 million."""
    script = (
        "import resource, sys; from pathlib import Path; from brainseg_tf.images.volume import read_volume\n"
        "from brainseg_tf.errors import InputError\n"
        "try: read_volume(Path(sys.argv[1]))\n"
        "except InputError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    header = nib.Nifti1Image(np.zeros((7, 7, 7), np.float32), np.eye(4)).header
    for shape, message in (((700, 700, 700), "which no brain scan has"), ((560, 560, 560), "is 0 everywhere")):
        header.set_data_dtype(np.int16)
        header.set_data_shape(shape)
        header["magic"], header["vox_offset"] = b"n+1", 352
        with gzip.open(tmp_path / "bomb.nii.gz", "wb", compresslevel=1) as file:
            file.write(header.binaryblock + bytes(4))
            for _ in range(36):
                file.write(bytes(10_000_000))
        command = [sys.executable, "-c", script, str(tmp_path / "bomb.nii.gz")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        error, peak = done.stdout.splitlines()
        assert message in error
        assert int(peak) * 1024 < 4e9


# --- Locale and clock ---


@pytest.mark.slow
def test_paths_with_blanks_and_letters_of_any_script_in_a_bare_locale(trained, tmp_path):
    folder = tmp_path / "Säle und Größen" / "脳 スキャン"
    folder.mkdir(parents=True)
    scan = save(make_brain(101)[0], folder / "пациент 1 _FLAIR.nii.gz")
    out = folder / "Ergebnis mit Lücke"
    command = [COMMAND, "predict", str(scan), "--out-dir", str(out), "--model", str(trained), *FAST]
    done = subprocess.run(
        [*command, "--html", str(folder / "übersicht.html")],
        capture_output=True,
        env=os.environ | {"LC_ALL": "C", "LANG": "C"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (out / "пациент 1 _FLAIR_mask.nii.gz").is_file()
    page = (folder / "übersicht.html").read_text(encoding="utf-8")
    assert "пациент 1 _FLAIR.nii.gz" in page


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(scan, trained, tmp_path, monkeypatch):
    first, second = tmp_path / "a.nii", tmp_path / "b.nii"
    assert call("predict", scan, "--out", first, "--model", trained, *FAST).exit_code == 0
    clock = iter(range(2_000_000_000, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    result = call("predict", scan, "--out", second, "--model", trained, "--report", tmp_path / "r.json", *FAST)
    assert result.exit_code == 0, result.output
    assert first.read_bytes() == second.read_bytes()
    import json

    assert min(json.loads((tmp_path / "r.json").read_text())["seconds"].values()) >= 0
