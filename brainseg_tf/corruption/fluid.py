"""Fluid in slices: where it is, and synthetic ventricles, from which a network learns that bright fluid is healthy."""

import tensorflow as tf

from brainseg_tf.corruption.random_fields import Draws
from brainseg_tf.options import Fluid

# Edge in pixels of the square that lies in the brain around a pixel of the ventricles.
_VENTRICLE_DEPTH = 17
# Tissue is between these, as a share of the brain's mean; fluid is not.
_DARKEST_TISSUE, _BRIGHTEST_TISSUE = 0.6, 1.6
# Half width and half length of each of two synthetic ventricles, and the distance of their centres from the midline, as
# shares of the brain's half width and half length; all of these ranges were chosen by eye.
_WIDTH, _LENGTH, _APART = (0.06, 0.25), (0.15, 0.6), (0.0, 0.3)
# Largest shift of both along the midline from the brain's centre.
_SHIFT = 0.3
# Intensity of bright fluid as a share of the brain's mean.
_BRIGHT_FLUID = (2.0, 3.6)


def add_ventricles(images: tf.Tensor, brain: tf.Tensor, draws: Draws, share: float) -> tf.Tensor:
    """Adds bright ventricles to some slices: shapes that are the same on both sides of the midline.

    Slices without a tumour seldom show large ventricles, because tumours are beside them. So a network that learns from
    these slices alone can take bright fluid for a lesion.

    Args:
        images: (N, H, W, C). The brain is upright, and its middle is the middle of the image.
        brain: (N, H, W), 1 in the brain, else 0.
        draws: random numbers.
        share: of the slices that get ventricles.

    Returns:
        The slices, (N, H, W, C).
    """
    height, width = images.shape[1:3]
    half_length, half_width = (
        tf.reduce_sum(tf.reduce_max(brain, axis=axis), axis=1)[:, None, None] / 2 for axis in (2, 1)
    )
    down, across = (tf.range(edge, dtype=tf.float32) - (edge - 1) / 2 for edge in (height, width))
    along = tf.math.divide_no_nan(down[None, :, None], half_length) - draws.uniform(-_SHIFT, _SHIFT)
    beside = tf.abs(tf.math.divide_no_nan(across[None, None, :], half_width)) - draws.uniform(*_APART)
    distance = tf.sqrt((beside / draws.uniform(*_WIDTH)) ** 2 + (along / draws.uniform(*_LENGTH)) ** 2)
    field = sum(weight * draws.field((height, width), cells) for weight, cells in ((0.6, 8), (0.5, 16)))
    both_sides = (field + field[:, :, ::-1]) / 2**0.5
    inside = tf.sigmoid((0.9 - distance + 0.6 * both_sides) / draws.uniform(0.04, 0.15)) * brain
    inside *= tf.cast(distance < 2, tf.float32) * draws.bernoulli(share)
    level = draws.uniform(*_BRIGHT_FLUID) * (1 + 0.1 * draws.field((height, width), 12))
    fluid = mean_of_brain(images, brain) * level[..., None]
    return images + inside[..., None] * (fluid - images)


def mean_of_brain(images: tf.Tensor, brain: tf.Tensor) -> tf.Tensor:
    """The mean of the brain in each channel, (N, 1, 1, C)."""
    weight = brain[..., None]
    total = tf.reduce_sum(images * weight, [1, 2], keepdims=True)
    return tf.math.divide_no_nan(total, tf.reduce_sum(weight, [1, 2], keepdims=True))


def fluid_excess(images: tf.Tensor, mean: tf.Tensor, fluid: Fluid) -> tf.Tensor:
    """By how much a pixel is darker or brighter than any tissue, as a share of the brain's mean, (N, H, W)."""
    # The first channel as a share of its mean, averaged over 3 x 3 pixels.
    tissue = tf.math.divide_no_nan(tf.nn.avg_pool2d(images[..., :1], 3, 1, "SAME"), mean[..., :1])[..., 0]
    return _DARKEST_TISSUE - tissue if fluid == "dark" else tissue - _BRIGHTEST_TISSUE


def fluid_share(images: tf.Tensor, brain: tf.Tensor, fluid: Fluid) -> tf.Tensor:
    """How much of a pixel is fluid, (N, H, W), from 0 to 1."""
    return tf.sigmoid((fluid_excess(images, mean_of_brain(images, brain), fluid) - 0.05) / 0.06) * brain


def far_from_edge(brain: tf.Tensor) -> tf.Tensor:
    """Pixels of the brain that are as far from its edge as the ventricles are, (N, H, W), 0 or 1."""
    return -tf.nn.max_pool2d(-brain[..., None], _VENTRICLE_DEPTH, 1, "SAME")[..., 0]
