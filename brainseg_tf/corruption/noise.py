"""Coarse noise (Kascenas 2022): a low-resolution Gaussian field, brought to the image's size, inside the brain."""

import tensorflow as tf

from brainseg_tf.corruption.random_fields import Draws


def add_noise(images: tf.Tensor, brain: tf.Tensor, draws: Draws, cells: int, stddev: float) -> tf.Tensor:
    """Adds a field of ``cells`` by ``cells`` bumps to each channel of (N, H, W, C) where ``brain`` (N, H, W) is 1."""
    size = (images.shape[1], images.shape[2])
    fields = tf.stack([draws.field(size, cells) for _ in range(images.shape[-1])], axis=-1)
    return images + stddev * fields * brain[..., None]
