import csv
import json

import pytest

from brainseg_tf.prediction import cohort_tables, results_table
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs


def lesion(ml, **changes):
    return {
        "ml": ml,
        "centroid_mm": [1.5, -2.0, 30.25],
        "side": "left",
        "mean_residual": 0.25,
        "mean_probability": 0.875,
        "mean_score": 0.625,
        "intensity_ratio": 1.5,
        "mni_mm": [2.0, -20.0, 35.0],
        "region": "parietal",
        "ventricle_mm": 10.0,
    } | changes


def suspect(ml, reason="inconspicuous", **changes):
    return lesion(ml, **changes) | {"reason": reason, "explanation": "it is too faint"}


def report(subject="", session="", lesions=(), suspects=()):
    return {
        "subject": subject,
        "session": session,
        "lesion_ml": sum(one["ml"] for one in lesions),
        "components": len(lesions),
        "lesions": list(lesions),
        "suspected_ml": sum(one["ml"] for one in suspects),
        "suspects": list(suspects),
        "brain": {"source": "network", "ml": 1400.5},
        "quality": {"snr": 21.5, "slice_thickness_mm": 5.0, "coverage": 0.97},
        "template": {"error_mm": 2.75, "matrix": []},
        "model": {"name": "selfseg-flair", "version": 2, "modalities": ["flair"]},
        "brainseg_tf": "1.2.3",
        "seconds": {"read": 1.25, "model": 2.5},
        "warnings": ["x"],
    }


def add(out, scan, content):
    """A finished scan in the folder; a failed one if there is no report."""
    file = out / f"{scan}_report.json"
    outputs = Outputs(out / f"{scan}_mask.nii.gz", report=file)
    if content is None:
        results_table.update(out / "summary.csv", [Outcome(Job(out / scan, outputs), error="is empty").row])
        return
    content = content | {"scan": str(out / scan)}
    file.write_text(json.dumps(content), encoding="utf-8")
    results_table.update(out / "summary.csv", [Outcome(Job(out / scan, outputs), content).row])


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_each_lesion_and_each_scan_has_a_row(tmp_path):
    add(tmp_path, "b.nii", report("sub-02", "ses-1", [lesion(12.5), lesion(2.25, ventricle_mm=10.5, side="right")]))
    add(tmp_path, "a.nii", report("sub-01"))
    add(tmp_path, "c.nii", None)
    cohort_tables.write(tmp_path)
    first, second = table(tmp_path / "lesions.tsv")
    assert (first["participant_id"], first["session_id"], first["scan"]) == ("sub-02", "ses-1", str(tmp_path / "b.nii"))
    assert (first["lesion"], second["lesion"]) == ("1", "2")
    assert (first["volume_ml"], second["volume_ml"]) == ("12.5", "2.25")
    assert [float(first[f"{axis}_mm"]) for axis in "xyz"] == [1.5, -2.0, 30.25]
    assert [float(first[f"mni_{axis}_mm"]) for axis in "xyz"] == [2.0, -20.0, 35.0]
    assert (first["region"], first["side"], second["side"]) == ("parietal", "left", "right")
    assert (first["periventricular"], second["periventricular"]) == ("yes", "no")
    assert (first["intensity_ratio"], first["mean_residual"]) == ("1.5", "0.25")
    assert (first["mean_probability"], first["mean_score"]) == ("0.875", "0.625")
    healthy, patient = table(tmp_path / "volumes.tsv")
    assert (healthy["participant_id"], healthy["session_id"], healthy["lesion_ml"]) == ("sub-01", "n/a", "0")
    assert (patient["brain_ml"], patient["lesion_ml"], patient["lesions"]) == ("1400.5", "14.75", "2")
    assert (patient["snr"], patient["slice_thickness_mm"], patient["coverage"]) == ("21.5", "5.0", "0.97")
    assert (patient["model"], patient["model_version"], patient["brainseg_tf"]) == ("selfseg-flair", "2", "1.2.3")
    assert (patient["template_error_mm"], patient["seconds"], patient["warnings"]) == ("2.75", "3.75", "1")


def test_each_suspected_component_has_a_row_with_the_reason(tmp_path):
    suspects = [suspect(4.5, region="temporal"), suspect(3.0, "min_size")]
    add(tmp_path, "a.nii", report("sub-01", "", [lesion(12.5)], suspects))
    cohort_tables.write(tmp_path)
    (row,) = table(tmp_path / "lesions.tsv")
    assert (row["lesion"], row["volume_ml"]) == ("1", "12.5")
    found = table(tmp_path / "suspects.tsv")
    assert [tuple(row[name] for name in ("suspect", "reason", "volume_ml", "region")) for row in found] == [
        ("1", "inconspicuous", "4.5", "temporal"),
        ("2", "min_size", "3.0", "parietal"),
    ]
    (scan,) = table(tmp_path / "volumes.tsv")
    assert (scan["lesion_ml"], scan["lesions"], scan["suspected_ml"]) == ("12.5", "1", "7.5")


@pytest.mark.parametrize("name", ["lesions", "suspects", "volumes"])
def test_each_column_is_in_the_data_dictionary(tmp_path, name):
    add(tmp_path, "a.nii", report("sub-01", "", [lesion(4.0)], [suspect(3.0)]))
    cohort_tables.write(tmp_path)
    (row,) = table(tmp_path / f"{name}.tsv")
    dictionary = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert list(row) == list(dictionary)
    assert all(entry["Description"] for entry in dictionary.values())
    for column, entry in dictionary.items():
        assert row[column] in entry.get("Levels", [row[column]])
        assert ("ml" in column.split("_")) <= (entry.get("Units") == "ml")
        assert ("mm" in column.split("_")) <= (entry.get("Units") == "mm")


def test_reports_without_the_new_values_have_unknown_ones(tmp_path):
    old = report(lesions=[lesion(3.0)])
    for name in ("subject", "session", "quality", "template"):
        del old[name]
    for name in ("mni_mm", "region", "ventricle_mm", "intensity_ratio", "mean_probability"):
        del old["lesions"][0][name]
    add(tmp_path, "P07_flair.nii", old)
    cohort_tables.write(tmp_path)
    (one,) = table(tmp_path / "lesions.tsv")
    assert (one["participant_id"], one["volume_ml"], one["side"]) == ("P07", "3.0", "left")
    assert {one[name] for name in ("mni_x_mm", "region", "periventricular", "intensity_ratio")} == {"n/a"}
    (scan,) = table(tmp_path / "volumes.tsv")
    assert {scan[name] for name in ("snr", "coverage", "template_error_mm")} == {"n/a"}


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_report_that_cannot_be_read_leaves_what_the_summary_says(tmp_path, content):
    add(tmp_path, "a.nii", report(lesions=[lesion(3.0)]))
    (tmp_path / "a.nii_report.json").write_text(content, encoding="utf-8")
    cohort_tables.write(tmp_path)
    assert table(tmp_path / "lesions.tsv") == []
    (scan,) = table(tmp_path / "volumes.tsv")
    assert (scan["participant_id"], scan["lesion_ml"], scan["lesions"], scan["brain_ml"]) == ("a", "3.0", "1", "1400.5")
    assert scan["model"] == "n/a"


def test_names_with_line_breaks_stay_in_their_cell(tmp_path):
    add(tmp_path, "a.nii", report("one\ttwo\nthree"))
    cohort_tables.write(tmp_path)
    (scan,) = table(tmp_path / "volumes.tsv")
    assert scan["participant_id"] == "one\\ttwo\\nthree"


def test_a_folder_without_scans_has_empty_tables(tmp_path):
    cohort_tables.write(tmp_path)
    assert table(tmp_path / "lesions.tsv") == table(tmp_path / "volumes.tsv") == []
