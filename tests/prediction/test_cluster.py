"""Tests on a Dask ``LocalCluster`` with worker processes."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.options import PredictOptions, SegmentationOptions
from brainseg_tf.prediction import cluster
from brainseg_tf.prediction.batch import plan_batch
from helpers import FAST, call, fails, masks, rows

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as running:
        yield running


def test_the_masks_are_the_same_as_without_a_cluster(workers, trained, scans, tmp_path, monkeypatch):
    bad = tmp_path / "sub-09_FLAIR.nii.gz"
    bad.write_bytes(b"nonsense")
    monkeypatch.chdir(tmp_path)
    for out, more in (("local", ()), ("cluster", ("--scheduler", workers.scheduler_address))):
        result = call("predict", scans, bad, "--out-dir", out, "--model", trained, *more, *FAST)
        assert result.exit_code == 1, result.output
        assert "1 of 4 scans failed" in result.stderr
        assert [line["status"] for line in rows(tmp_path / out)] == ["done", "done", "done", "failed"]
    local, on_cluster = masks(tmp_path / "local"), masks(tmp_path / "cluster")
    assert local.keys() == on_cluster.keys()
    for name, mask in local.items():
        np.testing.assert_array_equal(mask, on_cluster[name])
    # Existing results are refused, kept or replaced, as without a cluster.
    arguments = ("predict", scans, "--out-dir", "cluster", "--model", trained, *more, *FAST)
    (tmp_path / "cluster" / "summary.csv").unlink()
    assert "3 of 3 scans failed" in call(*arguments).stderr
    assert call(*arguments, "--continue").exit_code == 0
    assert {line["status"] for line in rows(tmp_path / "cluster")} == {"kept"}
    assert call(*arguments, "--overwrite").exit_code == 0
    assert {line["status"] for line in rows(tmp_path / "cluster")} == {"done"}


def test_a_worker_that_is_killed_loses_no_scan(workers, trained, scans, tmp_path):
    many = tmp_path / "scans"
    many.mkdir()
    for number in range(30):
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", many / f"sub-{number:02}_FLAIR.nii.gz")
    out = tmp_path / "out"
    jobs = plan_batch([many], out).jobs

    def kill_one():
        while len(list(out.glob("*_report.json"))) < 3:
            time.sleep(0.02)
        os.kill(workers.workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    options = PredictOptions(SegmentationOptions(median=(3, 3, 3)))
    outcomes = list(cluster.run_on_cluster(workers.scheduler_address, str(trained), options, jobs))
    killer.join()
    assert [outcome.error for outcome in outcomes] == [None] * 30
    done = masks(out)
    assert len(done) == 30
    assert all(np.array_equal(mask, done["sub-00_FLAIR_mask.nii.gz"]) for mask in done.values())


def test_a_scheduler_that_does_not_answer(trained, scan, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_TIMEOUT", 0.5)
    base = ("predict", scan, "--out-dir", tmp_path / "out", "--model", trained, "--scheduler")
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        assert "no Dask scheduler answers at this address" in fails(call(*base, address))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_cluster_without_workers_or_with_others_is_refused(workers, trained, monkeypatch):
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        pytest.raises(InputError, match="the scheduler has no worker; start one with: dask worker"),
    ):
        list(cluster.run_on_cluster(empty.scheduler_address, str(trained), PredictOptions(), []))
    monkeypatch.setattr(cluster, "__version__", "9.9")
    with pytest.raises(
        InputError, match=r"worker .* has brainseg-tf .*, but this is version 9\.9; install the same version"
    ):
        list(cluster.run_on_cluster(workers.scheduler_address, str(trained), PredictOptions(), []))


def test_a_scheduler_that_is_killed_is_one_line(trained, scans, tmp_path):
    many = tmp_path / "scans"
    many.mkdir()
    for number in range(40):
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", many / f"sub-{number:02}_FLAIR.nii.gz")
    started = []

    def start(*arguments, **more):
        started.append(subprocess.Popen([sys.executable, *map(str, arguments)], stderr=subprocess.PIPE, **more))
        return started[-1]

    try:
        file = tmp_path / "scheduler.json"
        scheduler = start(
            "-m", "distributed.cli.dask_scheduler", "--scheduler-file", file, "--port", 0, "--no-dashboard"
        )
        start("-m", "distributed.cli.dask_worker", "--scheduler-file", file, "--nthreads", 1, "--no-dashboard")
        with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            address = client.scheduler.address
        run = ("-c", "from brainseg_tf_cli.main import run; run()", "predict", many, "--scheduler", address)
        command = start(
            *run, "--out-dir", tmp_path / "out", "--model", trained, *FAST, stdout=subprocess.PIPE, text=True
        )
        assert "ml in" in command.stdout.readline()
        scheduler.kill()
        _, stderr = command.communicate(timeout=120)
        message = f"Error: {address}: the connection to the scheduler was lost; start it again, and continue with"
        assert stderr == f"{message} --continue\n"
        assert command.returncode == 1
    finally:
        for process in started:
            process.kill()
            process.communicate()
