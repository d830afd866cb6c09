"""The training task of a batch: corrupted slices as input, clean slices and lesion masks as targets."""

import os
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from brainseg_tf.corruption.augmentation import degrade, flip, roughen_mask, vary_contrast
from brainseg_tf.corruption.fluid import add_ventricles
from brainseg_tf.corruption.lesions import add_lesions
from brainseg_tf.corruption.noise import add_noise
from brainseg_tf.corruption.random_fields import Draws, stream
from brainseg_tf.corruption.shapes import paint_shapes
from brainseg_tf.keras_backend import keras
from brainseg_tf.options import CorruptionKind, CorruptionOptions, corruption_options

# Number of the random stream of the shapes. With the seed of the augmentation, flips and sizes would be correlated.
_SHAPES_STREAM = 2


class Task(NamedTuple):
    """Input and targets of a batch.

    Attributes:
        corrupted: (N, H, W, C), the input of the network.
        clean: (N, H, W, C), the target of the reconstruction.
        lesion: (N, H, W), 1 in lesions, which are synthetic unless they are given, else 0.
    """

    corrupted: tf.Tensor
    clean: tf.Tensor
    lesion: tf.Tensor


@keras.saving.register_keras_serializable("brainseg_tf")
class CorruptionTask:
    """``corrupt`` with fixed options, compiled with XLA, which makes it several times faster, also on a CPU.

    A model that was compiled with it can be saved and loaded. The XLA compilation takes 5 to 25 s. The environment
    variable ``BRAINSEG_XLA=0`` turns it off, for runs of a few steps.

    Args:
        options: of the corruption.
        given_lesions: see ``corrupt``.
    """

    def __init__(self, options: CorruptionOptions, *, given_lesions: bool = False) -> None:
        self.options, self.given_lesions = options, given_lesions
        with_xla = os.environ.get("BRAINSEG_XLA", "1") != "0"
        call = partial(corrupt, options=options, given_lesions=given_lesions)
        self._compiled = tf.function(call, jit_compile=with_xla)

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> Task:
        return self._compiled(images, seed)

    def get_config(self) -> dict[str, Any]:
        return {"options": asdict(self.options), "given_lesions": self.given_lesions}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CorruptionTask":
        # Models of version 0.15 or earlier were saved without it.
        return cls(corruption_options(config["options"]), given_lesions=config.get("given_lesions", False))


def corrupt(images: tf.Tensor, seed: tf.Tensor, options: CorruptionOptions, *, given_lesions: bool = False) -> Task:
    """The task of a batch of slices; a pure function of the batch and the seed.

    Args:
        images: (N, H, W, C) float32 in [0, 1], 0 outside the brain. H and W must be static, unless ``kind`` is
            ``shapes`` without ``augment``.
        seed: (2,) int32, both parts at least 0.
        options: of the corruption.
        given_lesions: whether the last channel is 1 in the lesions of the slices, else 0. Then nothing is painted, and
            the target is the slice with its lesions; ``kind`` is not used.
    """
    draws = Draws(seed, tf.shape(images)[0])
    clean = flip(images, draws) if options.augment else images
    kind: CorruptionKind | None = options.kind
    given = tf.zeros_like(clean[..., 0])
    if given_lesions:
        clean, given, kind = clean[..., :-1], clean[..., -1], None
    brain = _brain(clean)
    mask, augmentation = brain, options.augmentation
    if options.augment:
        # Fluid in a given lesion would be called a lesion.
        if augmentation.ventricles and not given_lesions:
            clean = add_ventricles(clean, brain, draws, augmentation.ventricles)
        clean = vary_contrast(clean, draws, augmentation) * brain[..., None]
        if augmentation.ragged:
            clean, brain, mask = roughen_mask(clean, brain, draws, augmentation.ragged)
    corrupted, lesion = clean, given * brain
    if kind == "lesions":
        corrupted, lesion = add_lesions(corrupted, brain, draws, options.lesions)
    if kind in ("noise", "both"):
        corrupted = add_noise(corrupted, brain, draws, options.noise_cells, options.noise_stddev)
    if kind in ("shapes", "both"):
        shapes_seed = stream(seed, _SHAPES_STREAM)
        corrupted = paint_shapes(
            corrupted, shapes_seed, options.shapes, options.smallest, options.largest, options.spread
        )
    if options.augment:
        corrupted = degrade(corrupted, mask, draws, augmentation) * mask[..., None]
    return Task(tf.clip_by_value(corrupted, 0, 1), tf.clip_by_value(clean, 0, 1), lesion)


def _brain(images: tf.Tensor) -> tf.Tensor:
    """The brain mask of slices that are 0 outside the brain, (N, H, W), 0 or 1.

    Pixels of intensity 0 within the brain are included by a binary closing, except holes of at least 3 x 3 pixels.
    """
    filled = tf.cast(tf.reduce_any(images > 0, axis=-1, keepdims=True), tf.float32)
    closed = -tf.nn.max_pool2d(-tf.nn.max_pool2d(filled, 3, 1, "SAME"), 3, 1, "SAME")
    return closed[..., 0]
