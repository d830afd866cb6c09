"""fusion: two ``selfseg`` networks, one with the first modality as input and one with all modalities.

A lesion can be faint on one modality and bright on another, and a single network with both as input then misses it. A
region that only one of the two networks segments is often not a lesion: the geometric mean of the probabilities is high
only where both are.
"""

from typing import Any

import tensorflow as tf

from brainseg_tf.corruption import Task
from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import PACKAGE
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.models.selfseg import SelfSegmenter


@keras.saving.register_keras_serializable(PACKAGE)
class FusionSegmenter(ContextModel):
    """Both networks are trained on the same synthetic lesions; their losses are added.

    Args:
        channels: image channels, one per modality; at least two, or both networks have the same input.
    """

    loss_names = SelfSegmenter.loss_names
    score = SelfSegmenter.score
    trim = SelfSegmenter.trim

    def __init__(self, channels: int = 2, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        # === Layers ===
        self.first = SelfSegmenter(1, name="first", dtype=self.dtype_policy)
        self.every = SelfSegmenter(channels, name="every", dtype=self.dtype_policy)
        self.stride = self.every.stride

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for network in (self.first, self.every):
            network.build((None, None, None, network.channels))
        self.built = True

    def compile(self, **kwargs: Any) -> None:
        super().compile(**kwargs)
        for network in (self.first, self.every):
            network.objective = self.objective

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.every(images, training=training)

    def compute_losses(self, task: Task, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        alone = Task(task.corrupted[..., :1], task.clean[..., :1], task.lesion)
        first, every = self.first.compute_losses(alone, seed), self.every.compute_losses(task, seed)
        return {name: first[name] + every[name] for name in self.loss_names}

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The reconstruction of all modalities, and the geometric mean of both probabilities."""
        first, every = self.first.outputs(images[..., :1]), self.every.outputs(images)
        return every | {"probability": tf.sqrt(first["probability"] * every["probability"])}
