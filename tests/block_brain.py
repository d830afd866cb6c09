"""A brain like a block on the slices of a network, and balls in it, for the stages after the network."""

import numpy as np

# Millimetres and voxels along (slice, row, column).
SPACING = (1.0, 1.9, 1.9)
SHAPE = (60, 40, 44)
BRAIN = np.zeros(SHAPE, bool)
BRAIN[3:-3, 3:-3, 3:-3] = True


def ball(middle: tuple[float, float, float], mm: float) -> np.ndarray:
    """The voxels, (N, H, W) bool, less than ``mm`` from a position in millimetres."""
    grid = np.meshgrid(*(np.arange(n) * step for n, step in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    return sum((axis - at) ** 2 for axis, at in zip(grid, middle, strict=True)) < mm**2
