import csv
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.model_card import FILE
from brainseg_tf.saved_model import find
from brainseg_tf.slices import to_stack
from brainseg_tf.training.calibration import QUANTILES, healthy_levels
from brainseg_tf.training.cohort import read_cohort
from brainseg_tf.training.scans import read_patient
from helpers import call, fails, make_brain, save


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans without lesions of a scanner that is noisier than that of the training."""
    folder = tmp_path_factory.mktemp("healthy")
    random = np.random.default_rng(0)
    for number in range(3):
        scan, _ = make_brain(200 + number, lesion=False)
        scan = np.where(scan > 0, np.maximum(scan + random.normal(0, 120, scan.shape), 1), 0)
        save(scan.astype(np.int16), folder / f"sub-{number:02}_FLAIR.nii.gz")
    return folder


@pytest.mark.slow
def test_the_new_version_has_the_thresholds_of_the_scans(trained, healthy, tmp_path):
    out = tmp_path / "out"
    result = call("calibrate", trained, healthy, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"model: {out}/2"
    before, after = find(str(trained)), find(str(out))
    after.check()
    cohort = read_cohort(healthy, ("flair",), "none")
    expected = healthy_levels(cohort.patients, before.load(), before.card.slices, before.card.trim)
    assert after.card.healthy_levels == pytest.approx(expected)
    # This scanner differs from that of the training.
    assert abs(expected["weighted"] - before.card.healthy_levels["weighted"]) > 0.005
    assert f"{before.card.healthy_levels['weighted']:.3f} before, {expected['weighted']:.3f} after" in result.stdout
    assert (after.card.version, after.card.metrics) == (before.card.version + 1, {})
    assert after.card.calibration["scans"] == ["sub-00", "sub-01", "sub-02"]
    inside = []
    for patient in cohort.patients:
        scans = read_patient(patient)
        stack = to_stack(scans.volumes, scans.brain, before.card.slices, before.card.trim)
        selected = stack.brain.mean(axis=(1, 2)) >= before.card.slices.min_brain
        inside.append(np.quantile(stack.images[selected][stack.brain[selected]], QUANTILES))
    assert after.card.calibration["intensities"] == pytest.approx(np.mean(inside, axis=0))
    rows = list(csv.DictReader((out / "calibration.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["sub-00", "sub-01", "sub-02"]
    assert np.mean([float(row["quantile"]) for row in rows]) == pytest.approx(expected["weighted"])
    assert all(float(row["after_ml"]) <= float(row["before_ml"]) for row in rows)
    assert (out / "calibration.png").stat().st_size > 5000
    assert "## Calibration\n- scans: " in (out / "2" / FILE.with_suffix(".md")).read_text()
    message = fails(call("calibrate", trained, healthy, "--out", out))
    assert message == f"Error: {out}/2: exists already; choose another --out\n"


def test_a_scan_that_cannot_be_used_is_named_and_the_others_are_used(trained, healthy, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for file in healthy.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    (data / "sub-01_FLAIR.nii.gz").write_bytes(b"broken")
    scan, _ = make_brain(7, lesion=False)
    save(np.where(scan > 0, scan - 500, -1000).astype(np.int16), data / "sub-09_FLAIR.nii.gz")
    result = call("calibrate", trained, data, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Warning: sub-01: left out" in result.stderr
    assert "Warning: sub-09: left out" in result.stderr and "looks like a CT (Hounsfield units)" in result.stderr
    assert find(str(tmp_path / "out")).card.calibration["scans"] == ["sub-00", "sub-02"]


def test_without_a_usable_scan_nothing_is_written(trained, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    assert "no patient with flair in it" in fails(call("calibrate", trained, data, "--out", out))
    (data / "a_FLAIR.nii.gz").write_bytes(b"broken")
    message = fails(call("calibrate", trained, data, "--out", out))
    assert message.startswith(f"Error: {data}: no scan could be used; the first problem: a: left out, ")
    assert not out.exists() or list(out.iterdir()) == []
