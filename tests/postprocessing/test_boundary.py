"""Where a mask ends."""

import numpy as np
import pytest
from scipy import ndimage

from block_brain import BRAIN, SHAPE, SPACING, ball
from brainseg_tf.metrics import dice
from brainseg_tf.postprocessing.boundary import refine_boundary


def scan(*lesions: tuple[np.ndarray, float]) -> np.ndarray:
    """A brain at 0.3 with noise, and lesions of their own brightness, all a little blurred."""
    image = 0.3 + 0.02 * np.random.default_rng(0).standard_normal(SHAPE)
    for lesion, brightness in lesions:
        image[lesion] = brightness
    return np.where(BRAIN, ndimage.gaussian_filter(image, [0.6 / step for step in SPACING]), 0)


@pytest.mark.parametrize("drawn_mm", [9.0, 15.0])
def test_the_boundary_moves_to_the_edge_in_the_image(drawn_mm):
    lesion = ball((30, 38, 42), 12)
    drawn = ball((30, 38, 42), drawn_mm)
    settled = refine_boundary(drawn, scan((lesion, 0.9)), BRAIN, SPACING, 4.0)
    assert dice(drawn, lesion) < 0.7
    assert dice(settled, lesion) > 0.97


def test_voxels_far_from_the_boundary_are_unchanged():
    lesion, drawn = ball((30, 38, 42), 12), ball((30, 38, 42), 5)
    image = scan((lesion & ~ball((30, 38, 42), 3), 0.9), (ball((30, 38, 42), 3), 0.1))
    settled = refine_boundary(drawn, image, BRAIN, SPACING, 2.0)
    outside = ndimage.distance_transform_edt(~drawn, SPACING)
    inside = ndimage.distance_transform_edt(drawn, SPACING)
    assert not settled[outside > 2].any()
    assert settled[inside > 2].all()
    assert settled.sum() > drawn.sum()


def test_a_faint_lesion_beside_a_bright_one_is_kept():
    bright, faint = ball((20, 20, 20), 10), ball((40, 55, 60), 8)
    image = scan((bright, 0.95), (faint, 0.5))
    settled = refine_boundary(bright | faint, image, BRAIN, SPACING, 4.0)
    assert dice(settled, bright | faint) > 0.97


def test_a_component_no_brighter_than_the_brain_keeps_its_boundary():
    drawn = ball((30, 38, 42), 10)
    for image in (scan((ball((30, 38, 42), 7), 0.1)), np.zeros(SHAPE)):
        np.testing.assert_array_equal(refine_boundary(drawn, image, BRAIN, SPACING, 4.0), drawn)


def test_it_stays_in_the_brain_and_has_no_holes():
    lesion = ball((8, 38, 42), 9)
    image = scan((lesion, 0.9))
    image[10:12, 20, 22] = 0.3
    settled = refine_boundary(lesion & BRAIN, image, BRAIN, SPACING, 4.0)
    assert not settled[~BRAIN].any()
    np.testing.assert_array_equal(ndimage.binary_fill_holes(settled), settled)


def test_a_mask_without_boundary_is_not_refined():
    image, empty = scan(), np.zeros(SHAPE, bool)
    assert refine_boundary(empty, image, BRAIN, SPACING, 4.0) is empty
    drawn = ball((30, 38, 42), 10)
    assert refine_boundary(drawn, image, BRAIN, SPACING, 0.0) is drawn
    assert refine_boundary(BRAIN, image, BRAIN, SPACING, 4.0) is BRAIN
