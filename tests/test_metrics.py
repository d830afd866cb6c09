"""Metrics compared with scikit-learn, SimpleITK and formulas from textbooks."""

import numpy as np
import pytest
import SimpleITK
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

from brainseg_tf.metrics import (
    average_precision,
    calibration_error,
    cluster_interval,
    dice,
    hausdorff95,
    interval,
    iou,
    lesion_counts,
    reliability,
)


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed):
    random = np.random.default_rng(seed)
    mask, truth = random.random((2, 7, 8, 9)) > 0.6
    assert dice(mask, truth) == pytest.approx(f1_score(truth.ravel(), mask.ravel()))
    assert iou(mask, truth) == pytest.approx(jaccard_score(truth.ravel(), mask.ravel()))
    score = random.random(truth.shape)
    assert average_precision(score, truth) == pytest.approx(average_precision_score(truth.ravel(), score.ravel()))


def test_empty_masks():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert dice(empty, empty) == iou(empty, empty) == 1
    assert dice(empty, full) == iou(full, empty) == 0
    assert np.isnan(average_precision(full.astype(float), empty))


def balls(spacing: tuple[float, float, float], shift: float) -> tuple[np.ndarray, np.ndarray]:
    grid = np.stack(np.meshgrid(*(np.arange(40) * step for step in spacing), indexing="ij"))
    middle = 19.5 * np.array(spacing)
    distances = [np.linalg.norm(grid - (middle + offset)[:, None, None, None], axis=0) for offset in (0, shift)]
    return distances[0] < 12, distances[1] < 10


def by_simpleitk(mask: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float]) -> float:
    contours = []
    for one in (mask, truth):
        image = SimpleITK.GetImageFromArray(one.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        contours.append(SimpleITK.LabelContour(image))
    distances = [
        np.maximum(SimpleITK.GetArrayFromImage(SimpleITK.SignedMaurerDistanceMap(one, False, False, True)), 0)
        for one in contours
    ]
    surfaces = [SimpleITK.GetArrayFromImage(one) > 0 for one in contours]
    return max(np.percentile(distances[1][surfaces[0]], 95), np.percentile(distances[0][surfaces[1]], 95))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.25, 2.0)])
@pytest.mark.parametrize("shift", [0.0, 3.0, 6.0])
def test_distance_against_simpleitk(spacing, shift):
    mask, truth = balls(spacing, shift)
    assert hausdorff95(mask, truth, spacing) == pytest.approx(by_simpleitk(mask, truth, spacing), abs=1e-3)
    assert hausdorff95(mask, truth, spacing) == hausdorff95(truth, mask, spacing)


def test_distance_of_empty_masks():
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert hausdorff95(empty, empty, (1, 1, 1)) == hausdorff95(full, full, (1, 1, 1)) == 0
    assert np.isnan(hausdorff95(empty, full, (1, 1, 1)))


def test_the_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(0.7, 0.1, 100)
    low, high = interval([*values, float("nan")])
    half = stats.norm.ppf(0.975) * values.std(ddof=1) / 10
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)
    assert interval(values) == interval(values)
    assert np.isnan(interval([0.5, float("nan")])).all()


def test_an_interval_over_clusters_draws_whole_clusters():
    """If all slices of a patient have the same value, they contain no more information than one slice."""
    random = np.random.default_rng(0)
    means, sizes = random.normal(0.5, 0.2, 60), random.integers(1, 80, 60)
    clusters = [np.full(size, mean) for mean, size in zip(means, sizes, strict=True)]
    mean = np.concatenate(clusters).mean()
    low, high = cluster_interval([*clusters, np.zeros(0), np.array([np.nan])])
    assert low < mean < high
    # The standard error of a ratio (Cochran 1977, section 2.11).
    residual = sizes * (means - mean)
    half = stats.norm.ppf(0.975) * residual.std(ddof=1) / np.sqrt(60) / sizes.mean()
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.012)
    # If single slices were drawn, the interval would be several times narrower.
    assert high - low > 4 * np.subtract(*interval(np.concatenate(clusters))[::-1])
    # The mean over slices is in its interval, even if a patient with many slices has a very different mean.
    skewed = [np.full(200, 0.9), *(np.full(1, value) for value in random.normal(0.2, 0.05, 20))]
    low, high = cluster_interval(skewed)
    assert low < np.concatenate(skewed).mean() < high
    assert np.isnan(cluster_interval([[0.5, 0.6], []])).all()


def test_reliability_against_scikit_learn():
    random = np.random.default_rng(3)
    probability = random.random((9, 10, 11)).astype(np.float32)
    truth = random.random(probability.shape) < probability**2
    counts = reliability(probability, truth)
    shares, means = calibration_curve(truth.ravel(), probability.ravel(), n_bins=10)
    np.testing.assert_allclose(counts[:, 2] / counts[:, 0], shares)
    np.testing.assert_allclose(counts[:, 1] / counts[:, 0], means, rtol=1e-6)
    expected = np.average(np.abs(shares - means), weights=counts[:, 0])
    assert calibration_error(counts) == pytest.approx(expected)
    assert calibration_error(counts) > 0.1
    calibrated_truth = random.random(truth.shape) < probability
    assert calibration_error(reliability(probability, calibrated_truth)) < 0.06
    # The results of two halves add up to that of the whole array.
    np.testing.assert_allclose(
        reliability(probability[:4], truth[:4]) + reliability(probability[4:], truth[4:]), counts
    )
    assert np.isnan(calibration_error(np.zeros((10, 3))))
    assert reliability(np.ones(3), np.ones(3, bool))[-1].tolist() == [3, 3, 3]


def test_detection_by_lesion():
    truth, mask = np.zeros((2, 12, 12, 12), bool)
    truth[1:4, 1:4, 1:4] = True  # Found in part.
    truth[4, 4, 4] = True  # Touches it at a corner: the same lesion.
    truth[8:10, 1:3, 1:3] = True  # Missed.
    mask[3, 3, 3] = mask[1, 1, 1] = True  # Two components in one lesion.
    mask[1:3, 9:11, 9:11] = True  # No lesion.
    counts = lesion_counts(mask, truth)
    assert counts.detected.tolist() == [True, False]
    assert counts.voxels.tolist() == [28, 8]
    assert (counts.true, counts.false) == (2, 1)
    assert counts.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))


def test_detection_without_lesions():
    nothing, some = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    some[1, 1, 1] = True
    assert lesion_counts(nothing, nothing).f1 == 1
    assert lesion_counts(some, nothing).f1 == lesion_counts(nothing, some).f1 == 0
    other = np.roll(some, 2, axis=0)
    assert lesion_counts(some, other).f1 == 0
