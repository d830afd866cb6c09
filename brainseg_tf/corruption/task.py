"""A batch's task: what a network is shown, and what it should give back."""

from typing import NamedTuple

import tensorflow as tf

from brainseg_tf.corruption.augmentation import degrade, flip, recolour
from brainseg_tf.corruption.draws import Draws
from brainseg_tf.corruption.lesions import plant_lesions
from brainseg_tf.corruption.noise import add_noise
from brainseg_tf.corruption.shapes import paint_shapes
from brainseg_tf.recipes import CorruptionOptions


class Task(NamedTuple):
    """A batch with its task.

    Attributes:
        corrupted: (N, H, W, C), what the network is shown.
        clean: (N, H, W, C), what it should give back.
        lesion: (N, H, W), 1 where a synthetic lesion was planted, else 0.
    """

    corrupted: tf.Tensor
    clean: tf.Tensor
    lesion: tf.Tensor


def corrupt(images: tf.Tensor, seed: tf.Tensor, options: CorruptionOptions) -> Task:
    """Makes the task of a batch of healthy slices; a pure function of the batch and the seed.

    Args:
        images: (N, H, W, C) float32 in [0, 1], 0 outside the brain. H and W are known when the graph is built, unless
            ``kind`` is ``shapes`` without ``augment``.
        seed: (2,) int32, both parts at least 0.
    """
    draws = Draws(seed, tf.shape(images)[0])
    clean = flip(images, draws) if options.augment else images
    brain = _brain(clean)
    if options.augment:
        clean = recolour(clean, draws) * brain[..., None]
    corrupted, lesion = clean, tf.zeros_like(brain)
    if options.kind == "lesions":
        corrupted, lesion = plant_lesions(corrupted, brain, draws, options.lesions)
    if options.kind in ("noise", "both"):
        corrupted = add_noise(corrupted, brain, draws, options.noise_cells, options.noise_stddev)
    if options.kind in ("shapes", "both"):
        corrupted = paint_shapes(corrupted, seed, options.shapes, options.smallest, options.largest, options.spread)
    if options.augment:
        corrupted = degrade(corrupted, draws) * brain[..., None]
    return Task(tf.clip_by_value(corrupted, 0, 1), tf.clip_by_value(clean, 0, 1), lesion)


def _brain(images: tf.Tensor) -> tf.Tensor:
    """The brain of slices that are 0 outside it, (N, H, W): also its pixels of intensity 0, but for holes of 3."""
    filled = tf.cast(tf.reduce_any(images > 0, axis=-1, keepdims=True), tf.float32)
    closed = -tf.nn.max_pool2d(-tf.nn.max_pool2d(filled, 3, 1, "SAME"), 3, 1, "SAME")
    return closed[..., 0]
