import os
import shlex
import subprocess
import sys
import tempfile

import nibabel as nib
import pytest

from brainseg_tf_cli import process

SCRIPT = """
import sys, threading, time
from brainseg_tf_cli.tensorflow_import import import_tensorflow
thread = threading.Thread(target=import_tensorflow)
thread.start()
time.sleep(0.3)
assert "tensorflow" in sys.modules, "the import was not under way"
print("meanwhile", file=sys.stderr)
thread.join()
print("after", file=sys.stderr)
import tensorflow
"""


@pytest.mark.slow
def test_tensorflow_is_silent_and_others_are_heard():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stderr == "meanwhile\nafter\n"


RUN = [sys.executable, "-c", "from brainseg_tf_cli.main import run; run()"]


@pytest.mark.slow
def test_standard_error_may_be_closed(trained, scan, tmp_path):
    words = (*RUN, "predict", scan, "--out", tmp_path / "m.nii.gz", "--model", trained)
    command = shlex.join([str(word) for word in words])
    done = subprocess.run(["bash", "-c", f"{command} 2>&- <&-"], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert "m.nii.gz: " in done.stdout
    assert nib.load(tmp_path / "m.nii.gz").shape == nib.load(scan).shape


def test_an_error_without_standard_error_is_an_exit_code(tmp_path):
    command = shlex.join([*RUN, "predict", str(tmp_path / "gone.nii"), "--out", str(tmp_path / "m.nii")])
    assert subprocess.run(["bash", "-c", f"{command} 2>&- >&-"], check=False).returncode == 1


def test_a_user_without_a_home(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    process.replace_missing_home()
    place = tmp_path / f"brainseg-tf-{os.getuid()}"
    assert os.environ["KERAS_HOME"] == os.environ["MPLCONFIGDIR"] == str(place)
    assert place.stat().st_mode & 0o777 == 0o700
    # What the user has set is kept; a home that can be written to is left alone.
    monkeypatch.setenv("KERAS_HOME", "/mine")
    monkeypatch.delenv("MPLCONFIGDIR")
    process.replace_missing_home()
    assert (os.environ["KERAS_HOME"], os.environ["MPLCONFIGDIR"]) == ("/mine", str(place))
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setattr(os.path, "expanduser", lambda path: str(tmp_path))
    process.replace_missing_home()
    assert "MPLCONFIGDIR" not in os.environ


def test_only_warnings_of_ours_are_shown():
    script = (
        "import warnings; from brainseg_tf_cli.process import show_own_warnings_only as own; own()\n"
        "from brainseg_tf.errors import InputWarning\n"
        "warnings.warn('a library said'); warnings.warn(InputWarning('x: has\\nno locks'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "Warning: x: has no locks\n"
