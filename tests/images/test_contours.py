"""Polygons around the regions of a mask, rasterised by other libraries."""

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage
from skimage.draw import polygon2mask

from brainseg_tf.images.contours import outlines


def inside(polygons, shape):
    """The pixels whose centres are in one of the polygons."""
    centres = np.indices(shape).reshape(2, -1).T
    found = np.zeros(shape, bool)
    for polygon in polygons:
        found |= Polygon(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(centres).reshape(shape)
    return found


def shape_with_holes():
    rows, columns = np.indices((31, 37))
    mask = np.hypot(rows - 14, columns - 17) < 13
    for row, column, radius in ((10, 12, 3), (18, 20, 4), (9, 23, 1), (20, 9, 2)):
        mask &= np.hypot(rows - row, columns - column) >= radius
    # An island in a hole.
    mask[18, 20] = True
    return mask


CASES = {
    "one pixel": np.pad(np.ones((1, 1), bool), 2),
    "at the border": np.ones((4, 3), bool),
    "holes": shape_with_holes(),
    "corners": np.eye(5, dtype=bool),
    "noise": np.random.default_rng(0).random((23, 19)) < 0.6,
    "smooth": ndimage.gaussian_filter(np.random.default_rng(1).random((40, 33)), 2) > 0.5,
}


@pytest.mark.parametrize("name", CASES)
def test_the_pixels_in_the_polygons_are_those_of_the_mask(name):
    mask = CASES[name]
    polygons = outlines(mask)
    assert len(polygons) == ndimage.label(mask)[1]
    np.testing.assert_array_equal(inside(polygons, mask.shape), mask)


def test_a_hole_is_no_polygon_of_its_own():
    mask = np.ones((9, 9), bool)
    mask[4, 4] = False
    (polygon,) = outlines(mask)
    np.testing.assert_array_equal(polygon2mask(mask.shape, polygon), mask)
    # The two segments of the keyhole coincide: there and back along the same way.
    steps = {tuple(np.round(np.r_[a, b], 3)) for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)}
    both = {step for step in steps if (*step[2:], *step[:2]) in steps}
    assert len(both) == 2


def test_the_outline_of_a_disk_has_its_area():
    rows, columns = np.indices((60, 60))
    mask = np.hypot(rows - 29.3, columns - 30.1) < 25
    (polygon,) = outlines(mask)
    y, x = polygon.T
    area = abs(np.sum(y * np.roll(x, -1) - x * np.roll(y, -1))) / 2
    assert area == pytest.approx(np.pi * 25**2, rel=0.02)


def test_an_empty_plane_has_no_polygon():
    assert outlines(np.zeros((3, 4), bool)) == []
