import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from brainseg_tf.brain.template import coverage, template, to_template
from brainseg_tf.images.registration import mean_distance
from brainseg_tf.postprocessing.lesions import place_of, side_and_region

CENTRE = np.array([0.0, -18, 8])


def lps(data, affine):
    """The same data with axes that are LPS as nearly as possible, as ``read_volume`` gives them."""
    change = ornt_transform(io_orientation(affine), axcodes2ornt("LPS"))
    return apply_orientation(data, change), affine @ inv_ornt_aff(change, data.shape)


def moved(angles=(0, 0, 0), scales=(1, 1, 1), shift=(0, 0, 0)):
    """The template's brain as a scan, after a known movement from MNI space to the scan's world space."""
    movement = np.eye(4)
    movement[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(scales)
    movement[:3, 3] = shift
    target = template()
    brain, affine = lps(target.brain, movement @ target.affine)
    return brain, affine, np.linalg.inv(movement)


def test_the_template_is_a_brain_in_mni_space():
    target = template()
    millimetres = nib.affines.apply_affine(target.affine, np.argwhere(target.brain))
    assert target.brain.sum() * 27e-3 == pytest.approx(1840, abs=40)  # ml; gm + wm above 0.35 of ICBM 152 2009a
    np.testing.assert_allclose(millimetres.min(axis=0), (-72, -107, -71), atol=4)
    np.testing.assert_allclose(millimetres.max(axis=0), (72, 73, 82), atol=4)
    assert target.distance.min() < -20
    assert target.distance[0, 0, 0] > 20


@pytest.mark.parametrize(
    ("angles", "scales", "shift"),
    [
        ((0, 0, 0), (1, 1, 1), (0, 0, 0)),
        ((-15, 0, 0), (0.9, 0.95, 0.9), (10, -60, 200)),
        ((12, -8, 18), (1.1, 0.95, 1.0), (-30, 20, -80)),
    ],
)
def test_a_known_movement_is_found(angles, scales, shift):
    brain, affine, truth = moved(angles, scales, shift)
    found = to_template(brain, affine)
    centre = nib.affines.apply_affine(np.linalg.inv(truth), CENTRE)
    assert mean_distance(found.matrix, truth, centre) < 4.0
    assert found.error_mm < 2.5
    assert found.is_reliable and found.cut_share == 0


def test_another_shape_has_a_large_error():
    brain = np.zeros((40, 40, 40), bool)
    brain[5:35, 5:12, 5:35] = True
    found = to_template(brain, np.diag([-5.0, -5, 5, 1]))
    assert found.error_mm > 4.5 and not found.is_reliable


def test_a_brain_that_the_field_of_view_cuts():
    brain, affine, truth = moved((5, 0, 0))
    cut = brain[:, :, 16:]
    low = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 16.0], [0, 0, 0, 1]])
    found = to_template(cut, low)
    assert mean_distance(found.matrix, truth, nib.affines.apply_affine(np.linalg.inv(truth), CENTRE)) < 8.0
    assert coverage(cut.shape, low, truth) == pytest.approx(cut.sum() / brain.sum(), abs=0.01)
    assert coverage(brain.shape, affine, truth) == 1.0


def test_a_brain_that_is_cut_off_is_not_reliable():
    brain, affine, _ = moved()
    slices = np.flatnonzero(brain.any(axis=(0, 1)))
    first = slices[0] + len(slices) // 3
    low = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, first], [0, 0, 0, 1.0]])
    found = to_template(brain[..., first:], low)
    assert found.cut_share > 0.1 and not found.is_reliable


@pytest.mark.parametrize("shape", [(5, 6, 7), (60, 70, 50)])
def test_a_brain_without_a_surface_has_no_error(shape):
    brain = np.zeros(shape, bool)
    brain[2, 3, 3] = True
    if shape[0] > 5:
        brain[:] = True  # As a mask of ones: the scan is cropped, or the mask is not one of the brain.
    found = to_template(brain, np.diag([-1.0, -1, 1, 1]))
    assert np.isfinite(found.matrix).all()
    assert found.error_mm is None and not found.is_reliable


@pytest.mark.parametrize("degrees", [-20, 12])
def test_the_side_in_a_part_of_a_turned_brain(degrees):
    """A slab whose field of view also cuts off a part of one side."""
    brain, affine, truth = moved((0, 0, degrees))
    slices, rows = (np.flatnonzero(brain.any(axis=axes)) for axes in ((0, 1), (1, 2)))
    first, side = slices[0] + len(slices) // 3, rows[0] + len(rows) // 4
    corner = affine @ np.array([[1, 0, 0, side], [0, 1, 0, 0], [0, 0, 1, first], [0, 0, 0, 1.0]])
    part = brain[side:, :, first:]
    place = place_of(part, corner, to_template(part, corner))
    assert not place.is_reliable
    for x, expected in ((-14, "left"), (14, "right")):
        for y in (-60, 45):
            points = nib.affines.apply_affine(np.linalg.inv(truth), [[x, y, 20]])
            assert side_and_region(points, place) == (expected, None)
