"""Metrics compared with scikit-learn; histogram metrics compared with those of the mask above the threshold."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, jaccard_score, precision_score, recall_score

from brainseg_tf.evaluation.case_metrics import BINS, Case, Histogram, compare
from helpers import random_case


def test_against_scikit_learn():
    one = random_case()
    mask = np.random.default_rng(1).random(one.truth.shape) > 0.4
    result = compare("m", "mixture", one, mask)
    truth, found = one.truth.ravel(), mask.ravel()
    assert result.dice == pytest.approx(f1_score(truth, found))
    assert result.iou == pytest.approx(jaccard_score(truth, found))
    assert result.sensitivity == pytest.approx(recall_score(truth, found))
    assert result.precision == pytest.approx(precision_score(truth, found))
    expected = [jaccard_score(one.truth[..., z].ravel(), mask[..., z].ravel()) for z in range(2, 6)]
    np.testing.assert_allclose(result.slices[:, 0], expected)
    assert result.false_ml == pytest.approx(mask[..., 6:].sum() * 0.003)
    assert result.lesion_ml == pytest.approx(truth.sum() * 0.003)
    assert result.found_ml == pytest.approx(found.sum() * 0.003)


@pytest.mark.parametrize("threshold", [1, 77, 200, BINS])
def test_a_cut_histogram_is_the_mask_above_the_threshold(threshold):
    one = random_case(2)
    score = np.random.default_rng(3).random(one.truth.shape)
    score[0] = threshold / BINS  # Equal to the threshold, so not above it.
    histogram = Histogram(one, score)
    mask = (score > threshold / BINS) & one.brain
    expected, result = compare("m", "c", one, mask), histogram.cut("m", "c", one, threshold)
    for name in ("dice", "iou", "sensitivity", "overlap", "union", "total", "found_ml", "false_ml"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name)), name
    np.testing.assert_allclose(result.slices, expected.slices)
    assert histogram.dice()[threshold] == pytest.approx(expected.dice)
    assert histogram.healthy()[threshold] == mask[..., 6:].sum()


def test_a_patient_without_a_lesion():
    one = random_case()
    empty = Case("p", one.truth & False, one.brain, one.used, one.spacing)
    result = compare("m", "mixture", empty, empty.truth)
    assert (result.dice, result.iou, result.hausdorff95, len(result.slices)) == (1, 1, 0, 0)
    assert np.isnan(result.sensitivity) and np.isnan(result.precision)
    assert compare("m", "mixture", empty, one.brain).dice == 0


def test_the_posterior_in_the_brain_against_scikit_learn():
    one = random_case()
    posterior = np.random.default_rng(5).random(one.truth.shape)
    result = compare("m", "mixture", one, posterior > 0.5, posterior=posterior)
    assert result.brier == pytest.approx(brier_score_loss(one.truth[one.brain], posterior[one.brain]))
    assert result.reliability[:, 0].sum() == one.brain.sum()
    without = compare("m", "mixture", one, posterior > 0.5)
    assert np.isnan(without.brier) and not without.reliability.any()
