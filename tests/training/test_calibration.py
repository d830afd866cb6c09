"""What a calibration keeps in memory; tests/cli/test_command_calibrate.py has what it writes."""

import gc
import weakref

import numpy as np

from brainseg_tf.saved_model import find
from brainseg_tf.training import calibration
from brainseg_tf.training.cohort import read_cohort
from helpers import make_brain, save


def test_one_scan_is_in_memory_at_a_time(trained, tmp_path, monkeypatch):
    for number in range(4):
        save(make_brain(number, lesion=False)[0].astype(np.int16), tmp_path / f"sub-{number}_FLAIR.nii.gz")
    stacks: list[weakref.ref] = []
    alive: list[int] = []
    original = calibration.to_stack

    def watched(*arguments):
        gc.collect()
        alive.append(sum(one() is not None for one in stacks))
        stack = original(*arguments)
        stacks.append(weakref.ref(stack))
        return stack

    monkeypatch.setattr(calibration, "to_stack", watched)
    calibration.calibrate(find(str(trained)), read_cohort(tmp_path, ("flair",), "none"), lambda scan: None)
    # The scan before is replaced when the next one has been read.
    assert len(alive) == 8 and max(alive) == 1
