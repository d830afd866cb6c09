"""Other scanners, other heads: flips, gamma, scale and bias field, which leave a healthy slice healthy."""

import tensorflow as tf

from brainseg_tf.corruption.draws import Draws

_GAMMA, _SCALE, _BIAS = 0.3, 0.2, 0.12
_NOISE, _BLURRED = 0.03, 0.5
# Standard deviation of the blur in pixels of 1.9 mm: voxels of 5 mm across the slice, interpolated, have 1.3.
_BLUR = 1.6
# Where robust normalisation puts the brain's median, so that a gamma leaves it in place.
_PIVOT = 0.3


def flip(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Mirrors every other image (N, H, W, C) left to right."""
    mirrored = draws.coin(0.5, rank=4)
    return mirrored * images[:, :, ::-1] + (1 - mirrored) * images


def recolour(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Another gamma, scale and bias field for each channel of (N, H, W, C); the brain's median moves by its scale."""
    size = (images.shape[1], images.shape[2])
    channels = []
    for channel in tf.unstack(images, axis=-1):
        relative = tf.maximum(channel / _PIVOT, 1e-4)
        curved = tf.pow(relative, tf.exp(draws.uniform(-_GAMMA, _GAMMA)))
        biased = curved * (1 + draws.uniform(0.0, _BIAS) * draws.field(size, 4))
        channels.append(_PIVOT * biased * tf.exp(draws.uniform(-_SCALE, _SCALE)))
    return tf.stack(channels, axis=-1)


def degrade(images: tf.Tensor, brain: tf.Tensor, draws: Draws) -> tf.Tensor:
    """A coarser scanner: a blur on half of (N, H, W, C), along each axis another one, and white noise on all.

    Args:
        brain: (N, H, W), 1 inside.
    """
    blurred = draws.coin(_BLURRED)
    rows, columns = (blurred * draws.uniform(0.0, _BLUR) for _ in range(2))
    images = blur(images, brain, rows, columns)
    return images + draws.uniform(0.0, _NOISE, rank=4) * draws.noise(images)


def blur(images: tf.Tensor, brain: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Gaussian blur of (N, H, W, C); what lies outside ``brain`` (N, H, W) does not blur into it.

    Args:
        rows: (N, 1, 1), standard deviation in pixels along H; ``columns``: along W.
    """
    both = tf.concat([images, brain[..., None]], axis=-1)
    down, across = (_gaussian(edge, stddev) for edge, stddev in zip(images.shape[1:3], (rows, columns), strict=True))
    both = tf.einsum("nhi,nijc,nwj->nhwc", down, both, across, optimize="optimal")
    return tf.math.divide_no_nan(both[..., :-1], both[..., -1:])


def _gaussian(size: int, stddev: tf.Tensor) -> tf.Tensor:
    """Blurs an axis of ``size`` pixels when multiplied from the left, (N, size, size)."""
    place = tf.range(size, dtype=tf.float32)
    # Below a tenth of a pixel nothing moves, and 0 cannot be divided by.
    weights = tf.exp(-(((place[:, None] - place) / tf.maximum(stddev, 0.1)) ** 2) / 2)
    return weights / tf.reduce_sum(weights, axis=2, keepdims=True)
