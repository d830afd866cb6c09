"""What a calibration measures and keeps in memory; tests/cli/test_command_calibrate.py has what it writes."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.saved_model import find
from brainseg_tf.slices import Stack
from brainseg_tf.training import calibration
from brainseg_tf.training.cohort import read_cohort
from helpers import make_brain, save


@pytest.mark.slow
def test_one_scan_is_in_memory_at_a_time(trained, tmp_path, monkeypatch):
    for number in range(3):
        save(make_brain(number, lesion=False)[0].astype(np.int16), tmp_path / f"sub-{number}_FLAIR.nii.gz")

    def stacks() -> int:
        gc.collect()
        return sum(isinstance(one, Stack) for one in gc.get_objects())

    before, alive = stacks(), []
    original = calibration.to_stack
    monkeypatch.setattr(calibration, "to_stack", lambda *given: alive.append(stacks() - before) or original(*given))
    calibration.calibrate(find(str(trained)), read_cohort(tmp_path, ("flair",), "none"), lambda scan: None)
    # Each scan is read twice, and forgotten before the next one is read.
    assert alive == [0] * 6


def test_segmentations_without_a_lesion_change_nothing(trained, tmp_path):
    data = make_brain(0, lesion=False)[0]
    save(data.astype(np.int16), tmp_path / "a_FLAIR.nii.gz")
    truth = save(np.zeros(data.shape, np.uint8), tmp_path / "empty" / "a_seg.nii.gz")
    (patient,) = read_cohort(tmp_path, ("flair",), "none").patients
    model = find(str(trained))
    levels = [
        calibration.healthy_levels([one], model.load(), model.card.slices, model.card.trim)
        for one in (patient, replace(patient, truth=truth))
    ]
    assert levels[0] == levels[1]
    assert levels[0]["weighted"] > 0


def test_a_scan_without_a_slice_says_which_kind_it_lacks(trained, tmp_path):
    data = make_brain(0, lesion=False)[0]
    save(data.astype(np.int16), tmp_path / "a_FLAIR.nii.gz")
    column = np.zeros(data.shape, np.uint8)
    column[18:24, 20:26] = 1
    truth = save(column, tmp_path / "all" / "a_seg.nii.gz")
    (patient,) = read_cohort(tmp_path, ("flair",), "none").patients
    card = find(str(trained)).card
    with pytest.raises(InputError, match="has no slice without a lesion"):
        calibration._read(replace(patient, truth=truth), card)
    with pytest.raises(InputError, match="has no slice with at least 90% brain"):
        calibration._read(patient, replace(card, slices=replace(card.slices, min_brain=0.9)))


def test_nothing_is_left_if_the_model_cannot_be_written(trained, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibration, "copy_model", full)
    result = calibration.Calibration({"weighted": 0.2}, (0.1, 0.2))
    with pytest.raises(InputError, match="cannot be written"):
        calibration.write(result, find(str(trained)), tmp_path / "2")
    assert list(tmp_path.iterdir()) == []
