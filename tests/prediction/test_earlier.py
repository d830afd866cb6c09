"""What an earlier run has left, and what becomes of it."""

import json
import shutil
from pathlib import Path

from brainseg_tf.images.modality_names import without_modality
from helpers import FAST, call, rows


def test_a_killed_overwrite_leaves_no_old_mask_beside_the_new_report(trained, scan, tmp_path, monkeypatch):
    out = tmp_path / "out"
    options = ("predict", scan, "--out-dir", out, "--model", trained, *FAST)
    assert call(*options).exit_code == 0
    mask, original = next(out.glob("*_mask.nii.gz")), Path.replace
    ended = []

    def killed(self, target):
        if ended:  # A process that is killed does nothing more.
            raise SystemExit
        original(self, target)
        if str(target).endswith("_report.json"):
            ended.append(target)
            raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        call(*options, "--overwrite", "--min-size-ml", "3")
    assert not mask.exists()
    result = call(*options, "--continue", "--min-size-ml", "3")
    assert result.exit_code == 0 and "kept" not in result.output, result.output


def test_overwriting_with_fewer_outputs_names_the_old_files(trained, scan, tmp_path):
    out = tmp_path / "out"
    maps = ("--save-probability", "{name}_p.nii.gz", "--html", out / "index.html")
    command = ("predict", scan, "--out-dir", out, "--model", trained, *FAST)
    assert call(*command, *maps).exit_code == 0
    moved = out.rename(tmp_path / "moved")
    command = ("predict", scan, "--out-dir", moved, "--model", trained, "--overwrite", *FAST)
    result = call(*command)
    assert result.exit_code == 0, result.output
    name = scan.name.split(".")[0]
    files = f"{without_modality(scan)}_p.nii.gz, {name}.html, {name}_thumbnail.png"
    warning = f"{moved}: has {files} of an earlier run, which this run does not write; delete old files"
    assert warning in json.loads((moved / f"{name}_report.json").read_text())["warnings"]
    assert warning in result.stderr
    # The report of this run does not name them, so there is one warning.
    assert "earlier run" not in call(*command).stderr


def test_the_report_of_another_scan_is_no_reason_to_delete_its_mask(trained, scan, tmp_path):
    single = ("--report", tmp_path / "report.json", "--model", trained, "--overwrite", *FAST)
    assert call("predict", scan, "--out", tmp_path / "p1_mask.nii.gz", *single).exit_code == 0
    result = call("predict", scan, "--out", tmp_path / "p2_mask.nii.gz", *single)
    assert result.exit_code == 0 and "earlier run" not in result.stderr


def test_old_files_of_a_bids_derivative_are_named_with_their_folders(trained, scans, tmp_path):
    root, out = tmp_path / "bids", tmp_path / "out"
    (root / "sub-01" / "anat").mkdir(parents=True)
    shutil.copy(scans / "sub-00_FLAIR.nii.gz", root / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    (root / "dataset_description.json").write_text("{}")
    command = ("predict", root, "--out-dir", out, "--model", trained, *FAST)
    more = ("--html", out / "index.html", "--save-probability", "{name}_desc-lesion_probseg.nii.gz")
    assert call(*command, *more).exit_code == 0
    result = call(*command, "--overwrite")
    assert result.exit_code == 0, result.output
    files = (
        "sub-01_desc-lesion_probseg.nii.gz, ../../sub-01_label-lesion_mask.html, "
        "../figures/sub-01_label-lesion_thumbnail.png, sub-01_desc-lesion_probseg.json"
    )
    assert f"{out}/sub-01/anat: has {files} of an earlier run" in result.stderr
    assert call(*command, root / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz", "--overwrite").exit_code == 0
    assert len(rows(out)) == 1  # It is in the dataset too.


def test_a_scan_that_fails_with_overwrite_does_not_keep_its_row(trained, scan, tmp_path):
    folder, out = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    shutil.copy(scan, tmp_path / "a.nii.gz")
    (folder / "a.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    command = ("predict", folder, "--out-dir", out, "--model", trained, *FAST)
    assert call(*command).exit_code == 0
    (tmp_path / "a.nii.gz").unlink()
    for option, status in (("--continue", "done"), ("--overwrite", "failed")):
        assert call(*command, option).exit_code == 1
        assert [row["status"] for row in rows(out)] == [status]


def test_a_scan_that_cannot_be_read_any_more_stays_in_the_tables(trained, scans, tmp_path):
    folder, out = tmp_path / "scans", tmp_path / "out"
    (folder / "annex").mkdir(parents=True)
    for name in ("a_flair.nii.gz", "b_flair.nii.gz"):
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", folder / "annex" / name)
        (folder / name).symlink_to(folder / "annex" / name)
    command = ("predict", folder, "--out-dir", out, "--model", trained, *FAST)
    assert call(*command).exit_code == 0
    before = (out / "volumes.tsv").read_text()
    (folder / "annex" / "a_flair.nii.gz").unlink()
    result = call(*command, "--continue")
    assert result.exit_code == 1 and "a_flair.nii.gz: is a link to a file that does not exist" in result.stderr
    assert (out / "volumes.tsv").read_text() == before
    # And a file of the user that has the name of a further output is not replaced.
    shutil.copy(scans / "sub-00_FLAIR.nii.gz", folder / "annex" / "a_flair.nii.gz")
    (out / "b_prob.nii.gz").write_bytes(b"of the user")
    result = call(*command, "--continue", "--save-probability", "{name}_prob.nii.gz")
    assert result.exit_code == 1 and "b_prob.nii.gz: exists already" in result.stderr
    assert (out / "b_prob.nii.gz").read_bytes() == b"of the user"
    assert len((out / "volumes.tsv").read_text().splitlines()) == 3
    masks_in_table = [row["mask"] for row in rows(out) if row["status"] != "left out"]
    assert masks_in_table == [str(out / f"{name}_flair_mask.nii.gz") for name in "ab"]


def test_a_link_in_a_bids_dataset_that_is_broken_later_has_one_row(trained, scans, tmp_path):
    root, out = tmp_path / "bids", tmp_path / "out"
    for subject in ("sub-01", "sub-02"):
        (root / subject / "anat").mkdir(parents=True)
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", root / f"{subject}.nii.gz")
        (root / subject / "anat" / f"{subject}_FLAIR.nii.gz").symlink_to(root / f"{subject}.nii.gz")
    (root / "dataset_description.json").write_text("{}")
    command = ("predict", root, "--out-dir", out, "--model", trained, *FAST)
    assert call(*command).exit_code == 0
    before = rows(out), (out / "volumes.tsv").read_text()
    (root / "sub-01.nii.gz").unlink()
    result = call(*command, "--continue")
    assert result.exit_code == 1 and "sub-01_FLAIR.nii.gz: is a link to a file" in result.stderr
    kept = [row | {"status": "kept"} if "sub-02" in row["scan"] else row for row in before[0]]
    assert (rows(out), (out / "volumes.tsv").read_text()) == (kept, before[1])
