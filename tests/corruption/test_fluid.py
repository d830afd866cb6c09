"""Fluid in slices, and synthetic ventricles."""

import numpy as np
import tensorflow as tf
from scipy import ndimage

from brainseg_tf.corruption import corrupt
from brainseg_tf.corruption.fluid import add_ventricles, far_from_edge, fluid_share
from brainseg_tf.corruption.random_fields import Draws
from brainseg_tf.options import AugmentationOptions, CorruptionOptions, LesionOptions

SIZE = (96, 81)


def brains(count: int, channels: int = 1) -> tuple[tf.Tensor, tf.Tensor]:
    """Homogeneous elliptic brains in the middle of the image: intensities 0.3, 0.4, ... and the mask."""
    down, across = (np.arange(edge) - (edge - 1) / 2 for edge in SIZE)
    brain = np.hypot(down[:, None] / 40, across / 32) < 1
    images = np.stack([brain * (0.3 + 0.1 * channel) for channel in range(channels)], axis=-1)
    return tuple(tf.constant(np.repeat(one[None], count, axis=0), tf.float32) for one in (images, brain))


def test_ventricles_are_bright_symmetric_and_inside_the_brain():
    images, brain = brains(300, channels=2)
    changed = add_ventricles(images, brain, Draws(tf.constant([1, 2]), tf.constant(300)), 0.5).numpy()
    gain = (changed - images.numpy())[..., 0]
    fluid = gain > 0.1
    assert 0.4 < fluid.any(axis=(1, 2)).mean() < 0.55
    assert not gain[brain.numpy() == 0].any()
    # The border is where the sigmoid crosses a limit, and the brightness of both sides differs a little.
    assert (fluid != fluid[:, :, ::-1]).sum() < 0.04 * fluid.sum()
    # All channels get the same shapes.
    np.testing.assert_allclose(changed[..., 1] / 0.4, changed[..., 0] / 0.3, rtol=1e-4)
    # Inside, fluid is brighter than any tissue, which is at most 1.6 times the mean.
    inside = ndimage.binary_erosion(fluid, np.ones((1, 3, 3)))
    assert np.quantile(changed[..., 0][inside], 0.05) > 1.6 * 0.3
    # Ventricles have up to a quarter of a slice, and are seldom near the edge.
    area = fluid.sum(axis=(1, 2)) / brain.numpy().sum(axis=(1, 2))
    assert 0.02 < np.median(area[area > 0]) < 0.2 and np.quantile(area, 0.9) < 0.3
    deep = far_from_edge(brain).numpy() > 0
    assert (fluid & ~deep).sum() < 0.25 * fluid.sum()


def test_ventricles_are_healthy():
    images, brain = brains(60)
    options = CorruptionOptions(
        "lesions",
        augment=True,
        lesions=LesionOptions(clean=1, second=0, fluid="bright"),
        augmentation=AugmentationOptions(ventricles=1, bias=0, noise=0, blurred=0),
    )
    task = corrupt(images, tf.constant([3, 4]), options)
    assert not task.lesion.numpy().any()
    # The reconstruction should show them.
    np.testing.assert_allclose(task.clean, task.corrupted, atol=1e-6)
    fluid = fluid_share(task.clean, brain, "bright").numpy() > 0.5
    assert fluid.any(axis=(1, 2)).mean() > 0.9


def test_given_lesions_get_no_ventricles():
    images, brain = brains(20)
    with_lesions = tf.concat([images, brain[..., None]], axis=-1)
    options = CorruptionOptions(
        "lesions", augment=True, augmentation=AugmentationOptions(ventricles=1, bias=0, noise=0, blurred=0)
    )
    task = corrupt(with_lesions, tf.constant([3, 4]), options, given_lesions=True)
    assert np.ptp(task.clean.numpy()[brain.numpy() > 0].reshape(20, -1), axis=1).max() < 1e-5


def test_fluid_is_darker_or_brighter_than_tissue():
    images, brain = brains(1)
    values = images.numpy()
    values[0, 40:50, 30:40], values[0, 40:50, 45:55] = 0.1, 0.9
    for kind, columns in (("dark", slice(30, 40)), ("bright", slice(45, 55))):
        share = fluid_share(tf.constant(values), brain, kind).numpy()[0]
        assert share[42:48, columns][:, 2:8].min() > 0.9
        other = slice(45, 55) if kind == "dark" else slice(30, 40)
        assert share[40:50, other].max() < 0.1 and share[20:35, 30:55].max() < 0.1
