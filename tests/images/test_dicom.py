"""Reading of DICOM series and writing of DICOM segmentations."""

import json
import os
import shutil
import warnings
from datetime import date

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    RLELossless,
    SegmentationStorage,
    generate_uid,
)

from brainseg_tf.errors import InputError
from brainseg_tf.images.dicom import acquisition_date, check_segmentation, is_series
from brainseg_tf.images.volume import read_volume, write_dicom
from helpers import AFFINE, FAST, call, fails, make_brain, save, somebody_else

MISSING = object()


def write_series(folder, data, affine, series=None, **changes):
    """Writes a series like a scanner's: unsorted file names, LPS positions, integers with a rescale slope.

    Args:
        folder: for the files.
        data: (X, Y, Z), the values.
        affine: (4, 4), to RAS world space.
        series: the Series Instance UID; a new one if None.
        **changes: values of attributes, or functions of the slice's index; ``MISSING`` deletes an attribute.
    """
    folder.mkdir(exist_ok=True)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    step = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = generate_uid(), series or generate_uid(), generate_uid()
    for k in range(data.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "DOE^JOHN", "4711", "19700101", "O"
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.StudyID, one.SeriesNumber, one.InstanceNumber, one.AccessionNumber = "1", 3, k + 1, ""
        one.StudyDate, one.StudyTime, one.ReferringPhysicianName = "20260101", "120000", ""
        one.Modality, one.Manufacturer = "MR", "none"
        one.ContentDate, one.ContentTime = "20260101", "120000"
        one.Rows, one.Columns = data.shape[1], data.shape[0]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept = "0.5", "0"
        one.PixelSpacing = [f"{step[1]:.6g}", f"{step[0]:.6g}"]
        one.SliceThickness = f"{step[2]:.6g}"
        one.ImageOrientationPatient = [f"{x:.8g}" for x in (*lps[:3, 0] / step[0], *lps[:3, 1] / step[1])]
        one.ImagePositionPatient = [f"{x:.8g}" for x in (lps @ [0, 0, k, 1])[:3]]
        one.PixelData = np.rint(data[:, :, k].T / 0.5).astype(np.uint16).tobytes()
        for name, value in changes.items():
            value = value(k) if callable(value) else value
            if value is MISSING:
                delattr(one, name)
            else:
                setattr(one, name, value)
        meta.MediaStorageSOPInstanceUID = one.get("SOPInstanceUID", meta.MediaStorageSOPInstanceUID)
        one.save_as(folder / f"{(k * 7) % data.shape[2]:03}_{k}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("dicom") / "series", make_brain(101)[0], AFFINE)


def test_a_series_gets_the_mask_that_its_nifti_gets(series, trained, tmp_path):
    data = make_brain(101)[0]
    nifti = save(np.rint(data / 0.5) * 0.5, tmp_path / "scan.nii.gz")
    assert call("predict", nifti, "--out", tmp_path / "a.nii.gz", "--model", trained, *FAST).exit_code == 0
    seg = tmp_path / "b.dcm"
    result = call(
        "predict",
        series,
        "--out",
        tmp_path / "b.nii.gz",
        "--model",
        trained,
        "--save-dicom-seg",
        seg,
        "--html",
        tmp_path / "b.html",
        *FAST,
    )
    assert (result.exit_code, result.stderr) == (0, "")
    mask, expected = nib.load(tmp_path / "b.nii.gz"), nib.load(tmp_path / "a.nii.gz")
    # The axes have another order; the positions in world space are the same.
    reoriented = mask.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(mask.affine), nib.io_orientation(expected.affine))
    )
    np.testing.assert_allclose(reoriented.affine, expected.affine, atol=1e-3)
    np.testing.assert_array_equal(reoriented.get_fdata(), expected.get_fdata())
    # The page does not contain the patient's name.
    assert b"DOE^JOHN" not in (tmp_path / "b.html").read_bytes()
    written = hd.seg.segread(seg)
    assert written.PatientID == "4711"
    assert str(written.get_segment_description(1).segment_label) == "Lesion"
    back = written.get_volume(combine_segments=True)
    positions = nib.affines.apply_affine(back.get_affine("RAS"), np.argwhere(back.array))
    expected_positions = nib.affines.apply_affine(mask.affine, np.argwhere(mask.get_fdata()))
    np.testing.assert_allclose(
        sorted(map(tuple, np.round(positions, 2))), sorted(map(tuple, np.round(expected_positions, 2))), atol=0.02
    )
    referenced = {
        one.ReferencedSOPInstanceUID for one in written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced <= {pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()}


def test_subfolders_with_series_are_segmented_and_an_empty_mask_is_written_as_dicom(trained, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    write_series(folder / "healthy", make_brain(3, lesion=False)[0], AFFINE)
    out = tmp_path / "out"
    options = ("--out-dir", out, "--model", trained, "--healthy-threshold", 0.9, *FAST)
    result = call("predict", folder, *options)
    assert result.exit_code == 0, result.output
    assert not nib.load(out / "healthy_mask.nii.gz").get_fdata().any()
    assert not hd.seg.segread(out / "healthy_mask.dcm").pixel_array.any()


def test_a_segmentation_needs_a_series_and_a_dcm_name(series, scan, trained, tmp_path):
    options = ("--out", tmp_path / "m.nii.gz", "--model", trained, "--save-dicom-seg")
    assert "is not a folder of DICOM slices" in fails(call("predict", scan, *options, tmp_path / "m.dcm"))
    assert "must end in .dcm" in fails(call("predict", series, *options, tmp_path / "m.nii"))
    assert list(tmp_path.iterdir()) == [scan]


# --- Files in the folder of a series ---

DATA = np.rint(make_brain(101)[0] / 0.5) * 0.5
COUNT = DATA.shape[2]
COLUMNS, ROWS = DATA.shape[:2]


@pytest.fixture
def folder(tmp_path):
    return write_series(tmp_path / "series", DATA, AFFINE)


def first(folder):
    """The file of the first slice."""
    return slice_of(folder, 0)


def slice_of(folder, k):
    return next(file for file in folder.iterdir() if file.name.endswith(f"_{k}.dcm"))


def edit(file, target=None, **changes):
    """Changes attributes of a file, in place or in a copy ``target``; returns the changed file."""
    one = pydicom.dcmread(file)
    for name, value in changes.items():
        if value is MISSING:
            delattr(one, name)
        else:
            setattr(one, name, value)
    one.file_meta.MediaStorageSOPClassUID = one.get("SOPClassUID", one.file_meta.MediaStorageSOPClassUID)
    one.save_as(target or file)
    return target or file


def check_read(folder, *notes):
    """Checks that a folder is read as the volume ``DATA``, with warnings that contain ``notes`` and no others."""
    volume = read_volume(folder)
    expected = nib.Nifti1Image(DATA, AFFINE)
    transform = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt("LPS"))
    np.testing.assert_array_equal(volume.data, expected.as_reoriented(transform).get_fdata())
    np.testing.assert_allclose(volume.affine, expected.as_reoriented(transform).affine, atol=1e-3)
    assert len(volume.warnings) == len(notes), volume.warnings
    for warning, note in zip(volume.warnings, notes, strict=True):
        assert note in warning
        assert warning.isprintable()
    return volume


def refused(folder, message, read=read_volume):
    """Checks that a folder is refused with a printable error that names it; returns the error."""
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    text = str(error.value)
    assert text.isprintable()
    assert str(folder) in text
    # The text of a Python exception is not shown.
    assert not any(word in text for word in ("object", "attribute", "Dataset", "FileDataset", "NoneType", "__"))
    return text


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


# --- Copies, echoes, localizers ---


def test_one_of_several_copies_of_a_slice_is_used(folder):
    shutil.copy(slice_of(folder, 5), folder / "copy.dcm")
    check_read(folder, "1 file is a copy of another file and is not used")
    # A slice that was exported twice, with different identifiers.
    edit(slice_of(folder, 6), folder / "again.dcm", SOPInstanceUID=generate_uid())
    note = "1 file is a copy of another file and is not used"
    check_read(folder, note, note)


def test_slices_with_the_same_identifier_are_all_kept(tmp_path):
    place = write_series(tmp_path / "series", DATA, AFFINE, SOPInstanceUID="1.2.3")
    check_read(place)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"EchoTime": 90.0}, r"\(echo times 10.0, 90.0\)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, r"image types ORIGINAL/PRIMARY/M, ORIGINAL/PRIMARY/P"),
        ({}, r"\(echoes, repetitions, or magnitude and phase\)"),
    ],
)
def test_several_images_at_one_position_are_refused(tmp_path, changes, words):
    common = {"EchoTime": 10.0, "ImageType": ["ORIGINAL", "PRIMARY", "M"]}
    place = write_series(tmp_path / "series", DATA, AFFINE, **common)
    for k, file in enumerate(list(place.iterdir())):
        one = pydicom.dcmread(file)
        pixels = (one.pixel_array // 2).tobytes()
        edit(file, place / f"second_{k}.dcm", SOPInstanceUID=generate_uid(), PixelData=pixels, **changes)
    refused(place, rf"contains up to 2 images at one position.*{words}")


def localizer(folder, k, **changes):
    return edit(
        slice_of(folder, k),
        folder / f"localizer{k}.dcm",
        SOPInstanceUID=generate_uid(),
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        ImagePositionPatient=[0, -100, 100],
        **changes,
    )


def test_a_localizer_in_the_series_is_left_out_and_reported(folder):
    localizer(folder, 0, Rows=20, Columns=20, PixelData=bytes(800))
    check_read(folder, "left out 1 slice of another plane (localizer): localizer0.dcm")
    for k in range(1, 8):
        localizer(folder, k, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    check_read(folder, "left out 8 slices of another plane (localizer): localizer1.dcm, localizer2.dcm")


def test_a_localizer_alone_is_refused(tmp_path):
    planes = [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]]
    place = write_series(
        tmp_path / "series",
        DATA[:, :, :9],
        AFFINE,
        ImageOrientationPatient=lambda k: planes[k % 3],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    refused(place, "the slices are in several planes")


def test_two_series_are_told_apart(folder):
    other = write_series(
        folder.with_name("other"), DATA[..., :3], AFFINE, SeriesDescription="t1 mprage", SeriesNumber=7
    )
    for file in other.iterdir():
        file.rename(folder / f"t1_{file.name}")
    message = refused(folder, r"contains 2 DICOM series .*; move each to its own folder")
    assert "7 't1 mprage' with 3 files" in message
    assert f"3 'unnamed' with {COUNT} files" in message


# --- Stacks ---


def z_of(k):
    return -50 + 5.0 * k


def at(x=0.0, y=0.0, z=None):
    """Image positions (LPS) of the slices of ``AFFINE``, shifted by ``x`` and ``y`` mm per slice."""
    return lambda k: [-84 + x * k, -96 + y * k, z_of(k) if z is None else z(k)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ImagePositionPatient": MISSING}, rf"{COUNT} of {COUNT} slices have no valid position"),
        (
            {"ImagePositionPatient": lambda k: MISSING if k == 4 else at()(k)},
            rf"1 of {COUNT} slices have no valid position",
        ),
        ({"ImageOrientationPatient": MISSING}, "have no valid orientation"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "have no valid orientation"),
        ({"PixelSpacing": MISSING}, "have no valid pixel size"),
        ({"ImageOrientationPatient": lambda k: [1, 0, 0, 0, 1 - k % 2, k % 2]}, "the slices are in several planes"),
        ({"ImagePositionPatient": at(y=5 * np.tan(np.deg2rad(15)))}, r"gantry tilt of 15 degrees"),
        (
            {"ImagePositionPatient": at(z=lambda k: -50 + 5 * k + 1.5 * (k % 2))},
            r"their distances vary from 3\.5 to 6\.5 mm; convert it with dcm2niix",
        ),
        (
            {"ImagePositionPatient": at(z=lambda k: -50 + 5 * k + 5 * (k > 7))},
            "slices are missing, the slice distance is 5 mm but 10 mm after 003_7",
        ),
        ({"PixelSpacing": lambda k: [4.2, 4.0] if k else [4.2, 3.5]}, r"has 4.2 x 3.5 mm but others have 4.2 x 4.0"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "contains mosaics"),
        ({"ImageType": "MOSAIC"}, "contains mosaics"),
        ({"NumberOfFrames": 2}, "images, and some of them have several frames"),
    ],
)
def test_an_irregular_stack_is_refused(tmp_path, changes, message):
    place = write_series(tmp_path / "series", DATA, AFFINE, **changes)
    for read in (read_volume, check_segmentation):
        refused(place, message, read)


def test_a_missing_slice_near_the_end_of_the_stack_is_detected(folder):
    slice_of(folder, COUNT - 2).unlink()
    refused(folder, "slices are missing, the slice distance is 5 mm but 10 mm after ")


def test_one_slice_of_another_size_is_named(folder):
    file = edit(slice_of(folder, COUNT - 1), Rows=20, Columns=30, PixelData=bytes(1200))
    assert file.name in refused(folder, f"has 20 x 30 pixels but others have {ROWS} x {COLUMNS}")


def test_a_single_slice_is_refused(tmp_path):
    refused(write_series(tmp_path / "series", DATA[:, :, :1], AFFINE), "contains one slice only")


def test_colour_is_refused(tmp_path):
    place = write_series(
        tmp_path / "series",
        DATA,
        AFFINE,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelData=bytes(3 * ROWS * COLUMNS + (ROWS * COLUMNS) % 2),
    )
    refused(place, "contains colour images")


@pytest.mark.parametrize("digits", [1, 2])
def test_positions_with_few_digits_are_a_regular_stack(tmp_path, digits):
    place = write_series(
        tmp_path / "series", DATA, AFFINE, ImagePositionPatient=at(z=lambda k: round(-50 + 5.4321 * k, digits))
    )
    volume = read_volume(place)
    assert volume.data.shape[2] == COUNT
    assert volume.spacing[2] == pytest.approx(5.4321, abs=0.01)
    assert volume.warnings == ()


def test_direction_cosines_with_few_digits_are_a_regular_stack(tmp_path):
    tilt = 0.2
    place = write_series(
        tmp_path / "series",
        DATA,
        AFFINE,
        ImageOrientationPatient=lambda k: [1, 0, 0, 0, round(np.cos(tilt), 3 + k % 2), round(np.sin(tilt), 3 + k % 2)],
        ImagePositionPatient=lambda k: [
            -84,
            round(-96 - 5 * k * np.sin(tilt), 2),
            round(-50 + 5 * k * np.cos(tilt), 2),
        ],
    )
    volume = read_volume(place)
    np.testing.assert_allclose(volume.spacing, (4, 4.2, 5), atol=0.01)
    np.testing.assert_allclose(volume.affine[:3, 2] / 5, [0, np.sin(tilt), np.cos(tilt)], atol=2e-3)


# --- Pixels ---


def test_padding_is_background(tmp_path):
    stored = np.rint(DATA.transpose(2, 1, 0) / 0.5).astype(np.int16)
    padded = np.where(stored == 0, -2000, stored).astype(np.int16)
    for value in (-2000, 63536):
        place = write_series(
            tmp_path / f"series{value}", DATA, AFFINE, PixelRepresentation=1, PixelData=lambda k: padded[k].tobytes()
        )
        for file in place.iterdir():
            one = pydicom.dcmread(file)
            one.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
            one.save_as(file)
        check_read(place)


def test_rescale_slopes_per_slice_and_monochrome1_are_converted(tmp_path):
    stored = np.rint(DATA.transpose(2, 1, 0) / 0.5).astype(np.uint16)
    place = write_series(
        tmp_path / "slopes",
        DATA,
        AFFINE,
        RescaleSlope=lambda k: f"{0.5 / (1 + k % 3):.12g}",
        PixelData=lambda k: (stored[k] * (1 + k % 3)).tobytes(),
    )
    np.testing.assert_allclose(
        read_volume(place).data, check_read(write_series(tmp_path / "b", DATA, AFFINE)).data, rtol=1e-6
    )
    place = write_series(
        tmp_path / "inverted",
        DATA,
        AFFINE,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
        RescaleSlope="1",
        PixelData=lambda k: (4095 - stored[k]).astype(np.uint16).tobytes(),
    )
    np.testing.assert_allclose(read_volume(place).data, read_volume(tmp_path / "b").data * 2)


def test_undecodable_pixels_are_reported(folder):
    for file in folder.iterdir():
        one = pydicom.dcmread(file)
        one.file_meta.TransferSyntaxUID = JPEG2000Lossless
        one.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
        one["PixelData"].VR = "OB"
        one.save_as(file)
    refused(folder, r"the pixels \(JPEG 2000 .*\) cannot be decoded; pip install")
    check_segmentation(folder)  # Does not read the pixels.


def test_compressed_pixels_are_read(folder):
    for file in folder.iterdir():
        one = pydicom.dcmread(file)
        one.compress(RLELossless)
        one.save_as(file)
    check_read(folder)


# --- Multi-frame ---


def write_enhanced(folder, *, order=None, frames=COUNT, **changes):
    """Writes an enhanced MR image: one file with all slices.

    Args:
        folder: for the file.
        order: of the slices in the file.
        frames: their number.
        **changes: values of attributes; ``MISSING`` deletes an attribute.
    """
    source = write_series(folder.with_name("source"), DATA, AFFINE)
    one = pydicom.dcmread(slice_of(source, 0))
    shutil.rmtree(source)
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    orientation, spacing = one.ImageOrientationPatient, one.PixelSpacing
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope"):
        delattr(one, name)
    del one.RescaleIntercept
    order = list(order or range(frames))
    one.NumberOfFrames = frames
    one.PixelData = np.rint(DATA.transpose(2, 1, 0) / 0.5).astype(np.uint16)[order].tobytes()

    def data_set(**values):
        created = pydicom.Dataset()
        for name, value in values.items():
            setattr(created, name, value)
        return created

    organization = generate_uid()
    one.DimensionOrganizationSequence = [data_set(DimensionOrganizationUID=organization)]
    one.DimensionIndexSequence = [
        data_set(
            DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113, DimensionOrganizationUID=organization
        )
    ]
    one.SharedFunctionalGroupsSequence = [
        data_set(
            PixelMeasuresSequence=[data_set(PixelSpacing=spacing, SliceThickness=5)],
            PlaneOrientationSequence=[data_set(ImageOrientationPatient=orientation)],
            PixelValueTransformationSequence=[data_set(RescaleSlope="0.5", RescaleIntercept="0", RescaleType="US")],
        )
    ]
    one.PerFrameFunctionalGroupsSequence = [
        data_set(
            PlanePositionSequence=[data_set(ImagePositionPatient=[-84, -96, z_of(k)])],
            FrameContentSequence=[data_set(DimensionIndexValues=[k + 1], StackID="1", InStackPositionNumber=k + 1)],
        )
        for k in order
    ]
    for name, value in changes.items():
        if value is MISSING:
            delattr(one, name)
        else:
            setattr(one, name, value)
    folder.mkdir()
    one.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    return folder


@pytest.mark.parametrize(
    "order", [None, range(COUNT - 1, -1, -1), np.random.default_rng(0).permutation(COUNT).tolist()]
)
def test_an_enhanced_multi_frame_image_is_read(tmp_path, order):
    place = write_enhanced(tmp_path / "enhanced", order=order)
    assert is_series(place)
    volume = check_read(place)
    check_segmentation(place)
    mask = volume.data > 500
    write_dicom(tmp_path / "seg.dcm", mask, volume)
    assert hd.seg.segread(tmp_path / "seg.dcm").pixel_array.sum() == mask.sum() > 10


def test_an_enhanced_image_without_frame_of_reference_is_read_but_has_no_segmentation(tmp_path):
    place = write_enhanced(tmp_path / "enhanced", FrameOfReferenceUID=MISSING)
    check_read(place)
    refused(place, "has no Frame of Reference UID", check_segmentation)


def test_a_multi_frame_image_that_is_not_a_regular_stack_is_refused(tmp_path):
    twice = [k // 2 for k in range(COUNT)]
    refused(write_enhanced(tmp_path / "echoes", order=twice), "multi-frame image whose frames are not a regular stack")
    incomplete = write_enhanced(tmp_path / "incomplete", PerFrameFunctionalGroupsSequence=MISSING)
    refused(incomplete, "multi-frame image whose frames are not a regular stack")
    two = write_enhanced(tmp_path / "two")
    edit(two / "enhanced.dcm", two / "second.dcm", SOPInstanceUID=generate_uid())
    refused(two, "contains 2 images, and some of them have several frames")


# --- Segmentations of anonymised series ---

REMOVED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "Modality", "Manufacturer"),
)


def written_segmentation(place, path):
    """Writes a segmentation of a series and reads it back."""
    check_segmentation(place)
    volume = read_volume(place)
    mask = volume.data > 500
    write_dicom(path, mask, volume)
    written = hd.seg.segread(path)
    assert written.pixel_array.sum() == mask.sum() > 10
    return written


def test_attributes_removed_by_anonymisation_are_empty_in_the_segmentation(tmp_path):
    place = write_series(tmp_path / "series", DATA, AFFINE, **dict.fromkeys(REMOVED, MISSING))
    written = written_segmentation(place, tmp_path / "seg.dcm")
    for name in REMOVED[:9]:
        assert name in written
        assert not written.get(name)


@pytest.mark.parametrize(
    "invalid",
    [
        {"PatientSex": "unknown"},
        {"PatientBirthDate": "removed"},
        {"StudyDate": "2020", "StudyTime": "noon"},
        {"PatientID": "x" * 80},
        {"AccessionNumber": "y" * 40, "StudyID": "z" * 40},
    ],
)
def test_invalid_patient_attributes_are_empty_in_the_segmentation(tmp_path, invalid):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns when the test writes invalid values.
        place = write_series(tmp_path / "series", DATA, AFFINE, **invalid)
    written = written_segmentation(place, tmp_path / "seg.dcm")
    assert not any(written.get(name) for name in invalid)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FrameOfReferenceUID": MISSING}, "has no Frame of Reference UID, .*leave out --save-dicom-seg"),
        ({"FrameOfReferenceUID": lambda k: generate_uid()}, "differ in their Frame of Reference UID"),
        ({"StudyInstanceUID": MISSING}, "has no Study Instance UID"),
        ({"SeriesInstanceUID": MISSING}, "has no Series Instance UID"),
        ({"SOPInstanceUID": MISSING}, "has no SOP Instance UID"),
    ],
)
def test_a_series_that_cannot_be_referred_to_is_read_but_has_no_segmentation(tmp_path, changes, message):
    place = write_series(tmp_path / "series", DATA, AFFINE, **changes)
    volume = check_read(place)
    refused(place, message, check_segmentation)
    with pytest.raises(InputError, match=message):
        write_dicom(tmp_path / "seg.dcm", volume.data > 500, volume)
    assert not (tmp_path / "seg.dcm").exists()


def test_check_segmentation_does_not_read_pixels(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("pixels were read")

    monkeypatch.setattr(pydicom.dataset.Dataset, "convert_pixel_data", fail)
    check_segmentation(folder)


def test_series_with_invalid_attributes_are_read_without_messages(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = write_series(
            tmp_path / "series",
            DATA,
            AFFINE,
            PatientBirthDate="?",
            SliceThickness="5.000000000000000001",
            WindowCenter="",
        )
    check_read(place)
    check_segmentation(place)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    for file in place.iterdir():
        file.write_bytes(file.read_bytes().replace(b"IS\x02\x001 ", b"IS\x02\x00x "))
    read_volume(place)
    assert capfd.readouterr().err == ""


def test_a_folder_with_bytes_that_are_not_utf8_is_read(folder):
    renamed = folder.rename(folder.with_name(os.fsdecode(b"caf\xe9\n")))
    shutil.copy(slice_of(renamed, 5), renamed / os.fsdecode(b"copy\xe9.dcm"))
    check_read(renamed, "caf\\xe9\\n: 1 file is a copy of another file and is not used")
    damage(slice_of(renamed, 5), "pixels")
    with pytest.raises(InputError) as error:
        read_volume(renamed)
    assert str(error.value).isprintable()


def test_the_days_between_two_series(sessions, tmp_path):
    image = nib.as_closest_canonical(nib.load(sessions.before))
    dates = {"first": "20250110", "second": "20250301", "third": ""}
    first, second, third = (
        write_series(tmp_path / name, image.get_fdata(), image.affine, StudyDate=day) for name, day in dates.items()
    )
    given = []
    for name, series in (("before", first), ("after", second)):
        grid = read_volume(series).source
        mask = save(np.zeros(grid.shape, np.uint8), tmp_path / f"{name}.nii.gz", grid.affine)
        given += [f"--{name}-mask", mask]
    out = tmp_path / "c.json"
    result = call("compare", first, second, *given, "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["days"] == 50
    # An anonymiser has emptied the date.
    assert call("compare", first, third, *given, "--out", out, "--overwrite").exit_code == 0
    assert json.loads(out.read_text())["days"] is None
    assert acquisition_date(third) is None
    # The date of the acquisition comes first, and what is no date is ignored.
    both = write_series(tmp_path / "both", image.get_fdata(), image.affine, AcquisitionDate="20251231")
    assert acquisition_date(both) == date(2025, 12, 31)
    odd = write_series(tmp_path / "odd", image.get_fdata(), image.affine, StudyDate="20250110", SeriesDate="")
    assert acquisition_date(odd) == date(2025, 1, 10)
