import csv
import json

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.images import registration
from helpers import FAST, TWO_SESSIONS, call, damaged, fails, save

pytest.importorskip("SimpleITK")


def masks(sessions) -> tuple[object, ...]:
    return "--before-mask", sessions.before_mask, "--after-mask", sessions.after_mask


@pytest.mark.slow
def test_all_outputs(sessions, tmp_path):
    outputs = {
        "--out": tmp_path / "comparison.json",
        "--table": tmp_path / "changes.tsv",
        "--save-change": tmp_path / "change.nii.gz",
        "--figure": tmp_path / "figure.png",
        "--html": tmp_path / "page.html",
    }
    options = [part for pair in outputs.items() for part in pair]
    result = call("compare", sessions.before, sessions.after, *masks(sessions), "--days", 30, *options)
    # The head is an ellipsoid.
    warning = f"Warning: {sessions.before}: what was found has the shape of a phantom, not of a brain; check that the "
    assert (result.exit_code, result.stderr) == (0, f"{warning}scan shows a head\n"), result.output
    assert sorted(tmp_path.iterdir()) == sorted(outputs.values())
    report = json.loads(outputs["--out"].read_text())
    assert report["days"] == 30 and report["model"] is None and len(report["warnings"]) == 1
    assert {one["status"] for one in report["lesions"]} == set(TWO_SESSIONS)
    assert report["before"] == {
        "scan": str(sessions.before),
        "mask": str(sessions.before_mask),
        "source": "given",
        "lesion_ml": round(float(nib.load(sessions.before_mask).get_fdata().sum() * 2.5**3 / 1000), 4),
        "voxel_mm": [2.5] * 3,
    }
    assert report["change_ml"] == pytest.approx(report["after"]["lesion_ml"] - report["before"]["lesion_ml"], abs=1e-3)
    np.testing.assert_allclose(report["registration"]["matrix"], sessions.matrix, atol=1.0)
    before_ml, after_ml = (report[name]["lesion_ml"] for name in ("before", "after"))
    percent = report["change_percent"]
    assert result.stdout == (
        f"{outputs['--out']}: {before_ml:.1f} ml before, {after_ml:.1f} ml after ({percent:+.0f} %); "
        "lesions: 1 new, 1 grown, 1 stable, 1 gone\n"
    )
    with outputs["--table"].open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == list(report["columns"])
    for row, lesion in zip(rows, report["lesions"], strict=True):
        assert row == {name: "n/a" if value in (None, "") else str(value) for name, value in lesion.items()}
    change, scan = nib.load(outputs["--save-change"]), nib.load(sessions.before)
    assert change.get_data_dtype() == np.uint8 and change.shape == scan.shape
    np.testing.assert_array_equal(change.affine, scan.affine)
    # In the axes of the file, too: nearly all of the mask before is unchanged, or gone.
    inside = nib.load(sessions.before_mask).get_fdata() > 0
    assert set(np.unique(change.get_fdata()[inside])) == {1, 3}
    assert "--overwrite" in fails(call("compare", sessions.before, sessions.after, *masks(sessions), *options))
    again = call("compare", sessions.before, sessions.after, *masks(sessions), *options, "--overwrite")
    assert again.exit_code == 0


@pytest.mark.slow
def test_masks_that_are_not_given_are_those_of_predict(sessions, trained, tmp_path):
    model = ("--model", trained, *FAST, "--brain", "stripped")
    mask, out = tmp_path / "mask.nii.gz", tmp_path / "c.json"
    assert call("predict", sessions.before, "--out", mask, *model).exit_code == 0
    result = call("compare", sessions.before, sessions.after, "--out", out, *model, "--after-mask", sessions.after_mask)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["before"]["source"] == "predicted" and report["after"]["source"] == "given"
    ml = float(nib.load(mask).get_fdata().sum() * 2.5**3 / 1000)
    assert report["before"]["lesion_ml"] == pytest.approx(ml, abs=1e-3) and ml > 1
    assert report["model"]["name"] == "small" and report["options"]["median"] == [3, 3, 3]
    assert "its mask was predicted, that of" in result.stderr


def test_empty_masks_are_no_error(sessions, tmp_path):
    empty = [
        save(np.zeros(nib.load(scan).shape, np.uint8), tmp_path / f"{scan.name}_empty.nii.gz", nib.load(scan).affine)
        for scan in (sessions.before, sessions.after)
    ]
    out, table, figure, page = (tmp_path / name for name in ("c.json", "c.tsv", "c.png", "c.html"))
    result = call(
        *("compare", sessions.before, sessions.after, "--before-mask", empty[0], "--after-mask", empty[1]),
        *("--out", out, "--table", table, "--figure", figure, "--html", page),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{out}: 0.0 ml before, 0.0 ml after; lesions: none\n"
    report = json.loads(out.read_text())
    assert report["lesions"] == [] and report["change_percent"] is None
    assert len(table.read_text().splitlines()) == 1
    assert "None at either time point." in page.read_text()


@pytest.mark.parametrize("what", ["missing", "4D", "text", "nan"])
def test_bad_scans(sessions, tmp_path, what):
    bad = damaged(tmp_path, what)
    left = sorted(tmp_path.iterdir())
    message = {"missing": "no such file", "4D": "one 3D volume is needed", "text": "is not a readable", "nan": "NaN"}
    for scans in ((bad, sessions.after), (sessions.before, bad)):
        error = fails(call("compare", *scans, *masks(sessions), "--out", tmp_path / "c.json"))
        assert message[what] in error and bad.name in error
    assert sorted(tmp_path.iterdir()) == left


def test_bad_masks(sessions, tmp_path):
    image = nib.load(sessions.before)
    bad = {
        "lies on another grid than": save(np.ones((9, 9, 9), np.uint8), tmp_path / "grid.nii.gz", image.affine),
        "contains fractions": save(image.get_fdata() / 1000, tmp_path / "fractions.nii.gz", image.affine),
        "which is too much for lesions": save(np.ones(image.shape, np.uint8), tmp_path / "all.nii.gz", image.affine),
        "no such file": tmp_path / "gone.nii.gz",
    }
    left = sorted(tmp_path.iterdir())
    for message, mask in bad.items():
        options = ("--before-mask", mask, "--after-mask", sessions.after_mask, "--out", tmp_path / "c.json")
        error = fails(call("compare", sessions.before, sessions.after, *options))
        assert message in error and mask.name in error
    # The mask of the other scan has another grid.
    swapped = ("--before-mask", sessions.after_mask, "--after-mask", sessions.before_mask)
    assert "lies on another grid than" in fails(
        call("compare", sessions.before, sessions.after, *swapped, "--out", tmp_path / "c.json")
    )
    assert sorted(tmp_path.iterdir()) == left


def test_one_file_for_both_time_points(sessions, tmp_path):
    out = tmp_path / "c.json"
    same = sessions.before.parent / "." / sessions.before.name
    error = fails(call("compare", sessions.before, same, *masks(sessions), "--out", out))
    assert "is given for both time points; give the scan of each" in error
    twice = ("--before-mask", sessions.before_mask, "--after-mask", sessions.before_mask)
    error = fails(call("compare", sessions.before, sessions.after, *twice, "--out", out))
    assert "is given for both time points; give the mask of each" in error
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written(sessions, tmp_path):
    command = ("compare", sessions.before, sessions.after, *masks(sessions), "--out", tmp_path / "c.json")
    table = tmp_path / "c.tsv"
    for options, message in (
        (("--figure", tmp_path / "c.json"), "is named twice"),
        (("--table", table, "--figure", tmp_path / "." / "c.tsv"), "is named twice"),
        (("--save-change", sessions.before_mask, "--overwrite"), "is named twice"),
        (("--save-change", tmp_path / "c.png"), "must end in .nii or .nii.gz"),
        (("--html", tmp_path / "no" / "c.html"), "does not exist; create it first"),
    ):
        assert message in fails(call(*command, *options))
        assert list(tmp_path.iterdir()) == []
    table.write_text("mine")
    assert "exists already; give --overwrite" in fails(call(*command, "--table", table))
    assert [path.name for path in tmp_path.iterdir()] == ["c.tsv"] and table.read_text() == "mine"


def test_without_simpleitk(sessions, tmp_path, monkeypatch):
    monkeypatch.setattr(registration, "is_installed", lambda: False)
    error = fails(call("compare", sessions.before, sessions.after, *masks(sessions), "--out", tmp_path / "c.json"))
    assert "pip install 'brainseg-tf[registration]'" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--out'"),
        (("--out", "c.json", "--table", "c.csv"), "--table: the name must end in .tsv"),
        (("--out", "c.json", "--days", "soon"), "not a valid integer"),
        (("--out", "c.json", "--min-shrinkage", "101"), "is not in the range"),
        (("--out", "c.json", "--contrast", "t2", "--model", "selfseg-flair"), "does not go with model selfseg-flair"),
    ],
)
def test_wrong_usage(sessions, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call("compare", sessions.before, sessions.after, *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_several_modalities_needs_masks(sessions, tmp_path):
    error = fails(
        call("compare", sessions.before, sessions.after, "--out", tmp_path / "c.json", "--model", "selfseg-flair-t2")
    )
    assert "model selfseg-flair-t2: needs t2 too; run predict for each scan" in error
    assert list(tmp_path.iterdir()) == []
