"""A series of DICOM slices in, a DICOM segmentation out."""

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from test_cli import FAST, call, fails

from conftest import AFFINE, make_brain, save


def write_series(folder, data, affine, series=None, **changes):
    """A series as a scanner would send it: unsorted names, LPS positions, whole numbers with a slope."""
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
            setattr(one, name, value(k) if callable(value) else value)
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
    ours, theirs = nib.load(tmp_path / "b.nii.gz"), nib.load(tmp_path / "a.nii.gz")
    # Another order of axes, the same place in the world.
    turned = ours.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(ours.affine), nib.io_orientation(theirs.affine))
    )
    np.testing.assert_allclose(turned.affine, theirs.affine, atol=1e-3)
    np.testing.assert_array_equal(turned.get_fdata(), theirs.get_fdata())
    # No patient in what can be passed on.
    assert b"DOE^JOHN" not in (tmp_path / "b.html").read_bytes()
    written = hd.seg.segread(seg)
    assert written.PatientID == "4711"
    assert str(written.get_segment_description(1).segment_label) == "Lesion"
    back = written.get_volume(combine_segments=True)
    there = nib.affines.apply_affine(back.get_affine("RAS"), np.argwhere(back.array))
    expected = nib.affines.apply_affine(ours.affine, np.argwhere(ours.get_fdata()))
    np.testing.assert_allclose(
        sorted(map(tuple, np.round(there, 2))), sorted(map(tuple, np.round(expected, 2))), atol=0.02
    )
    referenced = {
        one.ReferencedSOPInstanceUID for one in written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced <= {pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()}


def test_folders_of_series_are_scans_and_an_empty_mask_is_a_segmentation_too(trained, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    write_series(folder / "healthy", make_brain(3, lesion=False)[0], AFFINE)
    out = tmp_path / "out"
    options = ("--out-dir", out, "--model", trained, "--level", 0.9, *FAST)
    result = call("predict", folder, *options)
    assert result.exit_code == 0, result.output
    assert not nib.load(out / "healthy_mask.nii.gz").get_fdata().any()
    assert not hd.seg.segread(out / "healthy_mask.dcm").pixel_array.any()


def test_series_that_make_no_volume_are_refused(trained, tmp_path):
    data = make_brain(101)[0][..., 5:15]
    two = write_series(tmp_path / "two", data, AFFINE)
    write_series(two, data[..., :3], AFFINE)
    gap = write_series(tmp_path / "gap", data, AFFINE)
    next(file for file in gap.iterdir() if file.name.endswith("_4.dcm")).unlink()
    tilted = write_series(
        tmp_path / "tilted", data, AFFINE, ImageOrientationPatient=lambda k: [1, 0, 0, 0, 1 - k % 2, k % 2]
    )
    cut = write_series(tmp_path / "cut", data, AFFINE)
    for file in cut.iterdir():
        file.write_bytes(file.read_bytes()[:1500])
    for folder, message in (
        (two, "DICOM series; give each"),
        (gap, "make no volume"),
        (tilted, "make no volume"),
        (cut, "series|volume|damaged"),
    ):
        error = fails(call("predict", folder, "--out", tmp_path / "m.nii.gz", "--model", trained))
        assert any(part in error for part in message.split("|")), error
        assert not (tmp_path / "m.nii.gz").exists()


def test_a_segmentation_needs_a_series_and_a_dcm_name(series, scan, trained, tmp_path):
    options = ("--out", tmp_path / "m.nii.gz", "--model", trained, "--save-dicom-seg")
    assert "is no folder of DICOM slices" in fails(call("predict", scan, *options, tmp_path / "m.dcm"))
    assert "must end in .dcm" in fails(call("predict", series, *options, tmp_path / "m.nii"))
    assert list(tmp_path.iterdir()) == [scan]
