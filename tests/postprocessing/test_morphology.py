import numpy as np
from scipy import ndimage

from brainseg_tf.postprocessing.morphology import close, remove_low, remove_small

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
    assert not remove_low(mask, np.zeros_like(mask), 0.25).any()
    assert not remove_low(np.zeros_like(mask), seen, 0.25).any()
