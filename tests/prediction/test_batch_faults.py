"""Batches that are interrupted, and scans that fail."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batches import LOCK, LOCKS, Fake, hidden
from brainseg_tf.errors import InputError
from brainseg_tf.options import PredictOptions, SegmentationOptions
from brainseg_tf.prediction import cohort_tables
from brainseg_tf.prediction.batch import plan_batch
from brainseg_tf.prediction.jobs import Job, Outputs
from brainseg_tf.prediction.predictor import Predictor
from brainseg_tf.prediction.progress import Progress
from brainseg_tf.prediction.running import run_all
from brainseg_tf.saved_model import find
from helpers import FAST, call, masks, rows


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_what_is_finished(trained, scans, tmp_path, monkeypatch):
    write_whole, out = Path.write_bytes, tmp_path / "out"

    def write_until_full(path, content):
        if list(out.glob("*_mask.nii.gz")):
            write_whole(path, content[:4])
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    arguments = ("predict", scans, "--out-dir", out, "--model", trained, "--workers", 1, *FAST)
    with monkeypatch.context() as filling:
        filling.setattr(Path, "write_bytes", write_until_full)
        result = call(*arguments)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all("cannot be written (No space left on device)" in line for line in lines[:2])
    assert lines[2] == "Error: 2 of 3 scans failed"
    assert list(masks(out)) == ["sub-00_FLAIR_mask.nii.gz"]
    assert hidden(out) == LOCKS
    assert call(*arguments, "--continue").exit_code == 0
    assert len(masks(out)) == 3
    assert [line["status"] for line in rows(out)] == ["kept", "done", "done"]


@pytest.mark.slow
def test_ctrl_c_loses_nothing_that_is_finished(trained, scans, tmp_path):
    many = tmp_path / "scans"
    many.mkdir()
    for number in range(40):
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", many / f"sub-{number:02}_FLAIR.nii.gz")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        # If the tests run in the background, SIGINT is ignored in the child processes too.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from brainseg_tf_cli.main import main; main()",
        "predict",
        many,
        "--model",
        trained,
    ]
    process = subprocess.Popen(
        [str(part) for part in (*command, "--out-dir", out, *FAST)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    _, stderr = process.communicate(timeout=60)
    assert time.perf_counter() - start < 30
    assert process.returncode == 130, stderr
    assert "of 40 scans; --continue does the others" in stderr
    assert "Traceback" not in stderr
    done = masks(out)
    assert 1 <= len(done) < 40
    assert all(mask.any() for mask in done.values())
    assert len(list(out.glob("*_report.json"))) == len(done)
    assert hidden(out) == LOCKS
    assert 1 <= len(rows(out)) <= len(done)


def test_loading_a_model_is_tried_again_for_the_next_scan(trained, scan, tmp_path):
    found, attempts = find(str(trained)), []

    def load():
        attempts.append(1)
        if len(attempts) == 1:
            raise InputError("the server is not available")
        return found.load()

    predictor = Predictor(found.card, load, PredictOptions(SegmentationOptions(median=(1, 3, 3))))
    jobs = [Job(scan, Outputs(tmp_path / f"{name}.nii.gz")) for name in "ab"]
    first, second = run_all(predictor, jobs, workers=1)
    assert first.error == "the server is not available"
    assert second.error is None
    assert len(attempts) == 2
    assert not jobs[0].outputs.mask.exists() and jobs[1].outputs.mask.exists()


def test_any_exception_of_one_scan_does_not_stop_the_others(tmp_path):
    places = [tmp_path / f"{name}.nii.gz" for name in ("a", "memory", "unicode", "b")]
    batch = plan_batch(places, tmp_path / "out")
    errors = {outcome.job.scan.name: outcome.error for outcome in run_all(Fake(), batch.jobs)}
    assert errors["a.nii.gz"] is errors["b.nii.gz"] is None
    assert "memory.nii.gz: there is not enough memory; lower --workers" in errors["memory.nii.gz"]
    assert "unicode.nii.gz: failed unexpectedly (UnicodeEncodeError:" in errors["unicode.nii.gz"]
    assert "\n" not in errors["unicode.nii.gz"] and errors["unicode.nii.gz"].isprintable()


def test_the_table_has_every_scan_that_is_finished_at_any_moment(tmp_path):
    places = [tmp_path / f"{number}.nii.gz" for number in range(5)]
    batch = plan_batch(places, tmp_path / "out")
    progress = Progress(tmp_path / "out", batch, tmp_path / "out" / "index.html")
    running = run_all(Fake(), batch.jobs, workers=1)
    for number, outcome in enumerate(running, start=1):
        progress.add(outcome)
        assert [Path(line["scan"]) for line in rows(tmp_path / "out")] == places[:number]
        assert str(progress) == f"{number}/5"
        assert bool(progress.time_left) == (number < 5)
        # The index is written before the first scan and then every few seconds.
        assert "of 5 done" in (tmp_path / "out" / "index.html").read_text()
    progress.write_index()
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(f"{number}.nii.gz" in page for number in range(5))


def test_a_scan_that_fails_while_it_is_written_leaves_nothing(trained, scan, tmp_path, monkeypatch):
    from brainseg_tf.prediction import predictor as prediction

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(prediction, "write_map", fail)
    out = tmp_path / "out"
    result = call("predict", scan, "--out-dir", out, "--model", trained, *FAST)
    assert result.exit_code == 1
    assert sorted(file.name for file in out.iterdir()) == sorted([LOCK, "summary.csv", *cohort_tables.NAMES])
    assert [line["status"] for line in rows(out)] == ["failed"]


@pytest.mark.slow
def test_a_batch_that_is_killed_keeps_its_rows(trained, scans, tmp_path):
    many, out = tmp_path / "scans", tmp_path / "out"
    many.mkdir()
    for number in range(30):
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", many / f"sub-{number:02}_FLAIR.nii.gz")
    command = [sys.executable, "-c", "from brainseg_tf_cli.main import run; run()", "predict", many, "--model", trained]
    process = subprocess.Popen([str(part) for part in (*command, "--out-dir", out, *FAST)], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.readline()
    process.kill()
    process.wait(30)
    process.stdout.close()
    done = rows(out)
    assert 2 <= len(done) < 30
    assert {line["status"] for line in done} == {"done"}
