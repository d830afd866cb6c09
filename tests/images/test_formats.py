"""Scans in all formats, with unusual grids, headers, names and values."""

import gzip
import importlib.util
import os
import shutil
import stat
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.processing import resample_from_to
from scipy import ndimage

from brainseg_tf.errors import InputError
from brainseg_tf.images import formats
from brainseg_tf.images.volume import read_volume, write_map
from brainseg_tf.metrics import dice
from helpers import AFFINE, FAST, as_itk, call, make_brain, save, somebody_else

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


# --- Unusual headers ---


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


# --- Names ---


@pytest.mark.parametrize(
    ("name", "saved_as"),
    [
        ("plain.nii.gz", "s.nii"),
        ("zipped.nii", "s.nii.gz"),
        ("UPPER.NII.GZ", "s.nii.gz"),
        ("Mixed.Nii.Gz", "s.nii"),
        ("UPPER.NII", "s.nii"),
        ("plain.mgz", "s.mgh"),
        ("zipped.mgh", "s.mgz"),
        ("UPPER.MGZ", "s.mgz"),
        ("UPPER.NRRD", "s.nrrd"),
        ("Mixed.Mha", "s.mha"),
    ],
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_file_is_read_by_its_content_not_by_its_name(tmp_path, name, saved_as, dtype):
    data = np.rint(make_brain(4)[0]).astype(dtype)
    path = tmp_path / saved_as
    if path.suffix in (".nrrd", ".mha"):
        as_itk(data, AFFINE, path)
    else:
        nib.save((nib.MGHImage if ".mg" in saved_as else nib.Nifti1Image)(data, AFFINE), path)
    volume = read_volume(path.rename(tmp_path / name))
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.source.affine, AFFINE, atol=1e-4)
    write_map(tmp_path / "mask.nii.gz", volume.data > 400, volume)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj), data > 400)


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


NAMES = {
    "a byte that is not UTF-8": os.fsdecode(b"caf\xe9"),
    "a line feed": "two\nlines",
    "an escape": "red\x1b[31m",
    "255 bytes": "x",
}


@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow such names")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".nrrd", ".mha", ".mhd", ".hdr"])
def test_any_name_is_read(tmp_path, name, suffix):
    data = np.rint(make_brain(4)[0])
    path = tmp_path / f"{NAMES[name]}{suffix}"
    if name == "255 bytes":
        path = tmp_path / f"{'x' * (255 - len(suffix))}{suffix}"
    plain = tmp_path / f"plain{suffix}"
    if suffix in (".nrrd", ".mha", ".mhd"):
        as_itk(data, AFFINE, plain)
    elif suffix == ".hdr":
        nib.save(nib.Nifti1Pair(data, AFFINE), plain)
        plain.with_suffix(".img").rename(path.with_suffix(".img"))
    else:
        nib.save((nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image)(data, AFFINE), plain)
    volume = read_volume(plain.rename(path))
    np.testing.assert_array_equal(volume.data, data)
    # The error message is one printable line.
    path.write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert str(error.value).isprintable()
    str(error.value).encode("utf-8")


# --- Files that cannot be read ---


def test_pipes_sockets_and_devices_are_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "link.nrrd").symlink_to(tmp_path / "pipe.nii.gz")
    (tmp_path / "null.nii").symlink_to("/dev/null")
    nib.save(nib.Nifti1Pair(make_brain(4)[0], AFFINE), tmp_path / "pair.hdr")
    (tmp_path / "pair.img").unlink()
    os.mkfifo(tmp_path / "pair.img")
    for name in ("pipe.nii.gz", "link.nrrd", "null.nii", "pair.hdr"):
        with pytest.raises(InputError, match="is a pipe, a socket or a device"):
            read_volume(tmp_path / name)


def test_missing_files_and_broken_links_are_named(tmp_path):
    (tmp_path / "annexed.nii.gz").symlink_to(tmp_path / "objects" / "MD5E-s1")
    (tmp_path / "file").touch()
    for name, message in (
        ("missing.nii", "no such file"),
        ("annexed.nii.gz", "is a link to a file that does not exist; fetch it"),
        ("file/scan.nii", "no such file"),
        ("nul\0.nii", "cannot be opened"),
        ("x" * 300 + ".nii", "cannot be opened"),
    ):
        with pytest.raises(InputError, match=message):
            read_volume(tmp_path / name)


def test_the_data_file_of_a_meta_image_can_have_any_name(tmp_path):
    data = np.rint(make_brain(4)[0])
    as_itk(data, AFFINE, tmp_path / "s.mhd")
    (tmp_path / "s.raw").rename(tmp_path / "the data = of a.scan")
    header = (tmp_path / "s.mhd").read_text().replace("s.raw", "the data = of a.scan")
    (tmp_path / "s.mhd").write_text(f"Comment = a: b = c\n{header}")
    np.testing.assert_array_equal(read_volume(tmp_path / "s.mhd").data, data)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "s.mhd")), str(tmp_path / "c.mha"), True)
    np.testing.assert_array_equal(read_volume(tmp_path / "c.mha").data, data)


@pytest.mark.parametrize("what", ["cut off", "without data", "text", "no dimensions", "too few sizes", "strange type"])
def test_a_damaged_meta_image_is_one_line_without_itk_messages(tmp_path, capfd, what):
    path = as_itk(make_brain(4)[0], AFFINE, tmp_path / "s.mhd")
    if what == "cut off":
        (tmp_path / "s.raw").write_bytes((tmp_path / "s.raw").read_bytes()[:-1])
    elif what == "without data":
        (tmp_path / "s.raw").unlink()
    elif what == "text":
        path.write_text("this is no image")
    else:
        header = path.read_text()
        changes = {
            "no dimensions": ("NDims = 3\n", ""),
            "too few sizes": ("DimSize = 43 47", "DimSize = 43"),
            "strange type": ("MET_FLOAT", "MET_F"),
        }
        assert changes[what][0] in header
        path.write_text(header.replace(*changes[what]))
    with pytest.raises(InputError, match="s.mhd: is damaged or cut off"):
        read_volume(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_unreadable_files_are_reported(open_folder):
    data = make_brain(4)[0]
    for name in ("a.nii", "b.nii.gz", "c.mgz"):
        nib.save((nib.MGHImage if name == "c.mgz" else nib.Nifti1Image)(data, AFFINE), open_folder / name)
    as_itk(data, AFFINE, open_folder / "d.nrrd")
    for file in list(open_folder.iterdir()):
        file.chmod(0)
    (open_folder / "folder").mkdir()
    (open_folder / "folder" / "scan.nii").touch()
    (open_folder / "folder").chmod(0)
    assert stat.S_IMODE((open_folder / "a.nii").stat().st_mode) == 0
    with somebody_else(open_folder):
        for name in ("a.nii", "b.nii.gz", "c.mgz", "d.nrrd", "folder", "folder/scan.nii"):
            with pytest.raises(InputError, match="no permission to read it; change its permissions"):
                read_volume(open_folder / name)


@pytest.mark.parametrize(
    "fault", [RuntimeError("of\nthe library"), RecursionError(), AttributeError("_x"), SystemError()]
)
def test_any_exception_of_a_reader_is_one_line(tmp_path, monkeypatch, fault):
    def fail(*args, **kwargs):
        raise fault

    data = make_brain(4)[0]
    nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "s.nii.gz")
    nib.save(nib.MGHImage(data, AFFINE), tmp_path / "s.mgz")
    as_itk(data, AFFINE, tmp_path / "s.nrrd")
    monkeypatch.setattr(formats, "ArrayProxy", fail)
    monkeypatch.setattr(nib, "load", fail)
    monkeypatch.setattr(SimpleITK.ImageFileReader, "Execute", fail)
    for name in ("s.nii.gz", "s.mgz", "s.nrrd"):
        with pytest.raises(InputError) as error:
            read_volume(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_a_memory_error_is_not_reported_as_a_damaged_file(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    nib.save(nib.Nifti1Image(make_brain(4)[0], AFFINE), tmp_path / "s.nii.gz")
    monkeypatch.setattr(formats, "ArrayProxy", fail)
    with pytest.raises(MemoryError):
        read_volume(tmp_path / "s.nii.gz")


def test_log_messages_of_nibabel_are_not_printed(tmp_path, integer_scan, capfd):
    path, _ = integer_scan
    rewrite(path, 76, struct.pack("<f", 0.3))  # pixdim[0], which nibabel corrects with a log message
    read_volume(path)
    rewrite(path, 80, struct.pack("<f", -4))
    read_volume(path)
    assert capfd.readouterr().err == ""


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
