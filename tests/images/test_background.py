"""The background of stripped scans and heads."""

import numpy as np
import pytest

from brainseg_tf.images.background import find_background, head_mask


def brain_and_scan(shape=(60, 70, 40), value=0.0):
    """An ellipsoid of tissue, and a scan of it with a constant background."""
    grid = [(np.arange(size) - (size - 1) / 2) / (size / 2) for size in shape]
    brain = np.sqrt(sum(axis**2 for axis in np.meshgrid(*grid, indexing="ij"))) < 0.8
    tissue = np.random.default_rng(0).normal(300, 40, shape)
    return brain, np.where(brain, tissue, value).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, -5.0, 300.0])
def test_a_constant_background_is_found(value):
    brain, scan = brain_and_scan(value=value)
    assert find_background(scan)[0] == value
    if value <= 0:
        np.testing.assert_array_equal(head_mask(scan), brain)


def test_the_background_of_a_slab_that_is_cropped_to_the_brain():
    """The first and the last slice show tissue, and the sides are narrow: most of the border is tissue."""
    brain, scan = brain_and_scan()
    slab = (slice(None), slice(None), slice(16, 24))
    where = np.argwhere(brain[slab])
    cropped = tuple(slice(low, high + 1) for low, high in zip(where.min(axis=0), where.max(axis=0), strict=True))
    brain, scan = brain[slab][cropped], scan[slab][cropped]
    sides = np.concatenate([scan[[0, -1]].ravel(), scan[:, [0, -1]].ravel(), scan[:, :, [0, -1]].ravel()])
    assert np.mean(sides > 0) > 0.5
    value, tolerance = find_background(scan)
    assert value == 0 and 0 < tolerance < 10
    np.testing.assert_array_equal(head_mask(scan), brain)


def test_noise_and_tissue_are_no_background():
    random = np.random.default_rng(1)
    brain, scan = brain_and_scan()
    assert find_background(scan + np.abs(random.normal(0, 5, scan.shape)).astype(np.float32)) is None
    # Noise whose edges were set to zero, as after a correction of distortion.
    noise = scan[:, :, 16:24] + np.abs(random.normal(0, 5, scan[:, :, 16:24].shape)).astype(np.float32)
    noise[[0, -1]] = noise[:, [0, -1]] = 0
    assert find_background(noise) is None
    # A field of view inside the brain.
    inside = scan[25:35, 28:42, 15:25]
    assert brain[25:35, 28:42, 15:25].all() and find_background(inside) is None
    assert head_mask(inside).all()


def test_air_is_no_part_of_a_head_also_in_a_narrow_field_of_view():
    brain, scan = brain_and_scan()
    head = scan + np.abs(np.random.default_rng(1).normal(0, 4, scan.shape)).astype(np.float32)
    # Cropped to the head: it touches the sides.
    narrow = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(brain))
    assert np.mean(head_mask(head[narrow]) == brain[narrow]) > 0.99


def test_air_is_no_part_of_a_slab_of_a_head():
    """The first and the last slice show tissue, so about half of the border does."""
    brain, scan = brain_and_scan()
    head = scan + np.abs(np.random.default_rng(1).normal(0, 4, scan.shape)).astype(np.float32)
    slab = (slice(None), slice(None), slice(17, 23))
    assert np.mean(head[slab][:, :, [0, -1]] > 100) > 0.4
    assert np.mean(head_mask(head[slab]) == brain[slab]) > 0.95
