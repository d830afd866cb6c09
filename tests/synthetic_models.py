"""Models without a network, and their cards."""

from dataclasses import replace

import numpy as np

from brainseg_tf.model_card import ModelCard, TrainingData
from brainseg_tf.options import SegmentationOptions, SliceOptions
from brainseg_tf.reconstruction import Reconstruction

SLICES = SliceOptions(size=48, spacing=5.0, min_brain=0.05)
OPTIONS = SegmentationOptions(median=(1, 3, 3), min_size_ml=3.0)
LEVELS = {"absolute": 0.05, "positive": 0.05, "weighted": 0.4, "input": 0.7}


class Healthy:
    """The perfect model: everything in the brain looks like its median."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return Reconstruction(np.where(images > 0, 0.3, 0).astype(np.float32))


class Pointing(Healthy):
    """It also knows how bright a lesion is."""

    def __init__(self, brightness: float = 0.57) -> None:
        self.brightness = brightness

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return replace(super().reconstruct(images), probability=(images[..., 0] > self.brightness).astype(np.float32))


def card(**changes: object) -> ModelCard:
    data = TrainingData(3, 30, 20, 10, ("a",), ("b",), ("c",))
    base = ModelCard(
        name="perfect",
        version=1,
        architecture="cvae",
        parameters=1,
        modalities=("flair",),
        slices=SLICES,
        data=data,
        training={},
        losses={},
        healthy_levels=LEVELS,
        versions={},
    )
    return replace(base, **changes)
