import csv
import shutil

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from brainseg_tf.cohort import read_cohort
from brainseg_tf.evaluation import BASELINE, compare, evaluate, summarise, write_csv
from brainseg_tf.volume import read_mask, read_volume
from test_segmentation import OPTIONS, Healthy, card


def test_comparison_against_scikit_learn():
    random = np.random.default_rng(0)
    truth = random.random((6, 7, 8)) > 0.5
    truth[..., 6:] = False
    mask = random.random(truth.shape) > 0.4
    used = np.arange(8) > 1
    one = compare("m", "p", mask, truth, used, 0.5)
    assert one.dice == pytest.approx(f1_score(truth.ravel(), mask.ravel()))
    assert one.iou == pytest.approx(jaccard_score(truth.ravel(), mask.ravel()))
    expected = [jaccard_score(truth[..., z].ravel(), mask[..., z].ravel()) for z in range(2, 6)]
    np.testing.assert_allclose(one.slices[:, 0], expected)
    assert one.false_ml == mask[..., 6:].sum() * 0.5
    assert (one.lesion_ml, one.found_ml) == (truth.sum() * 0.5, mask.sum() * 0.5)

    other = compare("m", "q", truth[::-1], truth, used, 0.5)
    total = summarise([one, other])
    both, twice = np.stack([mask, truth[::-1]]), np.stack([truth, truth])
    assert total["dice_pooled"] == pytest.approx(f1_score(twice.ravel(), both.ravel()))
    assert total["iou_pooled"] == pytest.approx(jaccard_score(twice.ravel(), both.ravel()))
    assert total["dice_patient"] == pytest.approx((one.dice + other.dice) / 2)
    assert total["slices"] == 8


def test_every_patient_is_compared_beside_no_network(brats_like, tmp_path):
    patients = read_cohort(brats_like, ("flair",)).patients[:2]
    results = list(evaluate(patients, Healthy(), card(), OPTIONS))
    assert [(one.method, one.patient) for one in results] == [
        (method, patient.name) for patient in patients for method in ("perfect", BASELINE)
    ]
    assert all(one.dice > 0.6 for one in results)
    scan = read_volume(patients[0].scans["flair"])
    assert results[0].lesion_ml == pytest.approx(read_mask(patients[0].truth, scan).sum() * scan.voxel_ml)

    summaries = {name: summarise([one for one in results if one.method == name]) for name in ("perfect", BASELINE)}
    write_csv(tmp_path / "t.csv", results, summaries)
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert rows[-2]["patient"] == "(all)"
    assert float(rows[-2]["dice"]) == pytest.approx(np.mean([results[0].dice, results[2].dice]))


def test_a_broken_patient_is_named_and_not_fatal(brats_like, tmp_path):
    shutil.copytree(brats_like, tmp_path / "data")
    patients = read_cohort(tmp_path / "data", ("flair",)).patients[:2]
    patients[0].truth.write_bytes(b"")
    results = list(evaluate(patients, Healthy(), card(), OPTIONS))
    assert isinstance(results[0], str) and patients[0].name in results[0]
    assert [one.patient for one in results[1:]] == [patients[1].name] * 2
