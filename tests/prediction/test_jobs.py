"""What a report records of its input files."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.prediction.jobs import Job, Outputs
from helpers import AFFINE, make_brain, save


def test_scans_of_the_same_size_and_name_are_told_apart(tmp_path):
    """Uncompressed scans of one protocol, pairs of files, and DICOM series differ in their content only."""

    def record(scan: Path) -> dict[str, object]:
        return Job(scan, Outputs(tmp_path / "mask.nii")).inputs_record["scan"]

    first, second = make_brain(0)[0], make_brain(1)[0]
    for number, data in enumerate((first, second)):
        folder = tmp_path / str(number)
        folder.mkdir()
        save(data, folder / "flair.nii")
        nib.save(nib.Nifti1Pair(data, AFFINE), folder / "pair.hdr")
        (folder / "series").mkdir()
        for slice_number in range(3):
            (folder / "series" / f"{slice_number}.dcm").write_bytes(bytes([number, slice_number]))
    for name in ("flair.nii", "pair.hdr", "series"):
        one, other = record(tmp_path / "0" / name), record(tmp_path / "1" / name)
        assert (one["name"], one["size"]) == (other["name"], other["size"])
        assert one["samples"] != other["samples"]
        assert one == record(tmp_path / "0" / name)
    # The voxel size in the header was corrected.
    before = record(tmp_path / "0" / "flair.nii")
    nib.save(nib.Nifti1Image(first, AFFINE * 1.25), tmp_path / "0" / "flair.nii")
    assert record(tmp_path / "0" / "flair.nii")["samples"] != before["samples"]
    # Files of a series can be renamed, and a cohort can be moved.
    (tmp_path / "0" / "series" / "0.dcm").rename(tmp_path / "0" / "series" / "9.dcm")
    moved = record(tmp_path / "0" / "series")
    (tmp_path / "0").rename(tmp_path / "moved")
    assert record(tmp_path / "moved" / "series") == moved
    assert record(tmp_path / "nothing.nii")["samples"] is None


@pytest.mark.parametrize("slices", [32, 48, 64])
def test_scans_that_differ_in_the_head_only_are_told_apart(slices, tmp_path):
    """Uncompressed: at equal distances, all samples are in the background at the same edge of the slices."""
    records = []
    for value in (100, 200):
        data = np.zeros((128, 128, slices), np.int16)
        data[40:90, 40:90] = value
        save(data, tmp_path / "scan.nii")
        records.append(Job(tmp_path / "scan.nii", Outputs(tmp_path / "mask.nii")).inputs_record["scan"])
    assert records[0]["size"] == records[1]["size"]
    assert records[0]["samples"] != records[1]["samples"]


def test_a_corrected_mask_is_told_apart_and_a_visited_folder_is_not(tmp_path):
    truth = np.zeros((256, 256, 60), np.uint8)
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"slice")

    def record() -> dict[str, dict[str, object]]:
        save(truth, tmp_path / "truth.nii")
        return Job(series, Outputs(tmp_path / "mask.nii"), truth=tmp_path / "truth.nii").inputs_record

    before = record()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (series / name).write_bytes(b"x")
    assert record() == before
    truth[100, 101, 30] = 1
    after = record()
    assert after["truth"]["size"] == before["truth"]["size"]
    assert after["truth"]["sha256"] != before["truth"]["sha256"]
    (series / "2.dcm").write_bytes(b"slice")
    assert record()["scan"]["size"] == 2
