"""Runs into a folder that has results of earlier runs."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batches import Fake
from brainseg_tf.model_card import read_card
from brainseg_tf.prediction import cohort_tables, results_table
from brainseg_tf.prediction.batch import plan_batch
from brainseg_tf.prediction.progress import Progress
from brainseg_tf.prediction.running import run_all
from brainseg_tf.saved_model import find
from helpers import AFFINE, FAST, call, fails, make_brain, masks, rows, save
from synthetic_dicom import write_series


@pytest.mark.slow
def test_continue_keeps_complete_results_and_replaces_others(trained, scans, tmp_path):
    out = tmp_path / "out"
    assert call("predict", scans, "--out-dir", out, "--model", trained, *FAST).exit_code == 0
    before = masks(out)
    (out / "sub-01_FLAIR_figure.png").unlink()
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


@pytest.mark.slow
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
    # Reports of earlier versions have no samples of the content, and are refused for their version.
    report = out / "p1_flair_report.json"
    written = json.loads(report.read_text())
    del written["inputs"]["scan"]["samples"]
    report.write_text(json.dumps(written | {"brainseg_tf": "0.19.0"}))
    assert "written by another version" in call("predict", first, *options, "--continue").stderr
    report.write_text(json.dumps(written))
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


def test_a_scan_has_one_row_in_whatever_folder_its_path_was_typed(tmp_path):
    """A relative path means another file in another working directory, but the mask is the same."""
    table = tmp_path / "out" / "summary.csv"
    table.parent.mkdir()

    def done(scan: str, mask: str) -> results_table.Row:
        path = str(tmp_path / "out" / mask)
        return results_table.row(Path(scan), "done") | {"mask": path, results_table.PLANNED: path}

    failed = results_table.row(Path("P1/c.nii"), "failed", error="no brain")
    results_table.update(table, [done("P1/a.nii", "a_mask.nii.gz"), done("P1/b.nii", "b_mask.nii.gz"), failed])
    left = results_table.update(table, [done("/x/P1/a.nii", "a_mask.nii.gz")])
    assert [one["scan"] for one in left] == ["/x/P1/a.nii", "P1/b.nii", "P1/c.nii"]
    # Sessions whose files have one name, and an output folder that was typed in another way.
    for session in "12":
        rows = results_table.update(table, [done(f"/x/ses-{session}/d.nii", f"ses-{session}/d_mask.nii.gz")])
    mask = "out/ses-1/d_mask.nii.gz"
    again = results_table.row(Path("ses-1/d.nii"), "done") | {"mask": mask, results_table.PLANNED: mask}
    assert len(results_table.update(table, [again])) == len(rows) == 5


@pytest.mark.slow
def test_a_series_in_the_current_folder_has_its_name(trained, tmp_path, monkeypatch):
    series = tmp_path / "patient 7"
    series.mkdir()
    write_series(series, make_brain(2)[0].astype(np.int16), AFFINE)
    monkeypatch.chdir(series)
    assert call("predict", ".", "--out-dir", tmp_path / "out", "--model", trained, *FAST).exit_code == 0
    assert (tmp_path / "out" / "patient 7_mask.nii.gz").exists()
    monkeypatch.chdir(tmp_path / "out")
    (line,) = rows(tmp_path / "out")
    assert Path(line["scan"]) == series


def test_a_folder_with_the_name_of_a_table(trained, scan, tmp_path):
    (tmp_path / "out" / "lesions.tsv").mkdir(parents=True)
    message = fails(call("predict", scan, "--out-dir", tmp_path / "out", "--model", trained, *FAST))
    assert "lesions.tsv: cannot be read (Is a directory), but a table of results has this name; move it" in message


@pytest.mark.parametrize("name", cohort_tables.NAMES[:-1])
def test_another_file_with_the_name_of_a_table_is_not_replaced(trained, scan, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    mine = {".tsv": "participant_id\tage\nsub-01\t40\n", ".json": '{"age": 40}'}[Path(name).suffix]
    (out / name).write_text(mine)
    message = fails(call("predict", scan, "--out-dir", out, "--model", trained, *FAST))
    assert message.startswith(f"Error: {out / name}: would be replaced by a table of results, but is another file")
    assert (out / name).read_text() == mine
    assert not list(out.glob("*_mask.nii.gz"))


def test_continue_needs_out_dir(scan, tmp_path):
    message = fails(call("predict", scan, "--out", tmp_path / "mask.nii.gz", "--continue"), code=2)
    assert "--continue and --scheduler go with --out-dir" in message


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


@pytest.mark.parametrize("sidecar", [None, "{}", "[1]", "a note", '{"Type": "Lesion"}'])
def test_continue_does_not_replace_files_that_are_not_of_an_earlier_run(trained, scan, tmp_path, sidecar):
    out = tmp_path / "out"
    own = save(make_brain(1)[1], out / "scan_mask.nii.gz")
    before = own.read_bytes()
    if sidecar is not None:
        (out / "scan_report.json").write_text(sidecar)
    result = call("predict", scan, "--out-dir", out, "--model", trained, "--continue", *FAST)
    assert result.exit_code == 1
    assert ": exists already; give --overwrite" in result.stderr
    assert own.read_bytes() == before
    assert (out / "scan_report.json").exists() == (sidecar is not None)


def test_a_report_that_a_power_failure_has_damaged_is_written_again(trained, scan, tmp_path):
    options = ("predict", scan, "--out-dir", tmp_path / "out", "--model", trained, *FAST)
    report = tmp_path / "out" / "scan_report.json"
    assert call(*options).exit_code == 0
    whole = report.read_bytes()
    for damaged in (b"", bytes(100), whole[:50]):
        report.write_bytes(damaged)
        assert call(*options, "--continue").exit_code == 0
        assert json.loads(report.read_bytes())["inputs"] == json.loads(whole)["inputs"]


def test_a_file_with_the_name_of_a_new_output_is_neither_kept_nor_replaced(trained, scan, tmp_path):
    out = tmp_path / "out"
    options = ("predict", scan, "--out-dir", out, "--model", trained, *FAST)
    assert call(*options).exit_code == 0
    own = save(make_brain(1)[0], out / "scan_prob.nii.gz")
    before = own.read_bytes()
    for missing in (False, True):
        if missing:
            (out / "scan_figure.png").unlink()
        result = call(*options, "--continue", "--save-probability", "{name}_prob.nii.gz")
        assert f"{own}: exists already" in result.stderr
        assert own.read_bytes() == before


def test_continue_refuses_other_results_also_if_they_are_incomplete(trained, scan, tmp_path):
    out = tmp_path / "out"
    options = ("--out-dir", out, "--model", trained, *FAST)
    assert call("predict", scan, *options).exit_code == 0
    before = (out / "scan_mask.nii.gz").read_bytes()
    # An output that the earlier run was not asked for is missing too.
    result = call("predict", scan, *options, "--closing-mm", 5, "--viewer-tables", "--continue")
    assert "scan_mask.nii.gz: was written by another version or model or with other options" in result.stderr
    (out / "scan_figure.png").unlink()
    save(make_brain(2)[0], scan)
    assert "scan_mask.nii.gz: was written from other files" in call("predict", scan, *options, "--continue").stderr
    assert (out / "scan_mask.nii.gz").read_bytes() == before


def test_continue_refuses_results_of_another_model_of_the_same_name(trained, scan, tmp_path):
    changed = shutil.copytree(find(str(trained)).path, tmp_path / "other" / "small" / "1")
    card = read_card(changed)
    replace(card, healthy_levels={name: 1.5 * level for name, level in card.healthy_levels.items()}).write(changed)
    out = tmp_path / "out"
    assert call("predict", scan, "--out-dir", out, "--model", trained, *FAST).exit_code == 0
    result = call("predict", scan, "--out-dir", out, "--model", changed.parent, "--continue", *FAST)
    assert "was written by another version or model" in result.stderr
    # Terms and metrics do not change a prediction.
    replace(card, terms="Others.").write(changed)
    assert read_card(changed).checksums != card.checksums
    assert call("predict", scan, "--out-dir", out, "--model", changed.parent, "--continue", *FAST).exit_code == 0


def test_an_uncertainty_of_other_copies_is_not_kept(trained, scan, tmp_path):
    maps = ("--save-uncertainty", "{name}_uncertainty.nii.gz")
    options = ("--out-dir", tmp_path / "out", "--model", trained, *FAST)
    assert call("predict", scan, *options, *maps, "--copies", 2).exit_code == 0
    assert call("predict", scan, *options, *maps, "--copies", 2, "--continue").exit_code == 0
    result = call("predict", scan, *options, *maps, "--copies", 3, "--continue")
    assert "with other options" in result.stderr
    # Without the map the number does not matter.
    assert call("predict", scan, *options, "--continue").exit_code == 0


def test_a_run_whose_folder_is_typed_in_another_way_loses_no_row(trained, scans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("predict", scans, "--out-dir", "out", "--model", trained, *FAST).exit_code == 0
    before = (tmp_path / "out" / "volumes.tsv").read_text()
    message = fails(call("predict", scans, "--out-dir", tmp_path / "out", "--model", trained, *FAST))
    assert "was written by an earlier run; give --continue" in message
    assert [line["status"] for line in rows(tmp_path / "out")] == ["done"] * 3
    assert (tmp_path / "out" / "volumes.tsv").read_text() == before


def test_one_relative_path_in_two_folders_is_two_scans(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    for site in "AB":
        (tmp_path / site).mkdir()
        monkeypatch.chdir(tmp_path / site)
        mask = f"../out/{site}1_mask.nii.gz"
        done = results_table.row(Path("s1/flair.nii"), "done") | {"mask": mask, results_table.PLANNED: mask}
        results_table.update(tmp_path / "out" / "summary.csv", [done])
    found = [one["mask"] for one in results_table.read(tmp_path / "out" / "summary.csv")]
    assert sorted(found) == ["../out/A1_mask.nii.gz", "../out/B1_mask.nii.gz"]


def test_maps_of_an_earlier_run_are_no_scans(trained, scans, tmp_path):
    for scan in scans.iterdir():
        shutil.copy(scan, tmp_path)
    options = ("predict", tmp_path, "--out-dir", tmp_path, "--model", trained, *FAST)
    maps = ("--save-probability", "{name}_prob.nii.gz", "--save-residual", "{name}_residual.nii.gz")
    for more in ((), ("--continue",)):
        result = call(*options, *maps, *more)
        assert result.exit_code == 0, result.output
        assert len(rows(tmp_path)) >= 3
        assert {one["scan"] for one in rows(tmp_path) if one["status"] in ("done", "kept")} == {
            f"{tmp_path}/{scan.name}" for scan in scans.iterdir()
        }


def test_a_missing_companion_does_not_remove_a_finished_patient_from_the_tables(trained, scans, tmp_path):
    names = sorted(scan.name for scan in scans.iterdir())
    for number, name in enumerate(names):
        shutil.copy(scans / name, tmp_path)
        save(make_brain(number)[1].astype(np.uint8), tmp_path / f"truth_{name}")
    table = tmp_path / "scans.tsv"
    table.write_text("path\tseg\n" + "".join(f"{name}\ttruth_{name}\n" for name in names))
    options = ("predict", table, "--out-dir", tmp_path / "out", "--model", trained, *FAST)
    assert call(*options).exit_code == 0
    before = (tmp_path / "out" / "volumes.tsv").read_text()
    (tmp_path / f"truth_{names[0]}").unlink()
    message = call(*options, "--continue")
    assert message.exit_code == 1
    assert f"truth_{names[0]}: no such file; restore it" in message.stderr
    assert (tmp_path / "out" / "volumes.tsv").read_text() == before


def test_a_file_of_one_line_is_not_replaced_as_a_table(trained, scan, tmp_path):
    (tmp_path / "summary.csv").write_text("my own note about the cohort, important\n")
    message = fails(call("predict", scan, "--out-dir", tmp_path, "--model", trained, *FAST))
    assert "summary.csv: is not a table of brainseg-tf; move it" in message
    assert (tmp_path / "summary.csv").read_text() == "my own note about the cohort, important\n"


def test_a_folder_upwards_has_one_row_for_a_scan(trained, scan, tmp_path, monkeypatch):
    (tmp_path / "results" / "sub").mkdir(parents=True)
    options = ("--model", trained, *FAST)
    monkeypatch.chdir(tmp_path / "results" / "sub")
    assert call("predict", scan, "--out-dir", "..", *options).exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert "was written by an earlier run" in fails(call("predict", scan, "--out-dir", "results", *options))
    assert call("predict", scan, "--out-dir", "results", "--continue", *options).exit_code == 0
    assert [one["status"] for one in rows(tmp_path / "results")] == ["kept"]


def test_a_long_name_is_one_line(trained, tmp_path):
    name = f"{'a' * 300}.nii.gz"
    assert "File name too long" in fails(call("predict", name, "--out", tmp_path / "m.nii.gz", "--model", trained))


def test_a_scan_that_is_named_twice_is_segmented_once(scans, tmp_path, monkeypatch):
    monkeypatch.chdir(scans)
    twice = [scans, Path("sub-00_FLAIR.nii.gz")]
    assert [job.scan.name for job in plan_batch(twice, tmp_path / "out").jobs] == sorted(
        file.name for file in scans.iterdir()
    )
    (tmp_path / "broken.nii").symlink_to(tmp_path / "none")
    batch = plan_batch([tmp_path, tmp_path], tmp_path / "out")
    assert [one.job.scan.name for one in batch.failed] == ["broken.nii"]
