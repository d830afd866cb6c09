from dataclasses import fields, replace

import numpy as np
import pytest

from brainseg_tf.options import RandomHeadOptions
from brainseg_tf.training.random_heads import (
    SHAPES,
    Subject,
    _field,
    _recoloured,
    _thick_slices,
    distance_outside,
    padding_for_head,
    random_example,
    reduced,
)

OPTIONS = RandomHeadOptions()
# Nothing at random but rotation, size and position.
PLAIN = replace(
    OPTIONS,
    **{
        one.name: 0.0
        for one in fields(OPTIONS)
        if one.name not in ("scaling", "height", "rotation", "shift_mm", "rim_mm", "wrapped")
    },
    wrapped=1.0,
)


def ellipsoid(shape=(90, 110, 70), radii=(32, 40, 25)):
    grid = np.indices(shape)
    middle = np.array(shape) / 2
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, middle, radii, strict=True)) < 1


def subject(*, stripped):
    brain = ellipsoid()
    image = np.where(brain, 150, 0).astype(np.uint8)
    spacing = np.array([2.0, 2.0, 2.5])
    share = (255 * brain).astype(np.uint8)
    distance = distance_outside(brain.astype(np.float32), spacing) if stripped else None
    return Subject(image, share, spacing, np.argwhere(brain).mean(axis=0), distance)


@pytest.mark.parametrize("stripped", [False, True])
def test_examples_are_in_range_and_follow_from_the_seed(stripped):
    one = subject(stripped=stripped)
    shapes = set()
    for seed in range(8):
        image, brain = random_example(one, np.random.default_rng(seed), OPTIONS, 2.0)
        again, _ = random_example(one, np.random.default_rng(seed), OPTIONS, 2.0)
        np.testing.assert_array_equal(image, again)
        assert image.shape == brain.shape in SHAPES
        assert image.dtype == brain.dtype == np.float32
        for values in (image, brain):
            assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
        shapes.add(image.shape)
    assert len(shapes) > 1


def test_the_label_moves_with_the_image():
    """Without a change of intensities, the brain is where the image is bright; elastic deformations too."""
    for elastic in (0.0, 1.0):
        options = replace(PLAIN, elastic=elastic)
        for seed in range(4):
            image, brain = random_example(subject(stripped=False), np.random.default_rng(seed), options, 2.0)
            assert (image > 0.5).sum() > 10_000
            assert np.count_nonzero((image > 0.5) != (brain > 0.5)) < 0.02 * np.count_nonzero(brain)


def test_a_stripped_brain_gets_a_head_and_stays_as_it_is():
    for seed in range(4):
        image, brain = random_example(subject(stripped=True), np.random.default_rng(seed), PLAIN, 2.0)
        near = (brain == 0) & (image > 0.05)
        assert near.sum() > 0.1 * (brain > 0.5).sum()
        inside = image[brain > 0.99]
        assert inside.std() < 0.05 * inside.mean()
    alone, brain = random_example(subject(stripped=True), np.random.default_rng(0), replace(PLAIN, wrapped=0.0), 2.0)
    assert not (alone[brain == 0] > 0).any()


def test_some_examples_have_no_brain():
    image, brain = random_example(subject(stripped=True), np.random.default_rng(0), replace(PLAIN, no_brain=1.0), 2.0)
    assert not brain.any() and image.any()


def test_remains_of_the_skull_are_near_the_brain():
    from scipy import ndimage

    for seed in range(3):
        options = replace(PLAIN, stripped=1.0)
        image, brain = random_example(subject(stripped=True), np.random.default_rng(seed), options, 2.0)
        distance = ndimage.distance_transform_edt(brain <= 0.5, 2.0)
        assert not image[distance > 3 * OPTIONS.rim_mm].any()


def test_the_distance_outside_a_ball():
    spacing = np.array([2.0, 2.0, 2.0])
    grid = np.stack(np.indices((61, 61, 61)), axis=-1) - 30
    radius = 2.0 * np.linalg.norm(grid, axis=-1)
    distance = distance_outside((radius < 40).astype(np.float32), spacing) / 2
    assert (distance[radius < 38] == 0).all()
    np.testing.assert_allclose(distance[radius > 44], radius[radius > 44] - 40, atol=3)
    assert padding_for_head(spacing) == [(30, 30)] * 3


def test_reduced_volumes_have_voxels_of_about_1_6_mm():
    scan = np.arange(8 * 8 * 4, dtype=np.float32).reshape(8, 8, 4)
    small, spacing = reduced(scan, np.array([0.8, 1.0, 5.0]))
    assert small.shape == (4, 4, 4)
    np.testing.assert_allclose(spacing, [1.6, 2.0, 5.0])
    assert small[0, 0, 0] == scan[:2, :2, 0].mean()


def test_fields_curves_and_thick_slices():
    random = np.random.default_rng(0)
    field = _field(random, (40, 50, 60), 8)
    assert field.shape == (40, 50, 60)
    assert 0.6 < field.std() < 1.4
    assert np.abs(np.diff(field, axis=0)).max() < 1.5
    ramp = np.linspace(0, 1, 50, dtype=np.float32).reshape(50, 1, 1)
    assert _recoloured(ramp, random)[0, 0, 0] == 0
    volume = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32), (8, 8, 64)).copy()
    for seed in range(5):
        thick = _thick_slices(volume, np.random.default_rng(seed))
        assert thick.shape == volume.shape
        np.testing.assert_allclose(thick[..., 8:-8], volume[..., 8:-8], atol=0.06)
