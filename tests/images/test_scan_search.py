import json
import os
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.images.scan_search import bids_root, search_bids, search_folder
from brainseg_tf.prediction.batch import plan_batch
from helpers import make_brain, save
from synthetic_dicom import write_series


def touch(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def names(files):
    return [file.name for file in files]


def reasons(pairs):
    return {file.name: reason for file, reason in pairs}


def test_every_file_is_a_scan_or_left_out_with_a_reason(tmp_path):
    touch(tmp_path, "a.nii.gz", "b_FLAIR.NII", "c.mgz", "e_flair_t1.nii.gz", "PD_7.nii.gz", "real_ph_2.nii")
    touch(tmp_path, "a.json", "notes.txt", "a_figure.png", ".hidden.nii.gz", "._a.nii.gz")
    touch(
        tmp_path,
        "a_seg.nii.gz",
        "a_mask.nii.gz",
        "b_ph.nii.gz",
        "c_T1w.nii.gz",
        "d_t2_brain.nii",
        "noending",
        "x.nii.bak",
    )
    (tmp_path / "broken.nii.gz").symlink_to("gone")
    (tmp_path / "linked.nii.gz").symlink_to("a.nii.gz")
    touch(tmp_path / "sub", "s.nii.gz")
    (tmp_path / "out").mkdir()
    found = search_folder(tmp_path, "flair", tmp_path / "out")
    # "PD" at the start of a name is not read as a modality, nor is "ph" in the middle read as a phase image.
    assert names(found.scans) == [
        "PD_7.nii.gz",
        "a.nii.gz",
        "b_FLAIR.NII",
        "c.mgz",
        "e_flair_t1.nii.gz",
        "linked.nii.gz",
        "real_ph_2.nii",
    ]
    assert reasons(found.failed) == {
        "broken.nii.gz": "is a link to a file that does not exist; fetch it (git annex get, datalad get)"
    }
    left_out = reasons(found.left_out)
    assert {
        name: left_out[name].split(" according")[0] for name in ("a_seg.nii.gz", "b_ph.nii.gz", "c_T1w.nii.gz")
    } == {
        "a_seg.nii.gz": "is a mask",
        "b_ph.nii.gz": "is a phase image",
        "c_T1w.nii.gz": "is t1",
    }
    assert sorted(left_out) == [
        "a_mask.nii.gz",
        "a_seg.nii.gz",
        "b_ph.nii.gz",
        "c_T1w.nii.gz",
        "d_t2_brain.nii",
        "noending",
        "sub",
        "x.nii.bak",
    ]


def test_skull_stripped_scans_and_brain_masks_are_distinguished(tmp_path):
    data, _ = make_brain(0)
    save(data, tmp_path / "s1_FLAIR.nii.gz")
    save(data, tmp_path / "s1_FLAIR_brain.nii.gz")
    save(data > 0, tmp_path / "s2_brain.nii.gz")
    found = search_folder(tmp_path, "flair", tmp_path / "out")
    assert names(found.scans) == ["s1_FLAIR.nii.gz", "s1_FLAIR_brain.nii.gz"]
    assert reasons(found.left_out) == {"s2_brain.nii.gz": "is a brain mask, because it contains only two values"}


def test_masks_that_the_run_writes_are_not_listed_as_left_out(tmp_path):
    save(make_brain(0)[0], tmp_path / "a.nii.gz")
    save(np.ones((3, 3, 3), bool), tmp_path / "a_mask.nii.gz")
    save(np.ones((3, 3, 3), bool), tmp_path / "other_mask.nii.gz")
    batch = plan_batch([tmp_path], tmp_path)
    assert names([job.scan for job in batch.jobs]) == ["a.nii.gz"]
    assert names([file for file, _ in batch.left_out]) == ["other_mask.nii.gz"]


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "bids"
    touch(root, "sub-01/anat/sub-01_FLAIR.nii.gz", "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_FLAIR.json")
    touch(root, "sub-02/ses-a/anat/sub-02_ses-a_FLAIR.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_FLAIR.nii.gz")
    touch(root, "sub-02/ses-b/anat/sub-02_ses-b_part-phase_FLAIR.nii.gz", "sub-03/anat/sub-03_run-1_FLAIR.nii.gz")
    touch(root, "derivatives/x/sub-01/anat/sub-01_FLAIR.nii.gz")
    (root / "sub-03" / "anat" / "sub-03_run-2_FLAIR.nii.gz").symlink_to("../../.git/annex/gone")
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    (root / ".bidsignore").write_text("# tried again\n*run-1_*\n")
    return root


def test_a_bids_dataset(dataset):
    found = search_bids(dataset, dataset)
    assert names(found.scans) == [
        "sub-01_FLAIR.nii.gz",
        "sub-02_ses-a_FLAIR.nii.gz",
        "sub-02_ses-b_FLAIR.nii.gz",
    ]
    assert names(file for file, _ in found.failed) == ["sub-03_run-2_FLAIR.nii.gz"]
    left_out = reasons(found.left_out)
    assert left_out["sub-03_run-1_FLAIR.nii.gz"] == "is excluded by the dataset's .bidsignore"
    assert left_out["sub-02_ses-b_part-phase_FLAIR.nii.gz"].startswith("is a phase image")
    assert len(left_out) == 2


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("sub-01", ["sub-01_FLAIR"]),
        ("sub-01/anat", ["sub-01_FLAIR"]),
        ("sub-02", ["sub-02_ses-a_FLAIR", "sub-02_ses-b_FLAIR"]),
        ("sub-02/ses-b", ["sub-02_ses-b_FLAIR"]),
        ("sub-02/ses-b/anat", ["sub-02_ses-b_FLAIR"]),
    ],
)
def test_a_part_of_a_bids_dataset(dataset, part, expected, tmp_path, monkeypatch):
    batch = plan_batch([dataset / part], tmp_path / "out")
    assert [job.scan.name.removesuffix(".nii.gz") for job in batch.jobs] == expected
    first = batch.jobs[0]
    assert first.outputs.mask.parent == tmp_path / "out" / first.scan.parent.relative_to(dataset)
    assert (tmp_path / "out" / "dataset_description.json").is_file()
    # With a relative path, from within the folder.
    monkeypatch.chdir(dataset / part)
    assert len(plan_batch([Path()], tmp_path / "again").jobs) == len(expected)


def test_a_bids_dataset_is_found_by_a_path_upwards(dataset, monkeypatch):
    anatomical = dataset / "sub-02" / "ses-a" / "anat"
    (dataset / "dataset_description.json").unlink()
    for up, expected in (("..", 1), ("../..", 2)):
        monkeypatch.chdir(anatomical)
        root = bids_root(Path(up))
        assert root == dataset.resolve()
        assert len(search_bids(root, Path(up)).scans) == expected


def test_a_folder_named_like_a_subject_is_searched_as_a_folder(tmp_path):
    touch(tmp_path / "sub-07", "scan.nii.gz")
    assert bids_root(tmp_path / "sub-07") is None
    assert len(plan_batch([tmp_path / "sub-07"], tmp_path / "out").jobs) == 1


def test_a_folder_without_a_scan_is_refused_with_the_reason(tmp_path):
    touch(tmp_path / "a", "x_t1.nii.gz", "x_seg.nii.gz")
    with pytest.raises(
        InputError, match=r"a: contains no scan; x_seg\.nii\.gz: is a mask according to its name.*\(1 more"
    ):
        plan_batch([tmp_path / "a"], tmp_path / "out")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"b: contains no scan \(\.nii"):
        plan_batch([tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ten_thousand_scans_are_planned_at_once(tmp_path):
    places = [tmp_path / f"{number}.nii.gz" for number in range(10_000)]
    assert len(plan_batch(places, tmp_path / "out").jobs) == 10_000
    with pytest.raises(InputError, match="is the mask of two scans"):
        plan_batch([*places, tmp_path / "7.nii"], tmp_path / "out")


def test_a_folder_without_read_permission_is_refused(tmp_path, monkeypatch):
    touch(tmp_path / "a", "scan.nii.gz")
    listing = Path.iterdir

    def denied(path):
        if path.name == "a":
            raise PermissionError(13, os.strerror(13))
        return listing(path)

    # The tests may run as root, for whom permissions are not checked.
    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(InputError, match=r"a: .*(cannot be listed|Permission denied)"):
        plan_batch([tmp_path / "a"], tmp_path / "out")


def test_a_series_of_another_modality_is_left_out_by_its_description(tmp_path):
    for name, description in {"0001": "localizer", "0004": "AX T2 FLAIR", "0005": "T1 mprage"}.items():
        write_series(tmp_path / name, np.ones((4, 5, 3)), np.eye(4), SeriesDescription=description)
    found = search_folder(tmp_path, "flair", tmp_path / "out")
    assert names(found.scans) == ["0001", "0004"]
    assert reasons(found.left_out) == {
        "0005": "is t1 according to its name or series description, but the model needs flair; "
        "give the series itself to segment it"
    }
    assert names(search_folder(tmp_path, None, tmp_path / "out").scans) == ["0001", "0004", "0005"]
