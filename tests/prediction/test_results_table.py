import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.images.scan_search import NOT_READABLE
from brainseg_tf.prediction import results_table


def report(ml=1.5, lesions=2):
    brain = {"source": "network", "ml": 1400.5}
    seconds = {"read": 1.25, "model": 2.5}
    return {"lesion_ml": ml, "components": lesions, "brain": brain, "seconds": seconds, "warnings": ["x"]}


def test_rows_are_added_and_replaced(tmp_path):
    table = tmp_path / "summary.csv"
    failed = results_table.row(Path("a.nii"), "failed", error="a.nii: is empty")
    results_table.update(table, [failed, results_table.row(Path("b.nii"), "left out", error="is a mask")])
    done = results_table.row(Path("a.nii"), "done", report=report(), mask=Path("a_mask.nii.gz"))
    results_table.update(table, [done])
    with table.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["scan"], first["status"], first["mask"], first["error"]) == ("a.nii", "done", "a_mask.nii.gz", "")
    assert (first["lesion_ml"], first["lesions"], first["seconds"], first["warnings"]) == ("1.5", "2", "3.75", "1")
    assert (second["scan"], second["status"], second["error"]) == ("b.nii", "left out", "is a mask")
    assert results_table.read(table) == [first, second]


def test_the_row_of_a_folder_without_read_permission_goes_when_it_can_be_read(tmp_path):
    table = tmp_path / "summary.csv"
    closed = results_table.row(tmp_path / "closed", "failed", error=f"{tmp_path}/closed: {NOT_READABLE}")
    scan = results_table.row(tmp_path / "closed" / "a.nii", "failed", error="a.nii: is empty")
    assert len(results_table.update(table, [closed])) == 1
    assert len(results_table.update(table, [scan])) == 2
    (tmp_path / "closed").mkdir()
    assert [row["scan"] for row in results_table.update(table, [scan])] == [f"{tmp_path}/closed/a.nii"]


def test_any_name_can_be_written(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xc3\xa9\n\x1b[31m.nii")
    results_table.update(tmp_path / "summary.csv", [results_table.row(Path(name), "failed", error=f"{name}: is empty")])
    (row,) = results_table.read(tmp_path / "summary.csv")
    assert row["scan"] == "caf\\xe9 é\\n\\x1b[31m.nii"
    assert row["error"] == f"{row['scan']}: is empty"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a,b\n1,2\n", b'scan,status,mask\n"a', b"\x00" * 40 + b"\n\x01"])
def test_a_file_that_is_not_a_results_table_is_not_overwritten(tmp_path, content):
    table = tmp_path / "summary.csv"
    table.write_bytes(content)
    for use in (
        lambda: results_table.check(table, [], overwrite=True),
        lambda: results_table.update(table, [results_table.row(Path("a.nii"), "failed", error="x")]),
    ):
        with pytest.raises(
            InputError, match=r"summary\.csv: (is not a table of brainseg-tf|cannot be read as a table)"
        ):
            use()
    assert table.read_bytes() == content


def test_scans_of_an_earlier_run_are_refused_and_others_are_not(tmp_path):
    table = tmp_path / "summary.csv"
    results_table.check(table, [("a.nii", "a_mask.nii.gz")], overwrite=False)
    done = results_table.row(Path("a.nii"), "done", report=report(), mask=Path("a_mask.nii.gz"))
    results_table.update(table, [done, results_table.row(Path("c.nii"), "failed", error="x")])
    with pytest.raises(InputError, match="was written by an earlier run; give --continue to keep its results"):
        results_table.check(table, [("b.nii", "b_mask.nii.gz"), ("a.nii", "a_mask.nii.gz")], overwrite=False)
    results_table.check(table, [("a.nii", "a_mask.nii.gz")], overwrite=True)
    results_table.check(table, [("b.nii", "b_mask.nii.gz"), ("c.nii", "c_mask.nii.gz")], overwrite=False)


def test_processes_that_write_at_once_keep_each_others_rows(tmp_path):
    table = tmp_path / "summary.csv"
    code = (
        "import sys; from pathlib import Path; from brainseg_tf.prediction import results_table as table\n"
        "for k in range(20):\n"
        "    table.update(Path(sys.argv[1]), [table.row(Path(f'{sys.argv[2]}{k}'), 'failed', error='x')])"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(table), name]) for name in "abc"]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    expected = {f"{name}{number}" for name in "abc" for number in range(20)}
    assert {row["scan"] for row in results_table.read(table)} == expected


def segmented(scan: str, mask: str) -> results_table.Row:
    return results_table.row(Path(scan), "done") | {"mask": mask, results_table.PLANNED: mask}


def test_a_folder_that_was_moved_has_one_row_for_each_scan(tmp_path):
    table = tmp_path / "new" / "summary.csv"
    table.parent.mkdir()
    results_table.update(table, [segmented("/x/a.nii", "/y/old/a_mask.nii.gz")])
    with pytest.raises(InputError, match="was written by an earlier run"):
        results_table.check(table, [("/x/a.nii", tmp_path / "new" / "a_mask.nii.gz")], overwrite=False)
    (row,) = results_table.update(table, [segmented("/x/a.nii", f"{tmp_path}/new/a_mask.nii.gz")])
    assert row["mask"] == f"{tmp_path}/new/a_mask.nii.gz"


def test_a_scan_that_fails_or_is_left_out_replaces_no_row_of_another_mask(tmp_path):
    table = tmp_path / "summary.csv"
    results_table.update(table, [segmented("s1/f.nii", "A1_mask.nii.gz"), segmented("b.nii", "b_mask.nii.gz")])
    failed = results_table.row(Path("s1/f.nii"), "failed", error="no brain", mask=Path("B1_mask.nii.gz"))
    left_out = results_table.row(Path("b.nii"), "left out", error="is t1")
    rows = results_table.update(table, [failed, failed, left_out])
    assert [(row["scan"], row["status"], row["mask"]) for row in rows] == [
        ("b.nii", "done", "b_mask.nii.gz"),
        ("s1/f.nii", "done", "A1_mask.nii.gz"),
        ("s1/f.nii", "failed", ""),
    ]
    # The same scan that fails again with --overwrite has no mask of this run.
    again = results_table.row(Path("b.nii"), "failed", error="no brain", mask=Path("b_mask.nii.gz"))
    assert [row["status"] for row in results_table.update(table, [again])] == ["failed", "done", "failed"]


def test_a_copied_folder_is_described_by_its_own_reports(tmp_path):
    for name in ("original", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a_report.json").write_text(name)
    written = str(tmp_path / "original" / "a_report.json")
    assert results_table.located(written, tmp_path / "copy") == tmp_path / "copy" / "a_report.json"
