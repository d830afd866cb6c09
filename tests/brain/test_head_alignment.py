import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainseg_tf.brain.head_alignment import head_axes, head_rotation, scan_axes

# Voxel sizes in mm: isotropic, and of a scan with thick slices.
FINE, THICK = (3.0, 3.0, 3.0), (1.5, 2.0, 6.0)


def affine_of(spacing, rotation=None):
    affine = np.eye(4)
    axes = np.diag([-1.0, -1, 1])
    affine[:3, :3] = (axes if rotation is None else rotation @ axes) * spacing
    affine[:3, 3] = [90, 110, -70]
    return affine


def head(spacing, turn, shape_mm=(210, 240, 190)):
    """A brain mask with left-right symmetry and no other: wider at the back than at the front, and flat at the bottom.

    Args:
        spacing: voxel size in mm.
        turn: (3, 3), the rotation of the brain within its grid.
        shape_mm: field of view in mm.
    """
    index = np.stack(np.indices([round(mm / step) for mm, step in zip(shape_mm, spacing, strict=True)]), axis=-1)
    place = (index - (np.array(index.shape[:3]) - 1) / 2) * spacing @ turn
    x, y, z = np.moveaxis(place, -1, 0)
    width = 62 + 0.12 * y
    return ((x / width) ** 2 + (y / 85) ** 2 + (z / 65) ** 2 < 1) & (z > -45 + 0.15 * y)


@pytest.mark.parametrize("spacing", [FINE, THICK])
@pytest.mark.parametrize(("yaw", "roll"), [(15, 0), (-20, 0), (0, 14), (12, -10)])
def test_the_rotation_of_a_head_is_estimated(spacing, yaw, roll):
    turn = Rotation.from_euler("ZY", [yaw, roll], degrees=True).as_matrix()
    found = head_rotation(head(spacing, turn), affine_of(spacing))
    np.testing.assert_allclose(found, (yaw, roll), atol=2.5)


def test_head_axes_are_those_of_a_rotated_head():
    turn = Rotation.from_euler("ZY", [12, -10], degrees=True).as_matrix()
    world = Rotation.from_euler("xyz", [20, 3, -8], degrees=True).as_matrix()
    found = head_axes(head(FINE, turn), affine_of(FINE, world))
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-9)
    expected = world @ np.diag([-1.0, -1, 1]) @ turn
    # Each axis is within 3 degrees of the correct direction.
    assert ((found * expected).sum(axis=0) > np.cos(np.deg2rad(3))).all()


@pytest.mark.parametrize("degrees", [0, 4])
def test_small_rotations_are_not_corrected(degrees):
    turn = Rotation.from_euler("Z", degrees, degrees=True).as_matrix()
    assert head_rotation(head(FINE, turn), affine_of(FINE)) == (0, 0)
    affine = affine_of(FINE, Rotation.from_euler("xyz", [20, 3, -8], degrees=True).as_matrix())
    np.testing.assert_allclose(head_axes(head(FINE, turn), affine), affine[:3, :3] / 3, atol=1e-9)


def test_pitch_and_asymmetric_brains_give_no_rotation():
    pitch = Rotation.from_euler("X", 20, degrees=True).as_matrix()
    assert head_rotation(head(FINE, pitch), affine_of(FINE)) == (0, 0)
    half = head(FINE, np.eye(3))
    half[half.shape[0] // 2 :] = False
    assert head_rotation(half, affine_of(FINE)) == (0, 0)
    assert head_rotation(np.ones((9, 9, 9), bool), affine_of(FINE)) == (0, 0)
    wedge = ndimage.rotate(half.astype(float), 25, (0, 1), reshape=False, order=1) > 0.5
    assert head_rotation(wedge, affine_of(FINE)) == (0, 0)


def test_the_axes_of_a_sheared_grid_are_orthogonal():
    affine = affine_of((1.0, 2.0, 5.0))
    np.testing.assert_array_equal(scan_axes(affine), np.diag([-1, -1, 1]))
    # A gantry tilt of 15 degrees.
    affine[1, 2] = 5 * np.tan(np.deg2rad(15))
    axes = scan_axes(affine)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes[:, 0], [-1, 0, 0], atol=1e-12)
    assert axes[2, 2] > np.cos(np.deg2rad(15))
