"""DICOM series of a synthetic brain, and what the tests of reading them share."""

import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import read_volume
from helpers import AFFINE, make_brain

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


DATA = np.rint(make_brain(101)[0] / 0.5) * 0.5


COUNT = DATA.shape[2]


COLUMNS, ROWS = DATA.shape[:2]


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


def z_of(k):
    return -50 + 5.0 * k


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
    assert not any(
        word in text.replace(str(folder), "")
        for word in ("object", "attribute", "Dataset", "FileDataset", "NoneType", "__")
    )
    return text


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
