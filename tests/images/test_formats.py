"""Scans in all formats, with unusual grids, headers, names and values."""

import gzip
import importlib.util
import shutil
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from brainseg_tf.errors import InputError
from brainseg_tf.images import formats
from brainseg_tf.images.maps import write_map
from brainseg_tf.images.volume import read_volume
from helpers import AFFINE, FAST, as_itk, call, make_brain, save

TILTED = AFFINE.copy()


TILTED[:3, :3] = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]]) @ AFFINE[:3, :3]


@pytest.mark.parametrize("name", ["s.mgz", "s.nrrd", "s.mha", "s.mhd", "s.nii", "s.hdr"])
def test_every_format_has_the_same_values_and_position(tmp_path, name):
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
    assert volume.warnings == ()
    write_map(tmp_path / "mask.nii.gz", volume.data > 400, volume)
    back = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(back.affine, TILTED, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(back.dataobj), data > 400)
    assert formats.stem(path) == "s"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_a_fourth_dimension_with_one_frame_changes_nothing(tmp_path, suffix):
    data, _ = make_brain(4)
    as_itk(data, TILTED, tmp_path / f"three{suffix}")
    three = SimpleITK.ReadImage(str(tmp_path / f"three{suffix}"))
    SimpleITK.WriteImage(SimpleITK.JoinSeries([three]), str(tmp_path / f"four{suffix}"))
    expected, volume = (read_volume(tmp_path / f"{name}{suffix}") for name in ("three", "four"))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(volume.data, expected.data)


def test_a_single_slice_is_named_as_one(tmp_path):
    image = nib.Nifti1Image(np.ones((40, 40), np.float32), AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "slice.nii")
    with pytest.raises(InputError, match=r"has shape \(40, 40\); one 3D volume is needed"):
        read_volume(tmp_path / "slice.nii")


def test_analyze_gives_a_warning_about_left_and_right(tmp_path):
    data, _ = make_brain(4)
    nib.save(nib.AnalyzeImage(data, np.diag([-4, 4.2, 5, 1])), tmp_path / "s.img")
    volume = read_volume(tmp_path / "s.img")
    assert "Analyze format does not store which side is left" in volume.warnings[0]
    np.testing.assert_array_equal(volume.data, data[:, ::-1])


def test_sform_and_qform_that_disagree_give_a_warning(tmp_path):
    data, _ = make_brain(4)
    image = nib.Nifti1Image(data, AFFINE)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "agree.nii.gz")
    assert read_volume(tmp_path / "agree.nii.gz").warnings == ()
    other = AFFINE.copy()
    other[2, 3] += 12
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "disagree.nii.gz")
    volume = read_volume(tmp_path / "disagree.nii.gz")
    assert "sform and qform differ by 12 mm; the sform is used" in volume.warnings[0]
    np.testing.assert_allclose(volume.source.affine, AFFINE)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "none.nii.gz")
    assert "neither sform nor qform" in read_volume(tmp_path / "none.nii.gz").warnings[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.nrrd", "damaged or cut off"),
        ("text.mha", "damaged or cut off"),
        ("vectors.mha", "colours or vectors"),
        ("flat.nrrd", "one 3D volume is needed"),
        ("huge.nhdr", "which no brain scan has"),
        ("surface.gii", "contains no volume"),
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
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda one: None if one == package else found(one))
    with pytest.raises(InputError, match=rf"{package}; pip install 'brainseg-tf\[formats\]'"):
        read_volume(path)


def rewrite(path, offset, content):
    """Replaces bytes in the header of an uncompressed file."""
    changed = bytearray(path.read_bytes())
    changed[offset : offset + len(content)] = content
    path.write_bytes(changed)
    return path


@pytest.fixture
def integer_scan(tmp_path):
    """A scan with integer values, and these values in LPS."""
    data = np.rint(make_brain(4)[0]).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=1)
    nib.save(image, tmp_path / "s.nii")
    return tmp_path / "s.nii", data


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("slope", "offset", "expected"),
    [
        (2, 5, lambda data: 2.0 * data + 5),
        (0, 5, lambda data: data),
        (0, INF, lambda data: data),
        (1, NAN, lambda data: data),
        (2, NAN, lambda data: data),
        (NAN, NAN, lambda data: data),
        (NAN, 5, lambda data: data),
        (INF, 0, None),
        (-INF, 0, None),
        (1, INF, None),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
def test_a_scaling_that_is_not_a_number_is_ignored(tmp_path, integer_scan, slope, offset, expected, suffix):
    path, data = integer_scan
    if suffix == ".img":
        nib.save(nib.Nifti1Pair(data, AFFINE), tmp_path / "s.img")
        path = tmp_path / "s.img"
    # Bytes 112 to 120 are scl_slope and scl_inter.
    rewrite(path.with_suffix(".hdr") if suffix == ".img" else path, 112, struct.pack("<ff", slope, offset))
    if suffix == ".nii.gz":
        path = path.rename(tmp_path / "s.nii.gz")
        path.write_bytes(gzip.compress(path.read_bytes()))
    if expected is None:
        with pytest.raises(InputError, match=r"scaling \(scl_slope, scl_inter\) is infinite; set it to 1 and 0"):
            read_volume(path)
        return
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, expected(data))
    assert len(volume.warnings) == (slope == 2 and offset != 5)


def test_the_qform_is_used_if_there_is_no_valid_sform(tmp_path, integer_scan):
    path, data = integer_scan
    for rows in (np.zeros(12), np.full(12, np.nan), np.tile([1, 0, 0, 0], 3)):
        rewrite(path, 280, np.asarray(rows, "<f4").tobytes())
        volume = read_volume(path)
        assert [one.partition(": ")[2] for one in volume.warnings] == [
            "the sform is not a valid orientation; the qform is used"
        ]
        np.testing.assert_allclose(volume.source.affine, AFFINE, atol=1e-4)
        np.testing.assert_array_equal(volume.data, data)
        write_map(tmp_path / "mask.nii", volume.data > 500, volume)
        mask = nib.load(tmp_path / "mask.nii")
        np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-4)
        assert (mask.header["qform_code"], mask.header["sform_code"]) == (1, 0)


def test_an_invalid_qform_is_replaced_by_the_sform(integer_scan):
    path, data = integer_scan
    rewrite(path, 256, struct.pack("<fff", 3, 3, 3))  # not a unit quaternion
    volume = read_volume(path)
    assert [one.partition(": ")[2] for one in volume.warnings] == [
        "the qform is not a valid orientation; the sform is used"
    ]
    np.testing.assert_allclose(volume.source.affine, AFFINE)
    np.testing.assert_array_equal(volume.data, data)


def test_without_valid_sform_and_qform_the_scan_is_refused(integer_scan):
    path, _ = integer_scan
    rewrite(path, 256, struct.pack("<fff", 3, 3, 3))
    rewrite(path, 280, bytes(48))
    with pytest.raises(InputError, match="no usable orientation|not a readable NIfTI file"):
        read_volume(path)


def test_the_scaling_is_applied_to_gzip_without_gzip_suffix(tmp_path, integer_scan):
    path, data = integer_scan
    rewrite(path, 112, struct.pack("<ff", 0.5, 3))
    path.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_volume(path).data, 0.5 * data + 3)


def test_truncated_gzip_without_gzip_suffix_is_refused(tmp_path, integer_scan):
    path, _ = integer_scan
    path.write_bytes(gzip.compress(path.read_bytes())[:-300])
    with pytest.raises(InputError, match="not a readable NIfTI file|damaged or cut off"):
        read_volume(path)


def test_log_messages_of_nibabel_are_not_printed(tmp_path, integer_scan, capfd):
    path, _ = integer_scan
    rewrite(path, 76, struct.pack("<f", 0.3))  # pixdim[0], which nibabel corrects with a log message
    read_volume(path)
    rewrite(path, 80, struct.pack("<f", -4))
    read_volume(path)
    assert capfd.readouterr().err == ""


def test_a_folder_can_contain_scans_of_several_formats(trained, tmp_path):
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
