import os
import subprocess
import sys

import pytest

from brainseg_tf.errors import InputError
from brainseg_tf_cli import tensorflow_import
from helpers import call, fails

COMMANDS = ("predict", "brain", "fit", "evaluate", "calibrate")
VARIABLES = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@pytest.fixture
def arguments(scan, scans, brats_like, trained, tmp_path):
    """Arguments with which each command needs TensorFlow."""
    return {
        "predict": (scan, "--model", trained, "--out", tmp_path / "mask.nii.gz"),
        "brain": (scan, "--brain", "network", "--out", tmp_path / "brain.nii.gz"),
        "fit": (brats_like, "--out", tmp_path / "run"),
        "evaluate": (brats_like, "--model", trained, "--patients", "all"),
        "calibrate": (trained, scans, "--out", tmp_path / "calibrated"),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_runs_tensorflow_limits_it_first(command, arguments, monkeypatch):
    limits = []

    def stop(*given):
        # Commands that predict choose an engine first.
        device, threads = given[-2:]
        limits.append((device, threads, *(os.environ[name] for name in VARIABLES)))
        raise InputError("stopped")

    for name in VARIABLES:
        monkeypatch.setenv(name, "7")  # Restored after the test.
    name = "prepare_runtime" if command in ("predict", "brain") else "prepare_tensorflow"
    monkeypatch.setattr(f"brainseg_tf_cli.{command}.{name}", stop)
    for given, expected in {
        (): ("auto", None, "7", "7"),
        ("--threads", 3, "--device", "cpu"): ("cpu", 3, "3", "3"),
    }.items():
        assert "Error: stopped\n" in call(command, *arguments[command], *given).stderr
        assert limits.pop() == expected


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("threads", [0, -1, "two", 100_000])
def test_a_number_of_threads_that_is_none_is_refused(command, threads, arguments, tmp_path):
    before = set(tmp_path.rglob("*"))
    message = fails(call(command, *arguments[command], "--threads", threads), code=2)
    assert "Invalid value for '--threads'" in message
    assert set(tmp_path.rglob("*")) == before


def test_the_workers_of_a_cluster_have_threads_of_their_own(scans, tmp_path):
    out = tmp_path / "out"
    result = call("predict", scans, "--out-dir", out, "--scheduler", "tcp://localhost:1", "--threads", 2)
    assert result.exit_code == 2
    assert "--threads does not go with --scheduler; give dask worker --nthreads" in result.stderr
    assert not out.exists()


@pytest.mark.slow
def test_the_libraries_get_the_number_of_threads(trained, scan, tmp_path):
    words = ["predict", str(scan), "--model", str(trained), "--out", str(tmp_path / "mask.nii.gz"), "--threads", "3"]
    words += ["--engine", "tensorflow"]
    code = (
        "from brainseg_tf_cli.main import main\n"
        f"main({words}, standalone_mode=False)\n"
        "import SimpleITK, tensorflow as tf\n"
        "print(tf.config.threading.get_intra_op_parallelism_threads(),"
        " tf.config.threading.get_inter_op_parallelism_threads(),"
        " SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3 3 3"


def test_tensorflow_is_imported_before_it_is_limited(monkeypatch):
    steps = []
    monkeypatch.setattr(tensorflow_import, "import_tensorflow", lambda: steps.append("import"))
    monkeypatch.setattr("brainseg_tf.resources.limit_threads", lambda threads: steps.append(threads))
    monkeypatch.setattr("brainseg_tf.resources.select_device", lambda device: steps.append(device))
    tensorflow_import.prepare_tensorflow("gpu:1", 4)
    assert steps == ["import", 4, "gpu:1"]
