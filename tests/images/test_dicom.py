"""Pixels of DICOM series, multi-frame images and DICOM segmentations."""

import json
import warnings
from datetime import date

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from brainseg_tf.errors import InputError
from brainseg_tf.images.dicom import acquisition_date, check_segmentation, is_series
from brainseg_tf.images.maps import write_dicom
from brainseg_tf.images.volume import read_volume
from helpers import AFFINE, FAST, call, fails, make_brain, save
from synthetic_dicom import COUNT, DATA, MISSING, check_read, edit, refused, write_enhanced, write_series


@pytest.fixture
def folder(tmp_path):
    return write_series(tmp_path / "series", DATA, AFFINE)


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


@pytest.mark.parametrize("value", [-2000, 63536])
def test_the_padding_of_a_multi_frame_image_is_background(tmp_path, value):
    order = np.random.default_rng(0).permutation(COUNT).tolist()
    place = write_enhanced(tmp_path / "enhanced", order=order)
    file = place / "enhanced.dcm"
    one = pydicom.dcmread(file)
    stored = np.rint(DATA.transpose(2, 1, 0) / 0.5).astype(np.int16)[order]
    one.PixelData, one.PixelRepresentation = np.where(stored == 0, -2000, stored).astype(np.int16).tobytes(), 1
    one.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    one.save_as(file)
    check_read(place)


def test_real_world_values_are_not_used(tmp_path):
    """They can hold for a part of the pixels only."""

    def mapping(k):
        item = pydicom.Dataset()
        item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 10, 4095
        item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.0, 0.001
        item.LUTExplanation = item.LUTLabel = "x"
        unit = pydicom.Dataset()
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "1", "UCUM", "no units"
        item.MeasurementUnitsCodeSequence = [unit]
        return [item]

    check_read(write_series(tmp_path / "series", DATA, AFFINE, RealWorldValueMappingSequence=mapping))


def test_enhanced_images_of_one_frame_each_are_called_so(tmp_path):
    groups = lambda k: [pydicom.Dataset()]  # noqa: E731
    place = write_series(
        tmp_path / "series",
        DATA,
        AFFINE,
        PerFrameFunctionalGroupsSequence=groups,
        ImagePositionPatient=MISSING,
        PixelSpacing=MISSING,
    )
    refused(place, "contains enhanced images of one frame each, which cannot be read; convert it with dcm2niix")


@pytest.mark.parametrize("reverse", [False, True])
def test_each_frame_of_a_segmentation_refers_to_its_slice(tmp_path, reverse):
    """Also if the positions are rounded and not quite regular."""
    shift = np.random.default_rng(0).uniform(-0.4, 0.4, COUNT)
    heights = [round(-50 + 5 * k + shift[k], 1) for k in range(COUNT)]
    heights = heights[::-1] if reverse else heights
    place = write_series(tmp_path / "series", DATA, AFFINE, ImagePositionPatient=lambda k: [-84, -96, heights[k]])
    volume = read_volume(place)
    mask = volume.data > 500
    write_dicom(tmp_path / "seg.dcm", mask, volume)
    written = hd.seg.segread(tmp_path / "seg.dcm")
    height_of = {
        one.SOPInstanceUID: float(one.ImagePositionPatient[2]) for one in map(pydicom.dcmread, place.iterdir())
    }
    by_height = dict(zip(sorted(heights), mask.sum(axis=(0, 1)), strict=True))
    frames = written.PerFrameFunctionalGroupsSequence
    assert len(frames) == (mask.sum(axis=(0, 1)) > 0).sum()
    for frame, pixels in zip(frames, written.pixel_array.reshape(len(frames), -1), strict=True):
        (derivation,) = frame.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        height = height_of[source.ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient[2] == pytest.approx(height)
        assert pixels.sum() == by_height[height]


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e"),
        ("ISO_IR 100", "M\xfcller^J\xf6rg"),
    ],
)
def test_names_in_any_character_set_are_in_the_segmentation(tmp_path, character_set, name):
    place = write_series(tmp_path / "series", DATA, AFFINE, SpecificCharacterSet=character_set, PatientName=name)
    written = written_segmentation(place, tmp_path / "seg.dcm")
    assert str(written.PatientName) == name
