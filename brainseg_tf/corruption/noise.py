"""Coarse noise (Kascenas 2022): a Gaussian field of low resolution, interpolated to the size of the image."""

import tensorflow as tf

from brainseg_tf.corruption.random_fields import Draws


def add_noise(images: tf.Tensor, brain: tf.Tensor, draws: Draws, cells: int, stddev: float) -> tf.Tensor:
    """Adds a random field to each channel of images within the brain.

    Args:
        images: (N, H, W, C) float32.
        brain: (N, H, W), 1 in the brain, else 0.
        draws: random numbers.
        cells: cells of the field along each side of the image.
        stddev: standard deviation of the noise.
    """
    size = (images.shape[1], images.shape[2])
    fields = tf.stack([draws.field(size, cells) for _ in range(images.shape[-1])], axis=-1)
    return images + stddev * fields * brain[..., None]
