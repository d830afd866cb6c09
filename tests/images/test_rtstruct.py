"""DICOM RT structure sets, read back and rasterised with the headers of the slices that they refer to."""

import json
import warnings

import nibabel as nib
import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon
from pydicom.uid import RTStructureSetStorage, generate_uid

from brainseg_tf.errors import InputError
from brainseg_tf.images.labels import Label
from brainseg_tf.images.maps import write_structures
from brainseg_tf.images.rtstruct import check_structures
from brainseg_tf.images.volume import read_volume
from helpers import AFFINE, FAST, call, fails, make_brain, rows, save
from synthetic_dicom import COUNT, DATA, MISSING, write_enhanced, write_series

LPS = np.diag([-1.0, -1.0, 1.0])
CENTRE_MM, RADIUS_MM = np.array([13.0, -9.0, 11.0]), 24.0
LABELS = [Label(1, "lesion 1, 57.91 ml", (255, 26, 26)), Label(2, "lesion 2, 0.08 ml", (0, 128, 255))]


def rotation(degrees, axis):
    """(3, 3), a rotation around an axis."""
    turned = np.eye(3)
    first, second = (number for number in range(3) if number != axis)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned[[first, first, second, second], [first, second, first, second]] = cosine, -sine, sine, cosine
    return turned


def with_axes(axes, shape=DATA.shape):
    """An affine with these axes (3, 3), whose middle voxel is near the origin."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ ((np.array(shape) - 1) / 2)
    return affine


SIZES = np.array([4.0, 4.2, 5.0])
AXES = {
    "axial": AFFINE[:3, :3],
    "from above": AFFINE[:3, :3] * [1, 1, -1],
    "oblique": rotation(17, 0) @ rotation(-8, 1) @ rotation(25, 2) @ (np.diag([-1, -1, 1]) * SIZES),
    "sagittal": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]) * SIZES,
    "oblique, from the front": rotation(30, 0) @ np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0]]) * SIZES,
}


def positions_of(volume):
    """(X, Y, Z, 3), the centres of the voxels in millimetres, RAS."""
    return nib.affines.apply_affine(volume.affine, np.stack(np.indices(volume.data.shape), axis=-1))


def ball(volume):
    """1 in a ball with a hole through it, 2 in a voxel near its corner."""
    distance = np.linalg.norm(positions_of(volume) - CENTRE_MM, axis=-1)
    numbers = (distance < RADIUS_MM).astype(np.uint8)
    numbers[np.unravel_index(distance.argmin(), distance.shape)] = 0
    other = np.linalg.norm(positions_of(volume) - CENTRE_MM - np.array([0, 40, 0]), axis=-1)
    numbers[np.unravel_index(other.argmin(), other.shape)] = 2
    return numbers


def planes_of(folder):
    """Position, row direction, column direction and pixel sizes of each slice, by its identifier and frame."""
    found = {}
    for file in folder.iterdir():
        one = pydicom.dcmread(file)
        if "NumberOfFrames" in one:
            shared = one.SharedFunctionalGroupsSequence[0]
            orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
            spacing = shared.PixelMeasuresSequence[0].PixelSpacing
            for number, frame in enumerate(one.PerFrameFunctionalGroupsSequence, start=1):
                found[one.SOPInstanceUID, number] = (
                    frame.PlanePositionSequence[0].ImagePositionPatient,
                    orientation,
                    spacing,
                )
        else:
            found[one.SOPInstanceUID, None] = one.ImagePositionPatient, one.ImageOrientationPatient, one.PixelSpacing
    return found, (one.Rows, one.Columns)


def rasterised(written, folder):
    """The centres (N, 3) in RAS of the pixels in each ROI, sorted."""
    planes, shape = planes_of(folder)
    pixels = np.indices(shape).reshape(2, -1).T
    found = {}
    for roi in written.ROIContourSequence:
        centres = [np.empty((0, 3))]
        for contour in roi.get("ContourSequence", []):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            (image,) = contour.ContourImageSequence
            start, orientation, (row_mm, column_mm) = planes[
                image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")
            ]
            along_row, along_column = np.array(orientation, float).reshape(2, 3)
            start = np.array(start, float)
            # The contour lies in the slice that it refers to.
            assert np.abs((points - start) @ np.cross(along_row, along_column)).max() < 0.01
            polygon = np.column_stack(
                [(points - start) @ along_column / float(row_mm), (points - start) @ along_row / float(column_mm)]
            )
            inside = pixels[Polygon(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(pixels)]
            lps = start + inside[:, :1] * along_column * float(row_mm) + inside[:, 1:] * along_row * float(column_mm)
            centres.append(lps @ LPS)
        found[int(roi.ReferencedROINumber)] = by_position(np.concatenate(centres))
    return found


def by_position(points):
    return np.array(sorted(map(tuple, np.round(points, 1) + 0.0)))


def written_and_read(place, path, labels=LABELS):
    check_structures(place)
    volume = read_volume(place)
    numbers = ball(volume) if labels else np.zeros(volume.data.shape, np.uint8)
    write_structures(path, numbers, labels, volume)
    return pydicom.dcmread(path), volume, numbers


def check_regions(written, folder, volume, numbers):
    """The rasterised contours are the regions."""
    for number, points in rasterised(written, folder).items():
        expected = by_position(positions_of(volume)[numbers == number])
        assert len(points) == len(expected)
        np.testing.assert_allclose(points, expected, atol=0.11)


@pytest.mark.parametrize("orientation", AXES)
def test_the_contours_are_those_of_the_regions(tmp_path, orientation):
    place = write_series(tmp_path / "series", DATA, with_axes(AXES[orientation]))
    written, volume, numbers = written_and_read(place, tmp_path / "rt.dcm")
    assert (numbers == 1).sum() > 500
    check_regions(written, place, volume, numbers)
    # A known point: the middle of the ball, in the coordinates of DICOM.
    points = np.concatenate(
        [np.array(one.ContourData, float).reshape(-1, 3) for one in written.ROIContourSequence[0].ContourSequence]
    )
    np.testing.assert_allclose((points.min(axis=0) + points.max(axis=0)) / 2, LPS @ CENTRE_MM, atol=3)
    assert np.linalg.norm(points - LPS @ CENTRE_MM, axis=1).max() == pytest.approx(RADIUS_MM, abs=2.5)


def test_the_structure_set_refers_to_the_series(tmp_path):
    place = write_series(tmp_path / "series", DATA, AFFINE)
    written, *_ = written_and_read(place, tmp_path / "rt.dcm")
    slices = [pydicom.dcmread(file) for file in place.iterdir()]
    one = slices[0]
    assert (written.SOPClassUID, written.Modality) == (RTStructureSetStorage, "RTSTRUCT")
    assert (written.PatientID, written.PatientName, written.StudyInstanceUID) == (
        "4711",
        "DOE^JOHN",
        one.StudyInstanceUID,
    )
    assert written.SeriesInstanceUID != one.SeriesInstanceUID
    (frame,) = written.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == written.FrameOfReferenceUID == one.FrameOfReferenceUID
    (study,) = frame.RTReferencedStudySequence
    assert study.ReferencedSOPInstanceUID == one.StudyInstanceUID
    (series,) = study.RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == one.SeriesInstanceUID
    referenced = {
        (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) for image in series.ContourImageSequence
    }
    assert referenced == {(slice_.SOPClassUID, slice_.SOPInstanceUID) for slice_ in slices}
    assert len(series.ContourImageSequence) == COUNT
    rois = [(roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm) for roi in written.StructureSetROISequence]
    assert rois == [(label.value, label.name, "AUTOMATIC") for label in LABELS]
    assert {roi.ReferencedFrameOfReferenceUID for roi in written.StructureSetROISequence} == {one.FrameOfReferenceUID}
    assert [tuple(roi.ROIDisplayColor) for roi in written.ROIContourSequence] == [label.colour for label in LABELS]
    assert [item.ReferencedROINumber for item in written.RTROIObservationsSequence] == [1, 2]


def test_a_multi_frame_image_is_referred_to_by_its_frames(tmp_path):
    order = np.random.default_rng(0).permutation(COUNT).tolist()
    place = write_enhanced(tmp_path / "enhanced", order=order)
    written, volume, numbers = written_and_read(place, tmp_path / "rt.dcm")
    check_regions(written, place, volume, numbers)


def test_contours_lie_in_their_slices_if_the_positions_are_not_quite_regular(tmp_path):
    heights = -50 + 5.0 * np.arange(COUNT) + np.random.default_rng(0).uniform(-0.4, 0.4, COUNT)
    place = write_series(
        tmp_path / "series", DATA, AFFINE, ImagePositionPatient=lambda k: [-84, -96, round(heights[k], 1)]
    )
    written, *_ = written_and_read(place, tmp_path / "rt.dcm")
    assert any(len(centres) for centres in rasterised(written, place).values())


def test_a_structure_set_without_lesions_has_a_roi_without_contours(tmp_path):
    place = write_series(tmp_path / "series", DATA, AFFINE)
    written, *_ = written_and_read(place, tmp_path / "rt.dcm", labels=[])
    assert [roi.ROIName for roi in written.StructureSetROISequence] == ["no lesion"]
    assert "ContourSequence" not in written.ROIContourSequence[0]


@pytest.mark.slow
def test_a_contour_can_be_longer_than_64_kib(tmp_path):
    place = write_series(tmp_path / "series", np.kron(DATA, np.ones((6, 6, 1))), AFFINE / [6, 6, 1, 1])
    volume = read_volume(place)
    # A comb, whose outline is as long as it can be.
    numbers = np.zeros(volume.data.shape, np.uint8)
    numbers[:, ::2, 5] = numbers[3, :, 5] = 1
    write_structures(tmp_path / "rt.dcm", numbers, LABELS[:1], volume)
    written = pydicom.dcmread(tmp_path / "rt.dcm")
    (contour,) = written.ROIContourSequence[0].ContourSequence
    assert len("\\".join(map(str, contour.ContourData))) > 2**16
    check_regions(written, place, volume, numbers)


def test_attributes_removed_by_anonymisation_are_empty(tmp_path):
    removed = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID", "AccessionNumber")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = write_series(tmp_path / "series", DATA, AFFINE, StudyTime="noon", **dict.fromkeys(removed, MISSING))
    written, *_ = written_and_read(place, tmp_path / "rt.dcm")
    assert not any(written[name].value for name in (*removed, "StudyTime"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"FrameOfReferenceUID": MISSING},
            "has no Frame of Reference UID, which a DICOM structure set needs; leave out --save-rtstruct",
        ),
        ({"FrameOfReferenceUID": lambda k: generate_uid()}, "differ in their Frame of Reference UID"),
        ({"SOPInstanceUID": MISSING}, "has no SOP Instance UID"),
    ],
)
def test_a_series_that_cannot_be_referred_to_is_refused(tmp_path, changes, message):
    place = write_series(tmp_path / "series", DATA, AFFINE, **changes)
    with pytest.raises(InputError, match=message):
        check_structures(place)
    volume = read_volume(place)
    with pytest.raises(InputError, match=message):
        write_structures(tmp_path / "rt.dcm", ball(volume), LABELS, volume)
    assert [file.name for file in tmp_path.iterdir()] == ["series"]


def test_predict_writes_a_roi_for_each_lesion(trained, tmp_path):
    place = write_series(tmp_path / "series", DATA, AFFINE)
    out, rt, lesions, report = (tmp_path / name for name in ("m.nii.gz", "rt.dcm", "lesions.nii.gz", "r.json"))
    files = ("--out", out, "--save-rtstruct", rt, "--save-lesions", lesions, "--report", report)
    result = call("predict", place, *files, "--model", trained, "--min-size-ml", 0.1, *FAST)
    assert (result.exit_code, result.stderr) == (0, "")
    written, image = pydicom.dcmread(rt), nib.load(lesions)
    numbers = np.asarray(image.dataobj)
    found = rasterised(written, place)
    in_report = json.loads(report.read_text())["lesions"]
    assert list(found) == list(range(1, len(in_report) + 1))
    for number, points in found.items():
        expected = by_position(nib.affines.apply_affine(image.affine, np.argwhere(numbers == number)))
        np.testing.assert_allclose(points, expected, atol=0.11)
    names = [roi.ROIName for roi in written.StructureSetROISequence]
    assert names == [f"lesion {number}, {one['ml']:.2f} ml" for number, one in enumerate(in_report, start=1)]


def test_predict_refuses_other_scans_and_other_names(trained, scan, tmp_path):
    place = write_series(tmp_path / "series", DATA, AFFINE, FrameOfReferenceUID=MISSING)
    options = ("--out", tmp_path / "m.nii.gz", "--model", trained, "--save-rtstruct")
    assert "is not a folder of DICOM slices; leave out --save-rtstruct" in fails(
        call("predict", scan, *options, tmp_path / "rt.dcm")
    )
    assert "rt.nii: the name must end in .dcm" in fails(call("predict", place, *options, tmp_path / "rt.nii"))
    assert "has no Frame of Reference UID" in fails(call("predict", place, *options, tmp_path / "rt.dcm"))
    assert {file.name for file in tmp_path.iterdir()} == {"series", "scan.nii.gz"}


def test_scans_of_a_folder_get_a_structure_set_if_they_can(trained, tmp_path):
    folder, out = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    write_series(folder / "a", DATA, AFFINE)
    write_series(folder / "b", DATA, AFFINE, FrameOfReferenceUID=MISSING)
    save(make_brain(1)[0], folder / "c.nii.gz")
    options = ("--out-dir", out, "--model", trained, "--save-rtstruct", "{name}_rt.dcm", *FAST)
    result = call("predict", folder, *options)
    assert result.exit_code == 0, result.output
    assert {file.name for file in out.glob("*.dcm")} == {"a_mask.dcm", "a_rt.dcm"}
    assert "b: has no Frame of Reference UID, which a DICOM structure set needs" in result.stderr
    assert "c.nii.gz: is not a folder of DICOM slices; leave out --save-rtstruct" in result.stderr
    assert call("predict", folder, *options, "--continue").exit_code == 0
    assert {line["status"] for line in rows(out)} == {"kept"}
