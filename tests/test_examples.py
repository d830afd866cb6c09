"""The example scripts run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from brainseg_tf import saved_model

ROOT = Path(__file__).parents[1]


# It takes four minutes.
@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_of_a_second_scanner(tmp_path):
    pytest.importorskip("nilearn")
    # A training of seconds: whether the steps work, not how good the result is.
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import adapt_to_scanner, pathlib;"
        "adapt_to_scanner.main(pathlib.Path(sys.argv[2]), 3, '--epochs', '1', '--examples', '16', '--views', '1')"
    )
    # The environment need not be activated.
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "examples"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": os.defpath},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    calibrated = saved_model.find("selfseg-flair").card.version + 1
    assert f"model: {tmp_path}/out/calibrated/{calibrated}" in lines and f"model: {tmp_path}/out/tuned/1" in lines
    # The lesions of the patient are found by all three versions.
    found = [line for line in lines if "Dice" in line]
    assert len(found) == 3 and all(float(line.rsplit(" ", 1)[1]) > 0.3 for line in found)
