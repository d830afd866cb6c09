"""The files in the folder of a DICOM series."""

import os
import shutil

import pydicom
import pytest
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    SegmentationStorage,
    generate_uid,
)

from brainseg_tf.errors import InputError
from brainseg_tf.images.dicom import is_series
from brainseg_tf.images.volume import read_volume
from helpers import AFFINE, somebody_else
from synthetic_dicom import (
    COUNT,
    DATA,
    check_read,
    edit,
    first,
    refused,
    slice_of,
    write_series,
)


@pytest.fixture
def folder(tmp_path):
    return write_series(tmp_path / "series", DATA, AFFINE)


def strip_preamble(file, meta=True):
    content = file.read_bytes()[132:]
    if not meta:
        content = content[12 + int.from_bytes(content[8:12], "little") :]
    file.write_bytes(content)


def apple_double(file):
    file.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200))


def dicomdir(folder, file, in_data_set):
    """Writes a DICOMDIR; its SOP Class UID is in the file meta information, and in the data set if asked for."""
    one = pydicom.dcmread(first(folder), stop_before_pixels=True)
    one.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    for name in ("Rows", "Columns", "SeriesInstanceUID", "SOPInstanceUID"):
        delattr(one, name)
    one.SOPClassUID = MediaStorageDirectoryStorage
    if not in_data_set:
        del one.SOPClassUID
    one.save_as(file)


def test_hidden_files_directories_and_notes_are_passed_over(folder, tmp_path):
    for file in list(folder.iterdir()):
        apple_double(folder / f"._{file.name}")
    for k in range(60):
        apple_double(folder / f"._{k}.dcm")
    dicomdir(folder, folder / "DICOMDIR", in_data_set=False)
    dicomdir(folder, folder / "other", in_data_set=True)
    (folder / ".DS_Store").write_bytes(bytes(300))
    (folder / "notes.txt").write_text("lesion in the left hemisphere " * 10)
    (folder / "Thumbs.db").touch()
    (folder / "subfolder").mkdir()
    os.mkfifo(folder / "pipe")
    report = pydicom.dcmread(first(folder), stop_before_pixels=True)
    report.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.88.11")
    for name in ("Rows", "Columns"):
        delattr(report, name)
    report.SeriesInstanceUID, report.Modality = generate_uid(), "SR"
    report.save_as(folder / "report.dcm")
    edit(first(folder), folder / "seg.dcm", SOPClassUID=SegmentationStorage, Modality="SEG", SeriesInstanceUID="1.2.3")
    assert is_series(folder)
    check_read(folder)
    ignored = tmp_path / "ignored"
    ignored.mkdir()
    for name in ("._1.dcm", "DICOMDIR", "other", ".DS_Store", "notes.txt", "report.dcm", "seg.dcm"):
        shutil.copy(folder / name, ignored)
    assert not is_series(ignored)
    refused(ignored, "is a folder without DICOM slices")


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("which", [range(COUNT), range(COUNT - 8, COUNT), [0]])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_slices_without_preamble_are_read(folder, meta, which, syntax):
    for k in which:
        file = slice_of(folder, k)
        if syntax != ExplicitVRLittleEndian:
            one = pydicom.dcmread(file)
            if syntax == ExplicitVRBigEndian:
                one.PixelData = one.pixel_array.byteswap().tobytes()
            one.file_meta.TransferSyntaxUID = syntax
            pydicom.dcmwrite(
                file,
                one,
                implicit_vr=syntax.is_implicit_VR,
                little_endian=syntax.is_little_endian,
                enforce_file_format=True,
            )
        strip_preamble(file, meta)
    assert is_series(folder)
    check_read(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00\x05\x00CS" + bytes(500),
        b"\x02\x00\x00\x00UL\x04\x00" + bytes(500),
        b"\x08\x00\x08\x00\x10\x00\x00\x00" + b"x" * 500,
        b"\x08\x00",
        b"",
    ],
)
def test_files_that_only_start_like_dicom_are_ignored(tmp_path, folder, content):
    place = tmp_path / "binary"
    place.mkdir()
    (place / "data").write_bytes(content)
    assert not is_series(place)
    (folder / "data").write_bytes(content)
    check_read(folder)


def test_a_series_is_found_among_thousands_of_other_files(folder):
    for k in range(3000):
        (folder / f"{k:05}.json").write_bytes(b"{}")
    assert is_series(folder)
    for file in folder.glob("*.dcm"):
        file.unlink()
    assert not is_series(folder)
    assert not is_series(folder / "missing")


@pytest.mark.parametrize("name", ["MR..{}.IMA", ".hidden{}", "IM{}", "1.2.840.{}"])
def test_slices_may_have_any_name(folder, name):
    for k, file in enumerate(list(folder.iterdir())):
        file.rename(folder / name.format(k))
    assert is_series(folder)
    check_read(folder)


def damage(file, what):
    """Damages a slice; "early", "late" and "pixels" truncate it at that position."""
    if what == "empty":
        file.write_bytes(b"")
    elif what == "zeros":
        file.write_bytes(bytes(file.stat().st_size))
    elif what == "text":
        file.write_text("<html>Access denied</html>" * 20)
    elif what == "broken link":
        file.unlink()
        file.symlink_to(file.with_name("gone"))
    else:
        file.write_bytes(file.read_bytes()[: {"early": 250, "late": 1500, "pixels": -100}[what]])


@pytest.mark.parametrize("name", ["{}.dcm", "IM{}"])
@pytest.mark.parametrize("what", ["empty", "zeros", "text", "broken link", "early", "late", "pixels"])
def test_a_damaged_slice_is_named_also_at_the_end_of_the_stack(folder, what, name):
    files = [slice_of(folder, k) for k in range(COUNT)]
    for k, file in enumerate(files):
        file.rename(folder / name.format(k))
    damage(folder / name.format(COUNT - 1), what)
    message = refused(folder, "named like the slices|damaged or cut off|is a link to a file that does not exist")
    assert name.format(COUNT - 1) in message


def test_a_series_of_broken_links_is_refused_as_a_series(tmp_path):
    (tmp_path / "1.dcm").symlink_to(tmp_path / "annex" / "1")
    assert is_series(tmp_path)
    refused(tmp_path, "1.dcm: is a link to a file that does not exist; fetch it")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_unreadable_slices_are_reported(open_folder):
    place = write_series(open_folder / "series", DATA, AFFINE)
    read_volume(place)  # Imports highdicom before the user is changed.
    file = slice_of(place, 3)
    file.chmod(0)
    with somebody_else(place):
        assert is_series(place)
        message = refused(place, r"cannot be read \(Permission denied\); change its permissions")
        assert file.name in message
    for one in place.iterdir():
        one.chmod(0)
    with somebody_else(place):
        assert is_series(place)
        refused(place, "Permission denied")
    place.chmod(0)
    with somebody_else(place):
        assert not is_series(place)
        refused(place, "no permission to read it")


def test_a_folder_with_bytes_that_are_not_utf8_is_read(folder):
    renamed = folder.rename(folder.with_name(os.fsdecode(b"caf\xe9\n")))
    shutil.copy(slice_of(renamed, 5), renamed / os.fsdecode(b"copy\xe9.dcm"))
    check_read(renamed, "caf\\xe9\\n: 1 file is a copy of another file and is not used")
    damage(slice_of(renamed, 5), "pixels")
    with pytest.raises(InputError) as error:
        read_volume(renamed)
    assert str(error.value).isprintable()
