"""Scans as people have them: other formats, odd grids, odd numbers."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.processing import resample_from_to
from scipy import ndimage
from test_cli import FAST, call, fails

from brainseg_tf import formats
from brainseg_tf.errors import InputError
from brainseg_tf.metrics import dice
from brainseg_tf.volume import read_volume, write_map
from conftest import AFFINE, make_brain, save

TILTED = AFFINE.copy()
TILTED[:3, :3] = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]]) @ AFFINE[:3, :3]


def as_itk(data, affine, path):
    """Writes with SimpleITK what nibabel would call (data, affine)."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(data.T))
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:, 3].tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("name", ["s.mgz", "s.nrrd", "s.mha", "s.mhd", "s.nii", "s.hdr"])
def test_every_format_is_read_where_it_lies(tmp_path, name):
    data, _ = make_brain(4)
    path = tmp_path / name
    if name.endswith((".nrrd", ".mha", ".mhd")):
        as_itk(data, TILTED, path)
    elif name.endswith(".mgz"):
        nib.save(nib.MGHImage(data, TILTED), path)
    elif name.endswith(".hdr"):
        nib.save(nib.Nifti1Pair(data, TILTED), path)
    else:
        nib.save(nib.Nifti1Image(data, TILTED), path)
    volume = read_volume(path)
    expected = read_volume(save(data, tmp_path / "expected.nii.gz", TILTED))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-3)
    np.testing.assert_allclose(volume.data, expected.data, rtol=1e-6)
    assert volume.doubts == ()
    write_map(tmp_path / "mask.nii.gz", volume.data > 400, volume)
    back = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(back.affine, TILTED, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(back.dataobj), data > 400)
    assert formats.stem(path) == "s"


def test_analyze_says_that_its_sides_are_a_guess(tmp_path):
    data, _ = make_brain(4)
    nib.save(nib.AnalyzeImage(data, np.diag([-4, 4.2, 5, 1])), tmp_path / "s.img")
    volume = read_volume(tmp_path / "s.img")
    assert "does not say left from right" in volume.doubts[0]
    np.testing.assert_array_equal(volume.data, data[:, ::-1])


def test_forms_that_disagree_are_said(tmp_path):
    data, _ = make_brain(4)
    image = nib.Nifti1Image(data, AFFINE)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "agree.nii.gz")
    assert read_volume(tmp_path / "agree.nii.gz").doubts == ()
    other = AFFINE.copy()
    other[2, 3] += 12
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "disagree.nii.gz")
    volume = read_volume(tmp_path / "disagree.nii.gz")
    assert "sform and qform lie 12 mm apart; the sform is used" in volume.doubts[0]
    np.testing.assert_allclose(volume.source.affine, AFFINE)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "none.nii.gz")
    assert "neither sform nor qform" in read_volume(tmp_path / "none.nii.gz").doubts[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.nrrd", "damaged or cut off"),
        ("text.mha", "damaged or cut off"),
        ("vectors.mha", "colours or vectors"),
        ("flat.nrrd", "one 3D volume is needed"),
        ("huge.nhdr", "which no brain scan has"),
        ("surface.gii", "holds no volume"),
        ("folder", "folder without DICOM slices"),
    ],
)
def test_unusable_files_of_other_formats_are_named(tmp_path, name, message):
    path = tmp_path / name
    data = make_brain(4)[0]
    if name == "cut.nrrd":
        as_itk(data, AFFINE, path)
        path.write_bytes(path.read_bytes()[:3000])
    elif name == "text.mha":
        path.write_text("this is no image")
    elif name == "vectors.mha":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 4, 4, 3)), isVector=True), str(path))
    elif name == "flat.nrrd":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(data[0]), str(path))
    elif name == "huge.nhdr":
        (tmp_path / "huge.raw").write_bytes(b"0" * 100)
        path.write_text(
            "NRRD0004\ntype: float\ndimension: 3\nsizes: 30000 30000 30000\nencoding: raw\n"
            "endian: little\ndata file: huge.raw\n"
        )
    elif name == "surface.gii":
        nib.save(nib.GiftiImage(), path)
    else:
        path.mkdir()
    with pytest.raises(InputError, match=message) as error:
        read_volume(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("package", "name"), [("SimpleITK", "s.nrrd"), ("highdicom", "series")])
def test_without_the_extra_its_formats_are_refused(tmp_path, monkeypatch, package, name):
    path = tmp_path / name
    if name == "series":
        path.mkdir()
        (path / "1.dcm").write_bytes(bytes(128) + b"DICM")
    else:
        path.write_text("NRRD0004")
    found = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda one: None if one == package else found(one))
    error = fails(call("predict", path, "--out", tmp_path / "m.nii.gz"))
    assert f"{package}; pip install 'brainseg-tf[formats]'" in error
    assert not (tmp_path / "m.nii.gz").exists()


@pytest.fixture(scope="module")
def original(trained, tmp_path_factory):
    """A scan with a large lesion, since its voxels are large, and the mask of it."""
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
def test_how_the_numbers_are_stored_changes_nothing(original, trained, tmp_path, how):
    scan, mask = original
    nib.save(STORED[how](scan.get_fdata(dtype=np.float32)), tmp_path / "scan.nii.gz")
    found = predicted(tmp_path / "scan.nii.gz", trained, tmp_path)
    assert dice(found.get_fdata() > 0, mask.get_fdata() > 0) > 0.999


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_rounded_numbers_with_slope_change_next_to_nothing(original, trained, tmp_path, dtype):
    scan, mask = original
    image = nib.Nifti1Image(scan.get_fdata(), AFFINE)
    image.set_data_dtype(dtype)
    image.header.set_slope_inter(0.05, 0)
    nib.save(image, tmp_path / "scan.nii.gz")
    found = predicted(tmp_path / "scan.nii.gz", trained, tmp_path)
    assert dice(found.get_fdata() > 0, mask.get_fdata() > 0) > 0.97


# Voxel sizes in mm, and a tilt: thick slices, fine pixels, oblique and sagittal acquisitions.
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
    """Of one anatomy, known at every point: what a scanner would have sampled on that grid."""
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
    # As after skull stripping: what is hardly brain is background.
    brain = nib.Nifti1Image((scan.get_fdata() > 0).astype(np.float32), scan.affine)
    inside = resample_from_to(brain, (shape, affine), order=1).get_fdata() > 0.5
    nib.save(nib.Nifti1Image(np.where(inside, other.get_fdata(dtype=np.float32), 0), affine), tmp_path / "scan.nii.gz")
    found = predicted(tmp_path / "scan.nii.gz", trained, tmp_path)
    expected = nib.Nifti1Image(mask.get_fdata(dtype=np.float32), mask.affine)
    there = resample_from_to(expected, (shape, affine), order=1).get_fdata() > 0.5
    assert dice(found.get_fdata() > 0, there) > 0.9


def test_a_folder_takes_scans_of_several_formats(trained, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    data, _ = make_brain(2)
    save(data, folder / "a.nii.gz")
    nib.save(nib.MGHImage(data, AFFINE), folder / "b.mgz")
    as_itk(data, AFFINE, folder / "c.nrrd")
    (folder / "notes.txt").write_text("not a scan")
    out = tmp_path / "out"
    result = call("predict", folder, "--out-dir", out, "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    masks = [nib.load(out / f"{name}_mask.nii.gz").get_fdata() for name in "abc"]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    shutil.rmtree(out)
