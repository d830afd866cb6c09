"""Polygons around the regions of a mask in a plane."""

import numpy as np
from scipy.spatial.distance import cdist
from skimage.measure import find_contours, label, regionprops


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The polygons around the regions of a plane; regions that touch at a corner only have polygons of their own.

    A polygon runs midway between the centres of pixels inside and outside, so the pixels whose centres it encloses are
    those of the mask. It has no separate polygons for holes: a hole is joined to the outer boundary by two segments
    that coincide ("keyhole technique", DICOM PS3.3, section C.8.8.6.3).

    Args:
        mask: (rows, columns) bool.

    Returns:
        An array (N, 2) for each region: row and column of each vertex. The last vertex is joined to the first one.
    """
    return [_outline(region.image) + region.bbox[:2] for region in regionprops(label(mask, connectivity=1))]


def _outline(region: np.ndarray) -> np.ndarray:
    """The polygon around one region."""
    rings = [ring[:-1] - 1 for ring in find_contours(np.pad(region, 1).astype(np.float32), 0.5)]
    polygon, *holes = sorted(rings, key=_area, reverse=True)
    for hole in holes:
        distances = cdist(polygon, hole)
        # A vertex lies between two rows or between two columns. A segment that joins one of each kind contains no
        # centre of a pixel, so it is clear for every pixel on which side it is.
        distances[(polygon[:, :1] % 1 == 0) == (hole[:, 0] % 1 == 0)] = np.inf
        at, start = np.unravel_index(distances.argmin(), distances.shape)
        closed = np.roll(hole, -start, axis=0)[np.r_[: len(hole), 0]]
        polygon = np.concatenate([polygon[: at + 1], closed, polygon[at:]])
    return polygon


def _area(ring: np.ndarray) -> float:
    """The area within a polygon (N, 2)."""
    following = np.roll(ring, -1, axis=0)
    return abs(float(np.sum(ring[:, 0] * following[:, 1] - ring[:, 1] * following[:, 0]))) / 2
