"""Masks and further scans on the grid of a scan, with its axes or with others."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import (
    check_same_grid,
    has_same_grid,
    read_mask,
    read_segmentation,
    read_volume,
)
from helpers import AFFINE, make_brain

# Voxels of 1 ml, so that a small array has the size of a head.
LARGE = np.diag([10.0, 10, 10, 1])


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAR", "PIR"])
def test_a_mask_can_be_stored_with_other_axes_than_its_scan(tmp_path, axes):
    """As a mask of dcm2niix's conversion of a DICOM series, or one that a viewer has saved as RAS."""
    data = make_brain(1)[0]
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", [9, -7, 12], degrees=True).as_matrix()
    image = nib.Nifti1Image(data, tilt @ AFFINE)
    nib.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
    other = nib.Nifti1Image((data > 500).astype(np.uint8), image.affine).as_reoriented(change)
    nib.save(other, tmp_path / "mask.nii")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii", volume), volume.data > 500)
    nib.save(image.as_reoriented(change), tmp_path / "second.nii")
    second = read_volume(tmp_path / "second.nii")
    assert has_same_grid(second, volume)
    np.testing.assert_array_equal(second.data, volume.data)
    # Another grid with the same shape is still one.
    moved = other.affine.copy()
    moved[0, 3] += 2
    nib.save(nib.Nifti1Image(np.asarray(other.dataobj), moved), tmp_path / "moved.nii")
    with pytest.raises(InputError, match="lies on another grid"):
        read_mask(tmp_path / "moved.nii", volume)


def test_a_mask_without_an_orientation_is_on_another_grid(tmp_path):
    nib.save(nib.Nifti1Image(make_brain(1)[0], AFFINE), tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    for value in (0.0, np.inf):
        header = nib.Nifti1Header()
        header["sform_code"] = 1
        header["srow_x"], header["srow_y"], header["srow_z"] = [value, 0, 0, 0], [0, 4, 0, 0], [0, 0, 5, 0]
        nib.save(nib.Nifti1Image(np.ones(volume.source.shape, np.uint8), None, header), tmp_path / "mask.nii")
        with np.errstate(invalid="ignore"), pytest.raises(InputError, match="lies on another grid"):
            read_mask(tmp_path / "mask.nii", volume)


def test_a_mask_has_the_axes_of_its_scan_at_45_degrees(tmp_path):
    """There the nearest axes depend on the rounding of sform and qform, which store one affine differently."""
    random = np.random.default_rng(0)
    data, mask = random.uniform(1, 9, (24, 24, 12)).astype(np.float32), random.random((24, 24, 12)) > 0.5
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix() @ np.diag([-8.0, 8, 10])
    affine[:3, 3] = (0, 100, -50)
    scan = nib.Nifti1Image(data, affine)
    scan.set_sform(affine, 1)
    nib.save(scan, tmp_path / "scan.nii")
    other = nib.Nifti1Image(mask.astype(np.uint8), affine)
    other.set_qform(affine, 1)
    other.set_sform(None, 0)
    nib.save(other, tmp_path / "mask.nii")
    volume = read_volume(tmp_path / "scan.nii")
    found = read_segmentation(tmp_path / "mask.nii", volume)
    np.testing.assert_array_equal(np.sort(volume.data[found]), np.sort(data[mask]))
    nib.save(nib.Nifti1Image(data, other.affine, other.header), tmp_path / "further.nii")
    further = read_volume(tmp_path / "further.nii")
    assert not np.allclose(further.affine, volume.affine, atol=1)
    with pytest.raises(InputError, match=r"further\.nii: its axes are between two directions, and are not those of"):
        check_same_grid(further, volume)
