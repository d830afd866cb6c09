import numpy as np
import pytest
from scipy import ndimage

from brainseg_tf.postprocessing.morphology import close, lesions, numbered_components, remove_low, remove_small

SPACING = (1.0, 2.0, 2.0)


def test_closing_bridges_gaps_up_to_its_radius_and_fills_holes():
    mask = np.zeros((9, 12, 12), bool)
    mask[2:7, 2:5, 2:10] = mask[2:7, 6:9, 2:10] = True
    closed = close(mask, SPACING, 3.0)
    assert closed[4, 5, 5]
    assert (closed | mask == closed).all()
    np.testing.assert_array_equal(close(mask, SPACING, 0), ndimage.binary_fill_holes(mask))
    shell = ndimage.binary_dilation(np.pad(np.ones((1, 1, 1), bool), 4), iterations=2)
    hollow = shell & ~np.pad(np.ones((1, 1, 1), bool), 4)
    np.testing.assert_array_equal(close(hollow, (1, 1, 1), 0), shell)


def test_closing_at_the_border_and_of_nothing():
    mask = np.zeros((4, 5, 6), bool)
    assert not close(mask, SPACING, 3.0).any()
    mask[0, 0, 0] = True
    np.testing.assert_array_equal(close(mask, SPACING, 3.0), mask)


def test_small_components_are_removed():
    mask = np.zeros((10, 10, 10), bool)
    mask[1:3, 1:3, 1:3] = True  # 8 voxels
    mask[5, 5, 5] = mask[6, 6, 6] = True  # 2 voxels that touch at a corner
    assert remove_small(mask, 0.5, 1.0).sum() == 10
    assert remove_small(mask, 0.5, 1.5).sum() == 8
    assert remove_small(mask, 0.5, 4.0).sum() == 8
    assert remove_small(mask, 0.5, 4.5).sum() == 0
    np.testing.assert_array_equal(remove_small(mask, 0.5, 0), mask)


def test_components_with_a_low_mean_are_removed():
    mask = np.zeros((10, 10, 10), bool)
    mask[1:3, 1:3, 1:3] = True  # 8 voxels
    mask[5, 5, 5] = mask[6, 6, 6] = True  # 2 voxels that touch at a corner
    seen = np.zeros_like(mask)
    seen[1, 1, 1:3] = seen[5, 5, 5] = seen[8] = True  # a quarter of the first, half of the second
    assert remove_low(mask, seen, 0.5).sum() == 2
    np.testing.assert_array_equal(remove_low(mask, seen, 0.25), mask)
    np.testing.assert_array_equal(remove_low(mask, seen, 0.5, neighbour_share=0.5), mask)
    assert not remove_low(mask, seen, 0.6, neighbour_share=0.5).any()
    assert not remove_low(mask, np.zeros_like(mask), 0.25).any()
    assert not remove_low(np.zeros_like(mask), seen, 0.25).any()


def test_components_are_numbered_by_size():
    mask = np.random.default_rng(0).random((11, 13, 9)) < 0.06
    mask[:3, :4, :2] = True
    numbers = numbered_components(mask)
    assert numbers.dtype == np.uint8
    np.testing.assert_array_equal(numbers > 0, mask)
    sizes = np.bincount(numbers.ravel())[1:]
    assert len(sizes) > 5
    assert (np.diff(sizes) <= 0).all()
    # The same components as by another library.
    components, count = ndimage.label(mask, np.ones((3, 3, 3)))
    pairs = np.unique(np.stack([numbers[mask], components[mask]]), axis=1)
    assert pairs.shape == (2, count) == (2, len(sizes))
    assert not numbered_components(np.zeros((4, 5, 6), bool)).any()
    many = np.zeros((40, 40, 4), bool)
    many[::2, ::2, ::2] = True
    assert numbered_components(many).dtype == np.uint16
    assert numbered_components(many).max() == 800


def test_lesions_are_measured_in_millimetres():
    mask = np.zeros((10, 11, 12), bool)
    mask[2:4, 3:5, 4:6] = True
    mask[8, 8, 8] = True
    affine = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 5, -30], [0, 0, 0, 1]])
    residual = np.where(mask, np.arange(12) / 10, 0)
    large, small = lesions(mask, residual, affine, -2.0)
    assert large.ml == pytest.approx(8 * 0.02)
    assert large.centroid_mm == pytest.approx((5.0, 13.0, -7.5))
    assert (large.side, small.side) == ("right", "midline")
    assert (large.mean_residual, small.mean_residual) == pytest.approx((0.45, 0.8))
    assert small.ml == pytest.approx(0.02)
    assert small.centroid_mm == pytest.approx((-6.0, 4.0, 10.0))
    assert [one.side for one in lesions(mask, residual, affine, 5.0)] == ["midline", "left"]
    assert lesions(mask & False, residual, affine, 0.0) == []
