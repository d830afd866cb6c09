import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.options import PredictOptions, SegmentationOptions
from brainseg_tf.prediction import cohort_tables, results_table
from brainseg_tf.prediction.batch import Batch, plan_batch, run_all
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.predictor import Predictor
from brainseg_tf.prediction.progress import Progress
from brainseg_tf.saved_model import find
from helpers import FAST, call, fails, make_brain, masks, rows, save

LOCK = ".summary.csv.lock"
LOCKS = [LOCK, ".volumes.tsv.lock"]


def hidden(out):
    return sorted(file.name for file in out.iterdir() if file.name.startswith("."))


def test_two_workers_give_the_same_masks_as_one(trained, scans, tmp_path):
    for workers in (1, 2):
        out = tmp_path / str(workers)
        result = call("predict", scans, "--out-dir", out, "--model", trained, "--workers", workers, *FAST)
        assert result.exit_code == 0, result.output
        # The lines have the order of the scans, whichever was finished first.
        lines = [line.split("] ", 1) for line in result.stdout.splitlines()]
        assert [Path(line.split(": ")[0]).name for _, line in lines] == list(masks(out))
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


def test_continue_keeps_complete_results_and_replaces_others(trained, scans, tmp_path):
    out = tmp_path / "out"
    assert call("predict", scans, "--out-dir", out, "--model", trained, *FAST).exit_code == 0
    before = masks(out)
    (out / "sub-01_FLAIR_report.json").unlink()
    whole = (out / "sub-02_FLAIR_mask.nii.gz").read_bytes()
    (out / "sub-02_FLAIR_mask.nii.gz").write_bytes(whole[: len(whole) // 2])
    kept = (out / "sub-00_FLAIR_mask.nii.gz").stat().st_mtime_ns
    result = call("predict", scans, "--out-dir", out, "--model", trained, "--continue", *FAST)
    assert result.exit_code == 0, result.output
    assert [line["status"] for line in rows(out)] == ["kept", "done", "done"]
    assert (out / "sub-00_FLAIR_mask.nii.gz").stat().st_mtime_ns == kept
    assert [line.partition("] ")[0] for line in result.stdout.splitlines()] == ["[1/3, kept", "[2/3", "[3/3"]
    for name, mask in masks(out).items():
        np.testing.assert_array_equal(mask, before[name])
    assert len((out / "volumes.tsv").read_text().splitlines()) == 4
    # Without --continue, existing files are not changed.
    summary = (out / "summary.csv").read_text()
    assert "give --continue to keep its results" in fails(
        call("predict", scans, "--out-dir", out, "--model", trained, *FAST)
    )
    assert (out / "summary.csv").read_text() == summary
    (out / "summary.csv").unlink()
    result = call("predict", scans, "--out-dir", out, "--model", trained, *FAST)
    assert result.exit_code == 1
    assert "3 of 3 scans failed" in result.stderr


def test_continue_refuses_results_of_other_options(trained, scans, tmp_path):
    out = tmp_path / "out"
    first = ("predict", scans / "sub-00_FLAIR.nii.gz", "--out-dir", out, "--model", trained, *FAST)
    assert call(*first).exit_code == 0
    before = (out / "sub-00_FLAIR_mask.nii.gz").read_bytes()
    result = call("predict", scans, "--out-dir", out, "--model", trained, *FAST, "--closing-mm", 5, "--continue")
    assert result.exit_code == 1
    expected = "sub-00_FLAIR_mask.nii.gz: was written by another version or model or with other options; give"
    assert f"{expected} --overwrite" in result.stderr
    # The earlier result stays in the tables.
    assert [line["status"] for line in rows(out)] == ["done", "done", "done"]
    assert len((out / "volumes.tsv").read_text().splitlines()) == 4
    assert (out / "sub-00_FLAIR_mask.nii.gz").read_bytes() == before


def test_continue_refuses_results_of_other_files(trained, scan, tmp_path):
    out = tmp_path / "out"
    first, second = (tmp_path / place / "p1_flair.nii.gz" for place in "ab")
    for number, file in enumerate((first, second)):
        save(make_brain(number)[0], file)
    brain = save((make_brain(0)[0] > 0).astype(np.uint8), first.with_name("p1_brain.nii.gz"))
    options = ("--out-dir", out, "--model", trained, *FAST)
    assert call("predict", first, *options).exit_code == 0
    before = (out / "p1_flair_mask.nii.gz").read_bytes()
    for changed in ((second,), (first, "--brain-mask", "{name}_brain.nii.gz")):
        result = call("predict", *changed, *options, "--continue")
        assert result.exit_code == 1
        assert "p1_flair_mask.nii.gz: was written from other files; give --overwrite" in result.stderr
        assert (out / "p1_flair_mask.nii.gz").read_bytes() == before
    # A cohort can be moved.
    moved = first.parent.rename(tmp_path / "moved")
    assert call("predict", moved / first.name, *options, "--continue").exit_code == 0
    assert brain.name == "p1_brain.nii.gz"


def test_a_scan_has_one_row_however_its_path_is_typed(trained, scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(scans.parent)
    options = ("--out-dir", out, "--model", trained, "--continue", *FAST)
    for place in (scans.name, scans, f"./{scans.name}/../{scans.name}"):
        assert call("predict", place, *options).exit_code == 0
    assert len((out / "volumes.tsv").read_text().splitlines()) == 4
    assert len({line["mask"] for line in rows(out)}) == 3


@pytest.mark.parametrize("name", cohort_tables.NAMES[:4])
def test_another_file_with_the_name_of_a_table_is_not_replaced(trained, scan, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    mine = {".tsv": "participant_id\tage\nsub-01\t40\n", ".json": '{"age": 40}'}[Path(name).suffix]
    (out / name).write_text(mine)
    message = fails(call("predict", scan, "--out-dir", out, "--model", trained, *FAST))
    assert message.startswith(f"Error: {out / name}: would be replaced by a table of results, but is another file")
    assert (out / name).read_text() == mine
    assert not list(out.glob("*_mask.nii.gz"))


def test_a_disk_that_fills_up_keeps_what_is_finished(trained, scans, tmp_path, monkeypatch):
    write_whole, out = Path.write_bytes, tmp_path / "out"

    def write_until_full(path, content):
        if list(out.glob("*_mask.nii.gz")):
            write_whole(path, content[:4])
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    arguments = ("predict", scans, "--out-dir", out, "--model", trained, "--workers", 1, *FAST)
    with monkeypatch.context() as filling:
        filling.setattr(Path, "write_bytes", write_until_full)
        result = call(*arguments)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all("cannot be written (No space left on device)" in line for line in lines[:2])
    assert lines[2] == "Error: 2 of 3 scans failed"
    assert list(masks(out)) == ["sub-00_FLAIR_mask.nii.gz"]
    assert hidden(out) == LOCKS
    assert call(*arguments, "--continue").exit_code == 0
    assert len(masks(out)) == 3
    assert [line["status"] for line in rows(out)] == ["kept", "done", "done"]


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


@pytest.mark.slow
def test_ctrl_c_loses_nothing_that_is_finished(trained, scans, tmp_path):
    many = tmp_path / "scans"
    many.mkdir()
    for number in range(40):
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", many / f"sub-{number:02}_FLAIR.nii.gz")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        # If the tests run in the background, SIGINT is ignored in the child processes too.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from brainseg_tf_cli.main import main; main()",
        "predict",
        many,
        "--model",
        trained,
    ]
    process = subprocess.Popen(
        [str(part) for part in (*command, "--out-dir", out, *FAST)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    _, stderr = process.communicate(timeout=60)
    assert time.perf_counter() - start < 30
    assert process.returncode == 130, stderr
    assert "of 40 scans; --continue does the others" in stderr
    assert "Traceback" not in stderr
    done = masks(out)
    assert 1 <= len(done) < 40
    assert all(mask.any() for mask in done.values())
    assert len(list(out.glob("*_report.json"))) == len(done)
    assert hidden(out) == LOCKS
    assert 1 <= len(rows(out)) <= len(done)


def test_continue_needs_out_dir(scan, tmp_path):
    message = fails(call("predict", scan, "--out", tmp_path / "mask.nii.gz", "--continue"), code=2)
    assert "--continue and --scheduler go with --out-dir" in message


def test_loading_a_model_is_tried_again_for_the_next_scan(trained, scan, tmp_path):
    found, attempts = find(str(trained)), []

    def load():
        attempts.append(1)
        if len(attempts) == 1:
            raise InputError("the server is not available")
        return found.load()

    predictor = Predictor(found.card, load, PredictOptions(SegmentationOptions(median=(1, 3, 3))))
    jobs = [Job(scan, Outputs(tmp_path / f"{name}.nii.gz")) for name in "ab"]
    first, second = run_all(predictor, jobs, workers=1)
    assert first.error == "the server is not available"
    assert second.error is None
    assert len(attempts) == 2
    assert not jobs[0].outputs.mask.exists() and jobs[1].outputs.mask.exists()


class Fake:
    """A predictor without a network. It raises an exception for scans named ``memory`` and ``unicode``."""

    def run(self, job, *, overwrite=False):
        error = {"memory": MemoryError(), "unicode": UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates\nno")}.get(
            job.scan.name.split(".")[0]
        )
        if error:
            raise error
        job.outputs.mask.write_bytes(b"mask")
        outputs = {"mask": str(job.outputs.mask), "report": str(job.outputs.report)}
        report = {"lesion_ml": 1.0, "components": 1, "seconds": {"model": 1.0}, "warnings": [], "outputs": outputs}
        report |= {
            "lesions": [{}],
            "brain": {"ml": 1000.0, "median_intensity": 3.0},
            "model": {"name": "m", "version": 1},
        }
        job.outputs.report.write_text(json.dumps(report))
        return report


def test_any_exception_of_one_scan_does_not_stop_the_others(tmp_path):
    places = [tmp_path / f"{name}.nii.gz" for name in ("a", "memory", "unicode", "b")]
    batch = plan_batch(places, tmp_path / "out")
    outcomes = list(run_all(Fake(), batch.jobs))
    assert [outcome.error is None for outcome in outcomes] == [True, False, False, True]
    assert "memory.nii.gz: there is not enough memory; lower --workers" in outcomes[1].error
    assert "unicode.nii.gz: failed unexpectedly (UnicodeEncodeError:" in outcomes[2].error
    assert "\n" not in outcomes[2].error and outcomes[2].error.isprintable()


def test_the_table_has_every_scan_that_is_finished_at_any_moment(tmp_path):
    places = [tmp_path / f"{number}.nii.gz" for number in range(5)]
    batch = plan_batch(places, tmp_path / "out")
    progress = Progress(tmp_path / "out", batch, tmp_path / "out" / "index.html")
    running = run_all(Fake(), batch.jobs, workers=1)
    for number, outcome in enumerate(running, start=1):
        progress.add(outcome)
        assert [Path(line["scan"]) for line in rows(tmp_path / "out")] == places[:number]
        assert str(progress) == f"{number}/5"
        assert bool(progress.time_left) == (number < 5)
        # The index is written before the first scan and then every few seconds.
        assert "of 5 done" in (tmp_path / "out" / "index.html").read_text()
    progress.write_index()
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(f"{number}.nii.gz" in page for number in range(5))


def test_runs_with_the_same_output_folder_keep_each_others_scans(tmp_path):
    out, index = tmp_path / "out", tmp_path / "out" / "index.html"
    batches = [plan_batch([tmp_path / f"{name}.nii.gz"], out) for name in ("a", "memory", "b")]
    both = [Progress(out, batch, index) for batch in batches]
    for progress, batch in zip(both, batches, strict=True):
        for outcome in run_all(Fake(), batch.jobs):
            progress.add(outcome)
    for progress in both:
        progress.write_index()
    assert {Path(line["scan"]).name: line["status"] for line in rows(out)} == {
        "a.nii.gz": "done",
        "memory.nii.gz": "failed",
        "b.nii.gz": "done",
    }
    page = index.read_text()
    assert all(f"{name}.nii.gz" in page for name in ("a", "memory", "b"))


@pytest.mark.slow
def test_two_commands_at_once_into_one_folder(trained, scans, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from brainseg_tf_cli.main import run; run()", "predict", "--model", trained]
    running = [
        subprocess.Popen(
            [str(part) for part in (*command, scans / f"sub-0{number}_FLAIR.nii.gz", "--out-dir", out, *FAST)]
        )
        for number in (0, 1)
    ]
    assert [one.wait(120) for one in running] == [0, 0]
    assert [(Path(line["scan"]).name, line["status"]) for line in sorted(rows(out), key=lambda line: line["scan"])] == [
        ("sub-00_FLAIR.nii.gz", "done"),
        ("sub-01_FLAIR.nii.gz", "done"),
    ]


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
    assert "caf\\xe9.nii.gz" in page
    assert "./a%23%3F%2520.html" in page


def test_a_scan_that_fails_while_it_is_written_leaves_nothing(trained, scan, tmp_path, monkeypatch):
    from brainseg_tf.prediction import predictor as prediction

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(prediction, "write_map", fail)
    out = tmp_path / "out"
    result = call("predict", scan, "--out-dir", out, "--model", trained, *FAST)
    assert result.exit_code == 1
    assert sorted(file.name for file in out.iterdir()) == sorted([LOCK, "summary.csv", *cohort_tables.NAMES])
    assert [line["status"] for line in rows(out)] == ["failed"]


@pytest.mark.slow
def test_a_batch_that_is_killed_keeps_its_rows(trained, scans, tmp_path):
    many, out = tmp_path / "scans", tmp_path / "out"
    many.mkdir()
    for number in range(30):
        shutil.copy(scans / "sub-00_FLAIR.nii.gz", many / f"sub-{number:02}_FLAIR.nii.gz")
    command = [sys.executable, "-c", "from brainseg_tf_cli.main import run; run()", "predict", many, "--model", trained]
    process = subprocess.Popen([str(part) for part in (*command, "--out-dir", out, *FAST)], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.readline()
    process.kill()
    process.wait(30)
    process.stdout.close()
    done = rows(out)
    assert 2 <= len(done) < 30
    assert {line["status"] for line in done} == {"done"}


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
