"""What a shell is told."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import call

COMMAND = Path(sys.executable).with_name("brainseg-tf")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_its_shell_accepts(shell, tmp_path):
    result = call("completion", shell)
    assert result.exit_code == 0
    assert "_BRAINSEG_TF_COMPLETE" in result.stdout
    if shutil.which(shell):
        (tmp_path / "script").write_text(result.stdout)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("brainseg-tf pre", ["predict"]),
        ("brainseg-tf predict scan.nii --save-p", ["--save-probability"]),
        ("brainseg-tf predict scan.nii --model selfseg", ["selfseg-flair", "selfseg-flair-t2", "selfseg-t2"]),
    ],
)
def test_which_words_are_completed(words, expected):
    count = len(words.split()) - 1
    asked = {"_BRAINSEG_TF_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = subprocess.run([COMMAND], env=os.environ | asked, capture_output=True, text=True, check=True)
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == expected
