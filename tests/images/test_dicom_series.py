"""From the slices of a DICOM series to a stack: copies, echoes, localizers, irregular stacks."""

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    generate_uid,
)

from brainseg_tf.images.dicom import check_segmentation
from brainseg_tf.images.volume import read_volume
from helpers import AFFINE
from synthetic_dicom import COLUMNS, COUNT, DATA, MISSING, ROWS, check_read, edit, refused, slice_of, write_series, z_of


@pytest.fixture
def folder(tmp_path):
    return write_series(tmp_path / "series", DATA, AFFINE)


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
        (  # Two blocks whose distance is more than a hundred slices: the slices of a block are not at one position.
            {"ImagePositionPatient": at(z=lambda k: -50 + 5 * k + 600 * (k > 7))},
            "slices are missing, the slice distance is 5 mm but 605 mm after 003_7",
        ),
        (
            {"ImagePositionPatient": at(z=lambda k: -50 + 5 * k + 600 * (k > 2) + 900 * (k > 7))},
            "slices are missing, the slice distance is 5 mm but 905 mm after 003_7",
        ),
        (
            {"ImagePositionPatient": at(z=lambda k: -50 + 5 * k + 600 * (k == COUNT - 1))},
            "slices are missing, the slice distance is 5 mm but 605 mm after ",
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
