"""Names of scans, and files that cannot be read."""

import os
import stat

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from brainseg_tf.errors import InputError
from brainseg_tf.images import formats
from brainseg_tf.images.maps import write_map
from brainseg_tf.images.volume import read_volume
from helpers import AFFINE, as_itk, make_brain, somebody_else


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


def test_the_missing_data_file_of_a_meta_image_is_named(tmp_path):
    as_itk(make_brain(4)[0], AFFINE, tmp_path / "s.mhd")
    (tmp_path / "s.raw").unlink()
    with pytest.raises(InputError, match=r"s.mhd: s.raw, which has its voxels, is missing; restore it"):
        read_volume(tmp_path / "s.mhd")


def test_the_voxels_of_a_pair_are_no_dicom_file(tmp_path):
    """The first voxels look like the start of a DICOM data set without a preamble."""
    data = np.rint(make_brain(4)[0]).astype("<i2")
    data[:4, 0, 0] = 8, 5, 3, 0
    nib.save(nib.Nifti1Pair(data, AFFINE), tmp_path / "s.img")
    for name in ("s.img", "s.hdr"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, data)


def test_the_data_file_of_a_meta_image_can_have_any_name(tmp_path):
    data = np.rint(make_brain(4)[0])
    as_itk(data, AFFINE, tmp_path / "s.mhd")
    (tmp_path / "s.raw").rename(tmp_path / "the data = of a.scan")
    header = (tmp_path / "s.mhd").read_text().replace("s.raw", "the data = of a.scan")
    (tmp_path / "s.mhd").write_text(f"Comment = a: b = c\n{header}")
    np.testing.assert_array_equal(read_volume(tmp_path / "s.mhd").data, data)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "s.mhd")), str(tmp_path / "c.mha"), True)
    np.testing.assert_array_equal(read_volume(tmp_path / "c.mha").data, data)


@pytest.mark.parametrize("what", ["cut off", "text", "no dimensions", "too few sizes", "strange type"])
def test_a_damaged_meta_image_is_one_line_without_itk_messages(tmp_path, capfd, what):
    path = as_itk(make_brain(4)[0], AFFINE, tmp_path / "s.mhd")
    if what == "cut off":
        (tmp_path / "s.raw").write_bytes((tmp_path / "s.raw").read_bytes()[:-1])
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
