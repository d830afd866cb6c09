"""What predict refuses, with one line and without any output."""

import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from helpers import DAMAGES, FAST, call, damaged, fails, make_brain, save


def test_nothing_is_overwritten_unless_told(trained, scan, tmp_path):
    out = tmp_path / "mask.nii.gz"
    out.write_text("existing file")
    message = fails(call("predict", scan, "--out", out, "--model", trained))
    assert message == f"Error: {out}: exists already; give --overwrite to replace it, or another name\n"
    assert out.read_text() == "existing file"
    assert call("predict", scan, "--out", out, "--model", trained, "--overwrite", *FAST).exit_code == 0
    assert nib.load(out).shape == nib.load(scan).shape
    before = scan.read_bytes()
    assert "is named twice" in fails(call("predict", scan, "--out", scan, "--model", trained, "--overwrite"))
    assert scan.read_bytes() == before


@pytest.mark.parametrize("what", DAMAGES)
def test_bad_scans_are_one_line_and_leave_nothing(what, trained, tmp_path):
    scan = damaged(tmp_path, what)
    before = set(tmp_path.iterdir())
    outputs = ("--out", tmp_path / "mask.nii.gz", "--figure", tmp_path / "f.png", "--report", tmp_path / "r.json")
    if what == "folder":
        assert "--out takes one scan" in fails(call("predict", scan, *outputs, "--model", trained), code=2)
    else:
        message = fails(call("predict", scan, *outputs, "--model", trained))
        assert message.startswith(f"Error: {scan}: ")
        assert message.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("option", ["--brain-mask", "--truth"])
def test_masks_on_another_grid_are_refused(option, trained, scan, tmp_path):
    other = save(make_brain(1)[0][:-1], tmp_path / "other.nii.gz")
    message = fails(call("predict", scan, "--out", tmp_path / "m.nii.gz", "--model", trained, option, other))
    assert message == f"Error: {other}: lies on another grid than {scan}; resample it to that scan\n"
    assert not (tmp_path / "m.nii.gz").exists()


def test_an_empty_brain_mask_is_refused(trained, scan, tmp_path):
    empty = save(np.zeros(nib.load(scan).shape, np.uint8), tmp_path / "empty.nii.gz")
    message = fails(call("predict", scan, "--out", tmp_path / "m.nii.gz", "--model", trained, "--brain-mask", empty))
    assert message.startswith(f"Error: {empty}: is empty")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nonsense", "Error: nonsense: no such model; give a shipped model ("),
        ("EMPTY", "contains no SavedModel"),
    ],
)
def test_unknown_models_are_refused(name, what, scan, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    model = tmp_path / name if name == "EMPTY" else name
    assert what in fails(call("predict", scan, "--out", tmp_path / "m.nii.gz", "--model", model))
    assert not (tmp_path / "m.nii.gz").exists()


def test_a_model_for_other_modalities_is_refused(trained, scan, tmp_path):
    out = tmp_path / "m.nii.gz"
    message = fails(call("predict", scan, "--out", out, "--model", trained, "--modality", f"t2={scan}"))
    assert message == "Error: model small: uses flair, not t2; choose another --model\n"
    both = tmp_path / "both"
    shutil.copytree(trained / "1", both / "1")
    card = both / "1/assets.extra/model_card.json"
    card.write_text(card.read_text().replace('"modalities": [\n    "flair"', '"modalities": [\n    "flair",\n    "t2"'))
    message = fails(call("predict", scan, "--out", out, "--model", both))
    assert message == "Error: model small: needs t2 too; add --modality t2=FILE\n"
    other = save(make_brain(1)[0][:-1], tmp_path / "t2.nii.gz")
    # The name of a modality can be in capitals.
    for name in ("t2", "T2", "T2w"):
        more = ("--modality", f"{name}={other}", "--no-register")
        message = fails(call("predict", scan, "--out", out, "--model", both, *more))
        assert message.startswith(f"Error: {other}: lies on another grid")
    assert not out.exists()


def test_an_output_folder_without_write_permission_is_refused(trained, scan, monkeypatch, tmp_path):
    # The tests may run as root, for whom permissions are not checked, so the result of os.access is replaced.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.W_OK and access(path, mode, **more))
    message = fails(call("predict", scan, "--out", tmp_path / "m.nii.gz", "--model", trained))
    assert message.startswith(f"Error: {tmp_path}/m.nii.gz: no permission to write in {tmp_path}")


def test_wrong_usage_is_exit_code_2(scan, tmp_path):
    cases = [
        (("predict", scan), "give --out FILE for one scan"),
        (("predict", scan, "--out", "a.nii", "--out-dir", "b"), "give --out FILE for one scan"),
        (("predict", scan, scan, "--out", "a.nii"), "--out takes one scan"),
        (("predict", scan, "--out-dir", "d", "--report", "r.json"), "--report: for one scan with --out only"),
        (("predict", scan, "--out-dir", "d", "--truth", scan), "--truth: with --out-dir, give a pattern with {name}"),
        (("predict", scan, "--out-dir", "d", "--save-residual", "r.nii"), "--save-residual: with --out-dir, give a p"),
        (("predict", scan, "--out-dir", "d", "--modality", "t2=t2.nii"), "--modality t2: with --out-dir, give a patt"),
        (("predict", scan, "--out-dir", "d", "--scheduler", "tcp://h:1", "--device", "cpu"), "--device does not go"),
        (("predict", scan, "--out-dir", "d", "--continue", "--overwrite"), "give --continue, which keeps results, or"),
        (("predict", scan, "--out", "a.nii", "--modality", "t2"), "expected NAME=FILE"),
        (("predict", scan, "--out", "a.nii", "--modality", "t2=a", "--modality", "T2=b"), "t2: is given twice"),
        (("predict", scan, "--out", "a.nii", "--score", "best"), "is not one of"),
        (("predict", scan, "--out", "a.nii", "--min-size-ml", "-1"), "not in the range"),
        (("predict", scan, "--out", "a.nii", "--neighbourhood", 4), "4 has no middle voxel; give an odd number"),
        (("predict", scan, "--out", "a.nii", "--median", 4), "4 has no middle voxel; give an odd number"),
        (("evaluate", "x", "--models", ""), "a name is empty"),
        (("evaluate", "x", "--models", "cvae,,dae"), "a name is empty"),
        (("fit", tmp_path), "Missing option '--out'"),
        (("nonsense",), "No such command"),
    ]
    for arguments, what in cases:
        assert what in fails(call(*arguments), code=2)


def test_debug_shows_the_traceback(tmp_path):
    result = call("--debug", "predict", tmp_path / "no.nii", "--out", tmp_path / "m.nii", "--model", tmp_path)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"Error: {tmp_path}: contains no SavedModel")


def test_several_scans_need_different_names(trained, tmp_path):
    scans = [save(make_brain(1)[0], tmp_path / place / "scan.nii.gz") for place in "ab"]
    message = fails(call("predict", *scans, "--out-dir", tmp_path / "out", "--model", trained))
    assert "is the mask of two scans; rename one of them" in message
    (tmp_path / "empty").mkdir()
    message = fails(call("predict", tmp_path / "empty", "--out-dir", tmp_path / "out", "--model", trained))
    assert message.startswith(f"Error: {tmp_path}/empty: contains no scan (.nii, .nii.gz, .mgz, ...)")
