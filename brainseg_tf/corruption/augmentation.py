"""Data augmentation: random flips, contrast, bias fields, noise and blur."""

import tensorflow as tf

from brainseg_tf.corruption.random_fields import Draws

# Largest absolute logarithm of the gamma and of the intensity scale; largest standard deviation of the bias field.
_GAMMA, _SCALE, _BIAS = 0.3, 0.2, 0.12
# Largest standard deviation of the noise; share of the images that are blurred.
_NOISE, _BLURRED = 0.03, 0.25
# The median of the brain after robust normalisation. The gamma correction does not change this intensity.
_PIVOT = 0.3


def flip(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Flips half of the images (N, H, W, C) left to right, at random."""
    flipped = draws.bernoulli(0.5, rank=4)
    return flipped * images[:, :, ::-1] + (1 - flipped) * images


def vary_contrast(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Applies a random gamma, scale and bias field to each channel of images (N, H, W, C)."""
    size = (images.shape[1], images.shape[2])
    channels = []
    for channel in tf.unstack(images, axis=-1):
        relative = tf.maximum(channel / _PIVOT, 1e-4)
        corrected = tf.pow(relative, tf.exp(draws.uniform(-_GAMMA, _GAMMA)))
        biased = corrected * (1 + draws.uniform(0.0, _BIAS) * draws.field(size, 4))
        channels.append(_PIVOT * biased * tf.exp(draws.uniform(-_SCALE, _SCALE)))
    return tf.stack(channels, axis=-1)


def degrade(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Blurs some of the images (N, H, W, C), then adds white noise to all of them."""
    blurred = draws.bernoulli(_BLURRED, rank=4)
    images = blurred * tf.nn.avg_pool2d(images, 3, 1, "SAME") + (1 - blurred) * images
    return images + draws.uniform(0.0, _NOISE, rank=4) * draws.noise(images)
