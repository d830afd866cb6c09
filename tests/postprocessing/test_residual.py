import numpy as np
import pytest
from scipy import ndimage

from brainseg_tf.postprocessing.residual import erode, match_range, median_exceeds, score_map, smooth


def test_scores():
    images = np.array([0.5, 0.2]).reshape(1, 1, 2, 1)
    reconstruction = np.array([0.3, 0.6]).reshape(1, 1, 2, 1)
    expected = {"absolute": [0.2, 0.4], "positive": [0.2, 0], "weighted": [0.1**0.5, 0], "input": [0.5, 0.2]}
    for kind, values in expected.items():
        score = score_map(images, reconstruction, kind)
        assert score.dtype == np.float32
        np.testing.assert_allclose(score[0, 0], values, rtol=1e-6)
    both = score_map(
        np.stack([images[..., 0]] * 2, -1), np.stack([reconstruction[..., 0], images[..., 0]], -1), "positive"
    )
    np.testing.assert_allclose(both[0, 0], [0.1, 0], rtol=1e-6)


def test_range_is_matched_in_the_brain_by_channel():
    random = np.random.default_rng(0)
    images, reconstruction = random.random((2, 3, 8, 8, 2)).astype(np.float32)
    brain = random.random((3, 8, 8)) > 0.3
    matched = match_range(reconstruction * 0.2 + 0.4, images, brain)
    for channel in range(2):
        ours, theirs = matched[..., channel][brain], images[..., channel][brain]
        assert (ours.min(), ours.max()) == pytest.approx((theirs.min(), theirs.max()), abs=1e-6)
    assert not matched[~brain].any()


def test_erosion_is_within_slices_only():
    brain = np.zeros((3, 20, 20), bool)
    brain[1, 4:16, 4:16] = True
    inner = erode(brain, (5.0, 2.0, 2.0), 4.0)
    expected = brain & False
    expected[1, 6:14, 6:14] = True
    np.testing.assert_array_equal(inner, expected)
    np.testing.assert_array_equal(erode(brain, (5.0, 2.0, 2.0), 0), brain)


@pytest.mark.parametrize("spacing", [(5.0, 1.875, 1.875), (1.0, 0.5, 1.2)])
@pytest.mark.parametrize("rim", [0.1, 2.0, 2.8, 3.0, 3.8])
def test_erosion_is_a_disc_in_millimetres(spacing, rim):
    random = np.random.default_rng(0)
    brain = ndimage.binary_dilation(random.random((2, 24, 20)) > 0.995, np.ones((1, 9, 9)), iterations=2)
    inside = np.argwhere(brain)
    padded = np.pad(brain, ((0, 0), (1, 1), (1, 1)))
    expected = brain.copy()
    for z, row, column in inside:
        outside = np.argwhere(~padded[z]) - 1
        if np.hypot(*((outside - [row, column]) * spacing[1:]).T).min() <= rim:
            expected[z, row, column] = False
    eroded = erode(brain, spacing, rim)
    np.testing.assert_array_equal(eroded, expected)
    assert eroded.sum() == brain.sum() if rim == 0.1 else eroded.sum() < brain.sum()


def test_the_median_filter_removes_specks():
    score = np.zeros((5, 12, 12), np.float32)
    score[:, 3:9, 3:9] = 0.5
    score[2, 5, 5] = 1
    brain = np.ones(score.shape, bool)
    brain[0] = False
    smoothed = smooth(score, brain, (3, 3, 3))
    assert smoothed.max() == 0.5
    assert smoothed[2, 5, 5] == 0.5
    assert not smoothed[0].any()
    np.testing.assert_array_equal(smooth(score, brain, (1, 1, 1)), np.where(brain, score, 0))
    assert not smooth(score, brain & False, (3, 3, 3)).any()


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 5), (13, 3, 3), (3, 4, 4)])
def test_the_median_filter_is_that_of_scipy_in_the_box_of_the_brain(size):
    random = np.random.default_rng(0)
    score = random.random((9, 17, 14)).astype(np.float32)
    brain = np.zeros(score.shape, bool)
    brain[2:8, 3:15, 1:11] = random.random((6, 12, 10)) > 0.3
    box = np.s_[2:8, 3:15, 1:11]
    smoothed = smooth(score, brain, size)
    np.testing.assert_array_equal(smoothed[box][brain[box]], ndimage.median_filter(score[box], size)[brain[box]])
    assert not smoothed[~brain].any()
    assert smoothed.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 5), (13, 3, 3), (3, 4, 4)])
def test_above_is_a_smoothed_score_above_a_threshold(size):
    random = np.random.default_rng(0)
    score = random.random((9, 17, 14)).astype(np.float32)
    brain = ndimage.binary_erosion(random.random(score.shape) > 0.1, border_value=1)
    expected = smooth(score, brain, size) > 0.5
    assert 0.1 < expected[brain].mean() < 0.9
    np.testing.assert_array_equal(median_exceeds(score, 0.5, brain, size), expected)
