"""Names of regions in MNI space: lobes by planes along the large fissures, and the distance to the lateral ventricles.

The planes follow landmarks with well-known coordinates (central sulcus, Sylvian fissure, parieto-occipital sulcus,
tentorium); their positions were rounded from a fit. For about 90 % of the voxels the name is that of two published
atlases (``benchmarks/regions.py``). They are good for tables, not for the planning of an intervention.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

REGIONS = ("frontal", "parietal", "temporal", "occipital", "insula", "deep", "infratentorial")
# A lesion at most this far from the lateral ventricles of the template is periventricular, in millimetres.
PERIVENTRICULAR_MM = 10.0


class _Ellipsoid(NamedTuple):
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]

    def contains(self, points: np.ndarray) -> np.ndarray:
        return (((points - self.centre) / self.radii) ** 2).sum(axis=1) < 1


# In millimetres of MNI space, with the absolute value of the first coordinate.
_INSULA = _Ellipsoid((36, 2, 3), (8, 26, 16))
# Basal ganglia, thalamus and the white matter between them.
_DEEP = _Ellipsoid((15, -5, 5), (16, 28, 14))
# The centre line of a lateral ventricle from the frontal horn through the body to the atrium, and from there through
# the occipital and the temporal horn; and its radius.
_VENTRICLE = (
    ((13, 26, 5), (6, 12, 11), (7, 0, 16), (10, -12, 22), (14, -26, 20), (24, -38, 11), (29, -45, 6)),
    ((29, -45, 6), (28, -64, 6)),
    ((29, -45, 6), (34, -36, -4), (36, -20, -15), (30, -8, -22)),
)
_VENTRICLE_RADIUS_MM = 4.0


def region_of(points: np.ndarray) -> np.ndarray:
    """The region of each point, as an index of ``REGIONS``.

    Args:
        points: (points, 3), in millimetres of MNI space. Points outside the brain get the region on their side of the
            planes.

    Returns:
        (points,) integers.
    """
    points = _folded(points)
    x, y, z = points.T
    regions = np.full(len(points), REGIONS.index("frontal"))
    below_sylvian = (z < -14 - 0.5 * y + 0.3 * x) & (x > 18)
    behind_parieto_occipital = y < -56 - 0.45 * np.maximum(z, 0) + 0.35 * np.minimum(z, 0) - 0.1 * x
    below_tentorium = (z < -5 - 0.45 * x + 0.05 * (y + 60)) & (y < -32)
    brainstem = (x < 16) & (y < -5) & (y > -37) & (z < -5)
    for name, inside in (
        ("parietal", y < -36 - 0.1 * z + 0.6 * x),
        ("temporal", below_sylvian),
        ("occipital", behind_parieto_occipital),
        ("insula", _INSULA.contains(points)),
        ("deep", _DEEP.contains(points)),
        ("infratentorial", below_tentorium | brainstem),
    ):
        regions[inside] = REGIONS.index(name)
    return regions


def main_region(points: np.ndarray) -> str:
    """The region in which most of the points are.

    Args:
        points: (points, 3), in millimetres of MNI space; at least one.
    """
    return REGIONS[int(np.bincount(region_of(points)).argmax())]


def ventricle_distance_mm(points: np.ndarray) -> np.ndarray:
    """The distance of each point to the lateral ventricles of the template, 0 in them.

    Args:
        points: (points, 3), in millimetres of MNI space.

    Returns:
        (points,) in millimetres.
    """
    points = _folded(points)
    nearest = np.full(len(points), np.inf)
    for line in _VENTRICLE:
        for start, end in pairwise(line):
            first, along = np.array(start, float), np.subtract(end, start).astype(float)
            share = np.clip((points - first) @ along / (along @ along), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(points - first - share[:, None] * along, axis=1))
    return np.maximum(nearest - _VENTRICLE_RADIUS_MM, 0)


def _folded(points: np.ndarray) -> np.ndarray:
    """The points with the absolute value of the first coordinate: both hemispheres have the same regions."""
    return np.abs(points) * [1, 0, 0] + points * [0, 1, 1]
