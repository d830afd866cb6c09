"""What the pipeline needs of a network: a reconstruction of slices, wherever the network runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Reconstruction:
    """The outputs of a network for slices (N, H, W, C).

    Attributes:
        images: (N, H, W, C) float32, the slices as they would look without a lesion.
        probability: (N, H, W) float32, of a lesion; None if the network has no such output.
    """

    images: np.ndarray
    probability: np.ndarray | None = None


class Reconstructor(Protocol):
    """A SavedModel, a Keras model or a model on a server."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """Takes (N, H, W, C) float32 in [0, 1]."""


def in_batches(
    images: np.ndarray, batch: int, outputs: Callable[[np.ndarray], Mapping[str, np.ndarray]]
) -> Reconstruction:
    """Reconstructs ``batch`` slices at a time; ``outputs`` returns a network's outputs by name."""
    return joined([outputs(images[start : start + batch]) for start in range(0, len(images), batch)])


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> Reconstruction:
    """Concatenates the outputs of consecutive batches."""
    named = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Reconstruction(named["reconstruction"], named.get("probability"))
