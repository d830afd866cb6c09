"""Synthetic lesions."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from brainseg_tf.corruption import corrupt
from brainseg_tf.corruption.lesions import displace
from brainseg_tf.options import CorruptionOptions, LesionOptions
from helpers import heads


def test_only_pixels_of_the_lesion_mask_are_changed():
    images = heads(200)
    options = CorruptionOptions("lesions", lesions=LesionOptions(bright=0, dark=0))
    task = corrupt(images, tf.constant([3, 4]), options)
    np.testing.assert_array_equal(task.clean, images)
    lesion, gain = task.lesion.numpy() > 0, (task.corrupted - images).numpy()
    assert not lesion[images.numpy()[..., 0] == 0].any()
    assert 0.1 < np.mean(~lesion.any(axis=(1, 2))) < 0.35
    assert gain[lesion].mean() > 0.05
    assert abs(gain[~lesion]).mean() < 0.01
    untouched = ~(gain != 0).any(axis=(1, 2, 3))
    assert 0.1 < untouched.mean() < 0.3
    assert not lesion[untouched].any()


def test_the_share_of_clean_slices_is_an_option():
    for clean, second in ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0)):
        options = CorruptionOptions("lesions", lesions=LesionOptions(clean, second, radius=(0.08, 0.1)))
        lesion = corrupt(heads(100), tf.constant([5, 6]), options).lesion.numpy()
        assert lesion.any(axis=(1, 2)).mean() == pytest.approx(1 - clean, abs=0.1)


def test_a_slice_without_a_lesion_gets_no_second_one():
    options = CorruptionOptions("lesions", lesions=LesionOptions(clean=0.6, second=0.8))
    task = corrupt(heads(100), tf.constant([5, 6]), options)
    changed = (task.corrupted != task.clean).numpy().any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, task.lesion.numpy().any(axis=(1, 2)))
    assert changed.mean() == pytest.approx(0.4, abs=0.1)


def test_the_tissue_of_another_slice_is_taken_only_if_there_is_one():
    """The lesions are three times as bright as the tissue, unless they show another slice."""
    lesions = LesionOptions(clean=0, second=0, bright=0, dark=0, contrast=(2.0, 2.0), foreign=1.0, radius=(0.15, 0.2))
    options = CorruptionOptions("lesions", lesions=lesions)

    def gain(images: tf.Tensor, seed: int) -> float:
        task = corrupt(images, tf.constant([seed, 6]), options)
        inside = task.lesion.numpy() > 0
        return float((task.corrupted.numpy()[inside] / images.numpy()[inside].mean()).mean())

    images = heads(24, channels=1)
    assert gain(images, 0) < 1.6
    assert np.mean([gain(images[number : number + 1], number) for number in range(24)]) > 2.0


def test_scattered_lesions_are_many_and_small():
    options = LesionOptions(clean=0, second=0, bright=0, dark=0, scattered=1.0, radius=(0.08, 0.1))
    lesion = corrupt(
        heads(60, 128, 1), tf.constant([5, 6]), CorruptionOptions("lesions", lesions=options)
    ).lesion.numpy()
    labels = [ndimage.label(one)[0] for one in lesion]
    # Half of the slices have lesions around the ventricles, which these heads do not have.
    assert np.quantile([one.max() for one in labels], 0.75) >= 5
    sizes = np.concatenate([np.bincount(one.ravel())[1:] for one in labels])
    # Of 128 pixels of 1.9 mm: 20 pixels are the cross-section of a ball of 0.2 ml.
    assert np.median(sizes) < 20
    images = heads(60, 128, 1)
    task = corrupt(images, tf.constant([5, 6]), CorruptionOptions("lesions", lesions=options))
    gain = (task.corrupted - images).numpy()[..., 0]
    # Some voxels are in a larger, homogeneous lesion too.
    assert np.quantile(gain[lesion > 0], 0.01) > 0.03
    assert abs(gain[lesion == 0]).mean() < 0.01


def scattered_lesions(images, periventricular):
    """The masks of many small lesions, without the single lesion of a radius of one pixel."""
    options = LesionOptions(
        0, 0, bright=0, dark=0, scattered=1.0, periventricular=periventricular, radius=(0.01, 0.011)
    )
    task = corrupt(tf.constant(images, tf.float32), tf.constant([5, 6]), CorruptionOptions("lesions", lesions=options))
    return [mask for mask in (ndimage.binary_opening(one > 0) for one in task.lesion.numpy()) if mask.any()]


@pytest.mark.parametrize("ventricle", [3, 8])
def test_a_share_of_the_scattered_lesions_is_around_the_ventricles(ventricle):
    y, x = np.mgrid[:128, :128] - 63.5
    radius = np.hypot(y, x)
    images = np.where(radius[None, ..., None] < ventricle, 0.05, heads(100, 128, 1))
    for share, least, most in ((0.0, 0.0, 0.1), (0.5, 0.2, 0.6), (1.0, 0.65, 1.0)):
        lesions = scattered_lesions(images, share)
        # A ring of 8 pixels around the ventricles is 4 to 8 % of the brain. In some slices the small single lesion is
        # the only one.
        near = np.array([np.mean(radius[one] < ventricle + 10) for one in lesions])
        assert least <= np.mean(near > 0.9) <= most
        assert np.mean([np.mean(radius[one] < ventricle - 2) for one in lesions]) < 0.05


def test_lesions_around_the_ventricles_can_be_on_both_sides_alike_and_confluent():
    y, x = np.mgrid[:128, :128] - 63.5
    two = np.minimum(np.hypot(y, x - 14), np.hypot(y, x + 14))
    lesions = scattered_lesions(np.where(two[None, ..., None] < 6, 0.05, heads(200, 128, 1)), 1.0)
    left = np.array([one[:, :64].sum() / one.sum() for one in lesions])
    assert 0.3 < np.mean(abs(left - 0.5) < 0.15) < 0.9
    # A closed ring around a ventricle of 6 pixels has at least 100 pixels.
    largest = [np.bincount(ndimage.label(one)[0].ravel())[1:].max() for one in lesions]
    assert np.quantile(largest, 0.75) > 100 > np.quantile(largest, 0.25)


def test_the_share_of_faint_lesions_is_an_option():
    def gain(faint):
        options = LesionOptions(0, 0, bright=0, dark=0, faint=faint, contrast=(0.15, 1.6))
        task = corrupt(heads(200, 64, 1), tf.constant([5, 6]), CorruptionOptions("lesions", lesions=options))
        change, lesion = (task.corrupted - heads(200, 64, 1)).numpy()[..., 0], task.lesion.numpy()
        return np.median([one[mask > 0].mean() for one, mask in zip(change, lesion, strict=True) if mask.any()])

    # Medians of the increase: 0.88 if it is uniform, 0.49 if it is log-uniform.
    assert gain(1.0) < 0.7 * gain(0.0)


def test_a_core_of_the_own_tissue_keeps_its_texture():
    options = LesionOptions(0, 0, bright=0, dark=1, own_core=1.0, radius=(0.3, 0.35), contrast=(1.5, 1.6))
    images = heads(100, 64, 1)
    task = corrupt(images, tf.constant([5, 6]), CorruptionOptions("lesions", lesions=options))
    ratio = (task.corrupted / tf.maximum(images, 1e-3)).numpy()[..., 0]
    inside = (task.lesion.numpy() > 0) & (ratio < 1.45) & (ratio > 0.68)
    # Within a core the intensity is the tissue's, times one factor for the slice.
    spreads = [one[mask].std() / one[mask].mean() for one, mask in zip(ratio, inside, strict=True) if mask.sum() > 100]
    assert len(spreads) > 20 and np.quantile(spreads, 0.25) < 0.05


def test_displacement_agrees_with_scipy():
    images = np.random.default_rng(0).uniform(size=(3, 24, 17, 2)).astype(np.float32)
    y, x = np.mgrid[:24, :17]
    centres, strengths = [(0, 0), (11, 8), (23, 16)], [0.0, 0.5, 0.9]
    distance = np.stack([np.hypot(y - row, x - column) / 6 for row, column in centres]).astype(np.float32)
    rows, columns = (np.array(axis, np.float32).reshape(3, 1, 1) for axis in zip(*centres, strict=True))
    shares = np.array(strengths, np.float32).reshape(3, 1, 1)
    displaced = displace(tf.constant(images), (rows, columns), tf.constant(distance), tf.constant(shares)).numpy()
    for image, (row, column), strength, result in zip(images, centres, strengths, displaced, strict=True):
        nearer = 1 - strength * np.exp(-0.5 * (np.hypot(y - row, x - column) / 6 / 1.2) ** 2)
        sources = [row + (y - row) * nearer, column + (x - column) * nearer]
        for channel in range(2):
            oracle = ndimage.map_coordinates(image[..., channel], sources, order=1)
            np.testing.assert_allclose(result[..., channel], oracle, atol=1e-5)
    np.testing.assert_allclose(displaced[0], images[0], atol=1e-6)


def displacing(images, share, second=0):
    """The task with a displacing lesion in this share of the slices."""
    options = LesionOptions(0, second, bright=0, dark=0, displacing=share, radius=(0.15, 0.2))
    return corrupt(images, tf.constant([5, 6]), CorruptionOptions("lesions", lesions=options))


def test_a_displacing_lesion_moves_the_tissue_around_it_but_not_the_target():
    images = heads(100, 64, 1)
    gain = {}
    for share in (0.0, 1.0):
        task = displacing(images, share)
        np.testing.assert_array_equal(task.clean, images)
        outside = (images.numpy()[..., 0] > 0) & (task.lesion.numpy() == 0)
        gain[share] = abs(task.corrupted - images).numpy()[..., 0][outside].mean()
    assert gain[1.0] > 2 * gain[0.0]


def test_a_displacing_lesion_moves_nothing_from_or_to_what_is_outside_the_brain():
    images = np.zeros((100, 64, 64, 1), np.float32)
    # Two lobes, with a gap between them.
    images[:, 8:56, 6:28] = images[:, 8:56, 36:58] = 0.5
    task = displacing(tf.constant(images), 1.0)
    outside = images[..., 0] == 0
    assert not task.corrupted.numpy()[..., 0][outside].any()
    healthy = task.corrupted.numpy()[..., 0][~outside & (task.lesion.numpy() == 0)]
    # Lesions are brighter and fade into their surroundings; nothing is darker.
    assert healthy.min() > 0.45


def test_a_second_lesion_does_not_displace_the_first():
    images = heads(100, 64, 1)
    one, two = (displacing(images, 1.0, second) for second in (0, 1))
    unchanged = (two.lesion.numpy() == 0) & (images.numpy()[..., 0] > 0)
    # Around the second lesion there is a faint edge only.
    assert np.quantile(abs(one.corrupted - two.corrupted).numpy()[..., 0][unchanged], 0.9) < 0.01
    assert (two.lesion.numpy() >= one.lesion.numpy()).all()
