"""Many scans in one run: masks, table, BIDS derivatives, names."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from batches import LOCK, Fake
from brainseg_tf.errors import InputError, InputWarning
from brainseg_tf.files import file_lock
from brainseg_tf.prediction import cohort_tables, results_table
from brainseg_tf.prediction.batch import Batch, plan_batch
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.progress import Progress
from brainseg_tf.prediction.running import run_all
from helpers import FAST, call, fails, make_brain, masks, rows, save


@pytest.mark.slow
def test_two_workers_give_the_same_masks_as_one(trained, scans, tmp_path):
    for workers in (1, 2):
        out = tmp_path / str(workers)
        result = call("predict", scans, "--out-dir", out, "--model", trained, "--workers", workers, *FAST)
        assert result.exit_code == 0, result.output
        lines = [line.split("] ", 1) for line in result.stdout.splitlines()]
        assert sorted(Path(line.split(": ")[0]).name for _, line in lines) == list(masks(out))
        # The rows have the order of the scans, whichever was finished first.
        assert [Path(line["mask"]).name for line in rows(out)] == list(masks(out))
        assert [count for count, _ in lines] == ["[1/3", "[2/3", "[3/3"]
    one, two = masks(tmp_path / "1"), masks(tmp_path / "2")
    assert one.keys() == two.keys()
    for name, mask in one.items():
        assert mask.any()
        np.testing.assert_array_equal(mask, two[name])


def test_a_suffix_can_be_in_upper_case(trained, scans, tmp_path):
    (tmp_path / "scans").mkdir()
    shutil.copy(scans / "sub-00_FLAIR.nii.gz", tmp_path / "scans" / "SUB.NII.GZ")
    out = tmp_path / "out"
    result = call("predict", tmp_path / "scans", "--out-dir", out, "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    assert list(masks(out)) == ["SUB_mask.nii.gz"]


def test_the_summary_has_a_line_for_each_scan(trained, scans, tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(scans, folder)
    (folder / "sub-01_FLAIR.nii.gz").write_bytes(b"nonsense")
    out = tmp_path / "out"
    assert call("predict", folder, "--out-dir", out, "--model", trained, *FAST).exit_code == 1
    lines = rows(out)
    assert [Path(line["scan"]).name for line in lines] == [f"sub-{number:02}_FLAIR.nii.gz" for number in range(3)]
    assert [line["status"] for line in lines] == ["done", "failed", "done"]
    assert "is not a readable NIfTI file" in lines[1]["error"]
    report = json.loads((out / "sub-00_FLAIR_report.json").read_text())
    assert float(lines[0]["lesion_ml"]) == report["lesion_ml"] > 0
    assert int(lines[0]["lesions"]) == report["components"]
    assert float(lines[0]["seconds"]) > 0


@pytest.mark.slow
def test_a_bids_dataset_gives_a_bids_derivative(trained, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    for place in ("sub-01/anat/sub-01_FLAIR", "sub-02/ses-a/anat/sub-02_ses-a_run-1_FLAIR"):
        save(make_brain(1)[0], data / f"{place}.nii.gz")
        save(make_brain(1)[0], data / f"{place.removesuffix('_FLAIR')}_T1w.nii.gz")
    out = tmp_path / "out"
    result = call("predict", data, "--out-dir", out, "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == {
        ".bidsignore",
        LOCK,
        "dataset_description.json",
        "summary.csv",
        *cohort_tables.NAMES,
        "sub-01/anat/sub-01_label-lesion_mask.nii.gz",
        "sub-01/anat/sub-01_label-lesion_mask.json",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.json",
        "sub-01/figures/sub-01_label-lesion_mask.png",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_label-lesion_mask.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_label-lesion_mask.json",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_desc-brain_mask.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_desc-brain_mask.json",
        "sub-02/figures/sub-02_ses-a_run-1_label-lesion_mask.png",
    }
    first, second = (out / "volumes.tsv").read_text().splitlines()[1:]
    ignored = (out / ".bidsignore").read_text().splitlines()
    assert {"summary.csv", "brain.csv", *cohort_tables.NAMES, "*.html"} < set(ignored)
    assert first.split("\t")[:2] == ["sub-01", "n/a"] and second.split("\t")[:2] == ["sub-02", "ses-a"]
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "brainseg-tf"
    validator = shutil.which("bids-validator-deno", path=Path(sys.executable).parent) or shutil.which("bids-validator")
    if validator is None:
        pytest.skip("the rest needs a BIDS validator: pip install bids-validator-deno")

    def errors():
        checked = subprocess.run([validator, "--format", "json", str(out)], capture_output=True, text=True, check=False)
        found = json.loads(checked.stdout)["issues"]["issues"]
        return [issue for issue in found if issue.get("severity") == "error"]

    assert errors() == []
    # The tables for viewers, for which BIDS has no names, are ignored.
    maps = ("--save-lesions", "{name}_desc-lesions_dseg.nii.gz", "--viewer-tables")
    result = call("predict", data, "--out-dir", out, "--model", trained, *maps, "--overwrite", *FAST)
    assert result.exit_code == 0, result.output
    assert (out / "sub-01" / "anat" / "sub-01_desc-lesions_dseg_itksnap.txt").is_file()
    assert errors() == []


def test_the_description_of_another_dataset_is_not_changed(tmp_path):
    data = tmp_path / "data"
    save(make_brain(1)[0], data / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    (data / "dataset_description.json").write_text('{"Name": "mine"}')
    with pytest.raises(InputError, match="belongs to another dataset; choose another --out-dir"):
        plan_batch([data], data)
    assert (data / "dataset_description.json").read_text() == '{"Name": "mine"}'
    assert len(plan_batch([data], tmp_path / "out").jobs) == len(plan_batch([data], tmp_path / "out").jobs) == 1


def test_a_bids_dataset_without_flair_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_description.json").write_text("{}")
    with pytest.raises(InputError, match=r"no sub-\*/anat/\*_FLAIR.nii.gz in this BIDS dataset"):
        plan_batch([tmp_path / "data"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_every_kind_and_members_that_are_no_scans(trained, scans, tmp_path):
    folder, out = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    names = [os.fsdecode(b"caf\xe9.nii.gz"), "a#?%20.nii.gz", "two\nlines.nii.gz", f"{'x' * 245}.nii.gz"]
    for name in names:
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", folder / name)
    (folder / "annexed.nii.gz").symlink_to("gone")
    shutil.copy(scans / "sub-00_FLAIR.nii.gz", folder / "a_T1w.nii.gz")
    result = call("predict", folder, "--out-dir", out, "--model", trained, "--html", out / "index.html", *FAST)
    assert result.exit_code == 1, result.output
    found = {line["scan"].removeprefix(f"{folder}/"): line for line in rows(out)}
    assert {name: line["status"] for name, line in found.items()} == {
        "annexed.nii.gz": "failed",
        "a#?%20.nii.gz": "done",
        "caf\\xe9.nii.gz": "done",
        "two\\nlines.nii.gz": "done",
        names[3]: "failed",
        "a_T1w.nii.gz": "left out",
    }
    assert "bytes, the file system allows 255; shorten the scan's name" in found[names[3]]["error"]
    assert "is a link to a file that does not exist" in found["annexed.nii.gz"]["error"]
    assert (out / os.fsdecode(b"caf\xe9_mask.nii.gz")).is_file()
    assert not [file for file in out.iterdir() if file.name.startswith("xxx")]
    lines = result.stderr.splitlines()
    assert len(lines) == 4, lines  # Two failed scans, one file that was left out, and the number of failures.
    assert "a_T1w.nii.gz: left out, is t1 according to its name" in lines[0]
    assert lines[-1] == "Error: 2 of 5 scans failed"
    assert all(line.isprintable() for line in (*lines, *result.stdout.splitlines()))
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("caf\\xe9.nii.gz") == page.count("a#?%20.nii.gz") > 0
    assert "./a%23%3F%2520.html" in page
    # The reports of all of them are found again.
    lesions = [line.split("\t") for line in (out / "lesions.tsv").read_text(encoding="utf-8").splitlines()]
    assert {cells[2].removeprefix(f"{folder}/") for cells in lesions[1:]} == {
        "a#?%20.nii.gz",
        "caf\\xe9.nii.gz",
        "two\\nlines.nii.gz",
    }


def test_a_large_table_is_not_written_after_each_scan(tmp_path, monkeypatch):
    calls = []

    def slow(path, new):
        calls.append(len(new))
        time.sleep(0.15)

    monkeypatch.setattr(results_table, "update", slow)
    jobs = [Job(tmp_path / f"{number}.nii", Outputs(tmp_path / f"{number}_mask.nii")) for number in range(8)]
    progress = Progress(tmp_path, Batch(jobs), None)
    for job in jobs:
        progress.add(Outcome(job, error="is empty"))
    assert calls == [1]
    progress.finish()
    assert calls == [1, 7]


def test_no_result_replaces_a_scan_or_another_output(trained, tmp_path):
    folder = tmp_path / "scans"
    for name in ("p", "p_brain"):
        save(make_brain(1)[0], folder / f"{name}.nii.gz")
    before = (folder / "p_brain.nii.gz").read_bytes()
    for more in ("--overwrite", "--continue"):
        message = fails(call("predict", folder, "--out-dir", folder, "--model", trained, more, *FAST))
        assert message == (
            f"Error: {folder}/p_brain.nii.gz: is read, but an output has the same name; choose another --out-dir\n"
        )
    assert "is read, but an output has" in fails(call("brain", folder, "--out-dir", folder, "--overwrite"))
    assert (folder / "p_brain.nii.gz").read_bytes() == before
    save(make_brain(1)[0], tmp_path / "index.nii.gz")
    out = tmp_path / "out"
    for name in ("index.html", "summary.csv"):
        arguments = ("predict", tmp_path / "index.nii.gz", "--out-dir", out, "--html", out / name, "--overwrite")
        assert f"{out / name}: is named twice; rename the scan" in fails(call(*arguments, "--model", trained, *FAST))
    assert sorted(file.name for file in folder.iterdir()) == ["p.nii.gz", "p_brain.nii.gz"]


def test_a_scan_that_is_finished_does_not_wait_for_a_slow_one(tmp_path):
    class Slow(Fake):
        def run(self, job, *, overwrite=False):
            if job.scan.name == "0.nii.gz":
                others.wait(30)
            return super().run(job, overwrite=overwrite)

    others = threading.Event()
    batch = plan_batch([tmp_path / f"{number}.nii.gz" for number in range(4)], tmp_path / "out")
    running = run_all(Slow(), batch.jobs, workers=2)
    first = [next(running).job.scan.name for _ in range(3)]
    others.set()
    assert sorted(first) == ["1.nii.gz", "2.nii.gz", "3.nii.gz"]
    assert next(running).job.scan.name == "0.nii.gz"


def test_tables_that_others_write_are_no_failure(tmp_path, monkeypatch):
    batch = plan_batch([tmp_path / "a.nii.gz"], tmp_path / "out")
    progress = Progress(tmp_path / "out", batch, None)
    for outcome in run_all(Fake(), batch.jobs):
        progress.add(outcome)
    monkeypatch.setattr(cohort_tables, "file_lock", partial(file_lock, seconds=0.1))
    with (
        file_lock(tmp_path / "out" / cohort_tables.VOLUMES),
        pytest.warns(InputWarning, match=r"out: other runs keep volumes\.tsv locked; --continue adds the rows"),
    ):
        progress.finish()
    monkeypatch.setattr(results_table, "file_lock", partial(file_lock, seconds=0.1))
    (other,) = plan_batch([tmp_path / "b.nii.gz"], tmp_path / "out").jobs
    with file_lock(tmp_path / "out" / "summary.csv"):
        progress.add(Outcome(other, error="b.nii.gz: is empty"))
        with pytest.warns(InputWarning, match=r"out: other runs keep summary\.csv locked"):
            progress.finish()
    assert len(rows(tmp_path / "out")) == 1
    progress.finish()
    assert [line["status"] for line in rows(tmp_path / "out")] == ["done", "failed"]
    assert len((tmp_path / "out" / "volumes.tsv").read_text().splitlines()) == 2
