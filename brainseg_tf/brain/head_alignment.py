"""Estimates the left, posterior and superior directions of a head from the symmetry of its brain mask.

The networks were trained on heads that face straight ahead. Most scans are aligned with the head, so their axes are
closer to those of the head than the axes of the scanner are. If the head is rotated within its scan, the rotation is
estimated from the mid-sagittal plane, the plane for which the brain is most similar to its mirror image. A rotation
about the left-right axis (pitch) does not move this plane and cannot be estimated.
"""

import math

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from brainseg_tf.masks import some_voxels

# Number of voxels on which the symmetry is measured.
_SAMPLES = 6_000
# The largest rotation of the search, and its step sizes from coarse to fine, in degrees.
_LARGEST, _STEPS = 30.0, (10.0, 5.0, 2.0, 1.0)
# A rotation is not corrected if it is smaller than the first number in degrees, if it increases the symmetric share of
# the brain by less than the second number, or if that share is then below the third number. Complete brains exceed it.
_SMALLEST, _GAIN, _SYMMETRIC = 6.0, 0.01, 0.9


def head_axes(brain: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The left, posterior and superior directions of a head in world space.

    Args:
        brain: (X, Y, Z) bool, with axes that are LPS as nearly as the grid allows.
        affine: (4, 4), voxel indices to millimetres in RAS world space.

    Returns:
        (3, 3), orthogonal unit vectors in its columns.
    """
    axes = scan_axes(affine)
    yaw, roll = head_rotation(brain, affine)
    return axes @ _rotation(yaw, roll)


def scan_axes(affine: np.ndarray) -> np.ndarray:
    """The orthogonal matrix that is nearest to the directions of a grid's axes, (3, 3).

    The axes of the grid itself are not orthogonal if the gantry was tilted.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    nearest = left @ right
    # Remove rounding errors, so that grids along the world axes give exactly 0 and 1.
    return np.where(np.abs(nearest) < 1e-6, 0, np.where(np.abs(nearest) > 1 - 1e-6, np.sign(nearest), nearest))


def head_rotation(brain: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """The rotation of a head within its scan, in degrees.

    Args:
        brain, affine: as in ``head_axes``.

    Returns:
        The rotation about the superior axis (yaw) and about the posterior axis (roll). Both are 0 if the rotation is
        below 6 degrees, or if the brain is not symmetric about any plane.
    """
    if np.count_nonzero(brain) < 1000:
        return 0.0, 0.0
    indices = some_voxels(brain, _SAMPLES)
    axes = scan_axes(affine)
    world = nib.affines.apply_affine(affine, indices)
    centre = world.mean(axis=0)
    local = (world - centre) @ axes
    to_index = np.linalg.inv(affine)
    shape, origin = np.array(brain.shape), nib.affines.apply_affine(to_index, centre)

    def symmetric_share(yaw: float, roll: float) -> float:
        """The share of the brain's voxels whose mirror images are in the brain too."""
        normal = _rotation(yaw, roll)[:, 0]
        mirror = np.eye(3) - 2 * np.outer(normal, normal)
        index = np.rint(local @ (to_index[:3, :3] @ axes @ mirror).T + origin).astype(int)
        inside = ((index >= 0) & (index < shape)).all(axis=1)
        return np.count_nonzero(brain[tuple(index[inside].T)]) / len(local)

    unrotated = symmetric_share(0.0, 0.0)
    best, angles, reach = unrotated, (0.0, 0.0), _LARGEST
    for step in _STEPS:
        offsets = [float(offset) for offset in np.arange(-reach, reach + step / 2, step)]
        candidates = [(angles[0] + yaw, angles[1] + roll) for yaw in offsets for roll in offsets]
        share, angles = max(
            ((symmetric_share(*candidate), candidate) for candidate in [*candidates, angles]),
            key=lambda result: result[0],
        )
        best, reach = share, step
    small = math.hypot(*angles) < _SMALLEST
    if small or best - unrotated < _GAIN or best < _SYMMETRIC:
        return 0.0, 0.0
    return angles


def _rotation(yaw: float, roll: float) -> np.ndarray:
    """The rotation matrix of yaw (about the third axis) times roll (about the second axis), both in degrees."""
    return Rotation.from_euler("ZY", (yaw, roll), degrees=True).as_matrix()
