"""The mask does not depend on how a scan is stored, on its orientation and on its grid."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy import ndimage

from brainseg_tf.metrics import dice
from helpers import AFFINE, FAST, call, make_brain, save


@pytest.fixture(scope="module")
def original(trained, tmp_path_factory):
    """A scan with a lesion, enlarged because the voxels are large, and the predicted mask."""
    folder = tmp_path_factory.mktemp("original")
    data, truth = make_brain(101)
    larger = ndimage.binary_dilation(truth, iterations=3) & (data > 0)
    scan = save(np.where(larger, data[truth].mean(), data), folder / "scan.nii.gz")
    assert call("predict", scan, "--out", folder / "mask.nii.gz", "--model", trained, *FAST).exit_code == 0
    mask = nib.load(folder / "mask.nii.gz")
    assert mask.get_fdata().sum() > 100
    return nib.load(scan), mask


def predicted(path, trained, folder):
    result = call("predict", path, "--out", folder / "m.nii.gz", "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    mask = nib.load(folder / "m.nii.gz")
    assert mask.shape == nib.load(path).shape[:3]
    np.testing.assert_allclose(mask.affine, nib.load(path).affine, atol=1e-5)
    return nib.Nifti1Image(mask.get_fdata(dtype=np.float32), mask.affine)


TURNS = {
    "left-handed": [[0, -1], [1, 1], [2, 1]],
    "sagittal": [[1, 1], [2, -1], [0, 1]],
    "coronal, upside down": [[0, 1], [2, -1], [1, -1]],
    "all turned": [[2, -1], [0, -1], [1, -1]],
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_flipped_or_permuted_scan_gets_the_same_mask(original, trained, tmp_path, turn):
    scan, mask = (image.as_reoriented(np.array(TURNS[turn])) for image in original)
    nib.save(scan, tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(predicted(tmp_path / "scan.nii.gz", trained, tmp_path).get_fdata(), mask.get_fdata())


STORED = {
    "big-endian": lambda data: nib.Nifti1Image(data.astype(">f4"), AFFINE, nib.Nifti1Header(endianness=">")),
    "float64": lambda data: nib.Nifti1Image(data.astype(np.float64), AFFINE),
    "one frame": lambda data: nib.Nifti1Image(data[..., None], AFFINE),
    "scaled": lambda data: nib.Nifti1Image(data / 1e6, AFFINE),
    "negative": lambda data: nib.Nifti1Image(data - 1000, AFFINE),
    "nifti2": lambda data: nib.Nifti2Image(data, AFFINE),
}


@pytest.mark.parametrize("how", STORED)
def test_the_storage_format_does_not_change_the_mask(original, trained, tmp_path, how):
    scan, mask = original
    nib.save(STORED[how](scan.get_fdata(dtype=np.float32)), tmp_path / "scan.nii.gz")
    found = predicted(tmp_path / "scan.nii.gz", trained, tmp_path)
    assert dice(found.get_fdata() > 0, mask.get_fdata() > 0) > 0.999


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_integers_with_a_slope_give_nearly_the_same_mask(original, trained, tmp_path, dtype):
    scan, mask = original
    image = nib.Nifti1Image(scan.get_fdata(), AFFINE)
    image.set_data_dtype(dtype)
    image.header.set_slope_inter(0.05, 0)
    nib.save(image, tmp_path / "scan.nii.gz")
    found = predicted(tmp_path / "scan.nii.gz", trained, tmp_path)
    assert dice(found.get_fdata() > 0, mask.get_fdata() > 0) > 0.97


# Voxel sizes in mm, tilt in radians and order of the axes.
GRIDS = {
    "thick slices": ((1.0, 1.0, 6.0), 0.0, (0, 1, 2)),
    "fine pixels": ((0.4, 0.4, 6.0), 0.0, (0, 1, 2)),
    "isotropic": ((2.0, 2.0, 2.0), 0.0, (0, 1, 2)),
    "64 pixels": ((3.6, 3.6, 4.0), 0.0, (0, 1, 2)),
    "oblique": ((2.0, 2.0, 3.0), 0.35, (0, 1, 2)),
    "sagittal": ((1.0, 1.0, 5.0), 0.0, (1, 2, 0)),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_another_grid_gets_the_same_lesion(original, trained, tmp_path, grid):
    """The scan and its mask are resampled to another grid; the new mask is compared with the resampled one."""
    sizes, tilt, order = GRIDS[grid]
    scan, mask = original
    cos, sin = np.cos(tilt), np.sin(tilt)
    axes = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])[:, order] * sizes
    corners = nib.affines.apply_affine(
        np.linalg.inv(np.vstack([np.c_[axes, np.zeros(3)], [0, 0, 0, 1]])) @ scan.affine,
        np.array(np.meshgrid(*[(0, n - 1) for n in scan.shape])).reshape(3, -1).T,
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, axes @ low
    shape = tuple(np.ceil(high - low).astype(int) + 1)
    other = resample_from_to(scan, (shape, affine), order=1)
    # As after skull stripping: voxels with less than half brain are background.
    brain = nib.Nifti1Image((scan.get_fdata() > 0).astype(np.float32), scan.affine)
    inside = resample_from_to(brain, (shape, affine), order=1).get_fdata() > 0.5
    nib.save(nib.Nifti1Image(np.where(inside, other.get_fdata(dtype=np.float32), 0), affine), tmp_path / "scan.nii.gz")
    found = predicted(tmp_path / "scan.nii.gz", trained, tmp_path)
    expected = nib.Nifti1Image(mask.get_fdata(dtype=np.float32), mask.affine)
    resampled = resample_from_to(expected, (shape, affine), order=1).get_fdata() > 0.5
    assert dice(found.get_fdata() > 0, resampled) > 0.9
