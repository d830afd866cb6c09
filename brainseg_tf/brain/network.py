"""The brain mask of a scan from the brain network (``models.brain``), wherever the network runs."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from brainseg_tf.brain.grid import from_head_grid, to_head_grid
from brainseg_tf.images.volume import Volume
from brainseg_tf.masks import bounding_box, fill_holes, largest_component
from brainseg_tf.options import HeadGridOptions

# The network's images and probabilities are bytes: a whole head then fits in one message to a server.
_LARGEST_BYTE = 255


class BrainNetwork(Protocol):
    """A SavedModel, or a network on a server.

    Attributes:
        grid: how a scan is resampled for it.
    """

    grid: HeadGridOptions

    def probability(self, images: np.ndarray) -> np.ndarray:
        """The probability that a voxel is brain, times 255.

        Args:
            images: (1, x, y, z, 1) uint8.

        Returns:
            (1, x, y, z) uint8.
        """


@dataclass(frozen=True)
class NetworkMask:
    """What the brain network finds.

    Attributes:
        mask: (X, Y, Z) bool, on the grid of the scan.
        certainty: the mean probability of the voxels in the mask, from 0.5 to 1; 0 if the mask is empty.
    """

    mask: np.ndarray
    certainty: float


def network_mask(scan: Volume, network: BrainNetwork) -> NetworkMask:
    """The brain mask of a scan with or without a skull.

    The mask is the largest component of the voxels that are more probably brain than not, with holes filled. It is
    empty if there are none.

    Args:
        scan: the scan.
        network: the network.
    """
    grid = to_head_grid(scan.data, scan.affine, network.grid)
    images = np.rint(_LARGEST_BYTE * grid.data).astype(np.uint8)
    probability = network.probability(images[None, ..., None])[0]
    found = probability > _LARGEST_BYTE / 2
    if not found.any():
        return NetworkMask(np.zeros(scan.data.shape, bool), 0.0)
    found = largest_component(found)
    certainty = float(probability[found].mean()) / _LARGEST_BYTE
    # Other components must not grow together with the largest one when they are interpolated.
    separate = np.where(found | (probability <= _LARGEST_BYTE / 2), probability, 0)
    # Only what is next to a voxel of the component can be more probably brain than not after interpolation.
    near = np.zeros_like(separate)
    box = bounding_box(found, (1, 1, 1))
    near[box] = separate[box]
    mask = from_head_grid(near, grid, scan.data.shape) > _LARGEST_BYTE / 2
    return NetworkMask(fill_holes(largest_component(mask)), certainty)
