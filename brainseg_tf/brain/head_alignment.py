"""The directions of a head in world space: the scan's own axes, turned if the head lies turned in the scan.

A network knows heads that look straight ahead. Scans are taken along the head, so the axes of a scan fit the head
better than those of the scanner; where a head lies turned within its scan all the same, the plane in which the brain
is its own mirror image tells by how much. A nod does not move that plane and is not found.
"""

import math

import nibabel as nib
import numpy as np

# Voxels that the symmetry is measured on.
_SAMPLES = 6_000
# Degrees: the largest turn that is looked for, and the steps of the search, coarse to fine.
_LARGEST, _STEPS = 30.0, (10.0, 5.0, 2.0, 1.0)
# A turn below this many degrees is left alone, as is one that does not raise the symmetric share of the brain by this
# much or raises it to less than what a whole brain has.
_SMALLEST, _GAIN, _SYMMETRIC = 6.0, 0.01, 0.9


def head_axes(brain: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The head's left, posterior and superior in world space.

    Args:
        brain: (X, Y, Z) bool, LPS as nearly as the grid allows.
        affine: (4, 4), indices to millimetres in RAS world space.

    Returns:
        (3, 3), orthogonal unit vectors as columns.
    """
    axes = scan_axes(affine)
    yaw, roll = head_turn(brain, affine)
    return axes @ _rotation(yaw, roll)


def scan_axes(affine: np.ndarray) -> np.ndarray:
    """The directions of a grid, (3, 3): the orthogonal matrix nearest to its axes, which a gantry may have sheared."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    nearest = left @ right
    # Without rounding where the axes are those of world space.
    return np.where(np.abs(nearest) < 1e-6, 0, np.where(np.abs(nearest) > 1 - 1e-6, np.sign(nearest), nearest))


def head_turn(brain: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """By how many degrees a head is turned in its scan: about its long axis (yaw), and towards a shoulder (roll).

    Args:
        brain, affine: as in ``head_axes``.

    Returns:
        (0, 0) for a head that is straight within 6 degrees, and for a brain that is not symmetric about any plane.
    """
    size = np.count_nonzero(brain)
    if size < 1000:
        return 0.0, 0.0
    places = np.argwhere(brain)[:: max(1, size // _SAMPLES)]
    axes = scan_axes(affine)
    world = nib.affines.apply_affine(affine, places)
    centre = world.mean(axis=0)
    local = (world - centre) @ axes
    to_index = np.linalg.inv(affine)
    shape = np.array(brain.shape)

    def symmetric_share(yaw: float, roll: float) -> float:
        """Share of the brain whose mirror image lies in the brain too."""
        normal = _rotation(yaw, roll)[:, 0]
        mirrored = local - 2 * (local @ normal)[:, None] * normal
        index = np.rint(nib.affines.apply_affine(to_index, mirrored @ axes.T + centre)).astype(int)
        inside = ((index >= 0) & (index < shape)).all(axis=1)
        return float(brain[tuple(index[inside].T)].sum() / len(local))

    straight = symmetric_share(0.0, 0.0)
    best, place, reach = straight, (0.0, 0.0), _LARGEST
    for step in _STEPS:
        offsets = [float(one) for one in np.arange(-reach, reach + step / 2, step)]
        around = [(place[0] + yaw, place[1] + roll) for yaw in offsets for roll in offsets]
        share, place = max(((symmetric_share(*one), one) for one in [*around, place]), key=lambda found: found[0])
        best, reach = share, step
    small = math.hypot(*place) < _SMALLEST
    if small or best - straight < _GAIN or best < _SYMMETRIC:
        return 0.0, 0.0
    return place


def _rotation(yaw: float, roll: float) -> np.ndarray:
    """A rotation about the third axis, then about the second, by degrees."""
    (cy, sy), (cr, sr) = ((math.cos(math.radians(one)), math.sin(math.radians(one))) for one in (yaw, roll))
    about_long = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_nose = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return about_long @ about_nose
