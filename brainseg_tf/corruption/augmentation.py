"""Other scanners, other heads: flips, gamma, scale and bias field, which leave a healthy slice healthy."""

import tensorflow as tf

from brainseg_tf.corruption.random_fields import Draws

_GAMMA, _SCALE, _BIAS = 0.3, 0.2, 0.12
_NOISE, _BLURRED = 0.03, 0.25
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


def degrade(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """White noise on all of (N, H, W, C), and a blur on some."""
    blurred = draws.coin(_BLURRED, rank=4)
    images = blurred * tf.nn.avg_pool2d(images, 3, 1, "SAME") + (1 - blurred) * images
    return images + draws.uniform(0.0, _NOISE, rank=4) * draws.noise(images)
