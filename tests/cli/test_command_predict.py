"""The command ``predict``: exit codes, output on stdout and stderr, and files."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from brainseg_tf.metrics import dice
from brainseg_tf.prediction import cohort_tables
from brainseg_tf.saved_model import find
from helpers import AFFINE, FAST, ROOT, call, fails, make_brain, save
from synthetic_dicom import write_series

PHANTOM = Path(__file__).parents[2] / "examples" / "phantom" / "phantom_flair.nii.gz"
MAPS = ("residual", "reconstruction", "probability")


def test_predict_writes_all_outputs(trained, tmp_path):
    data, truth = make_brain(101)
    reoriented = nib.Nifti1Image(data, AFFINE).as_reoriented(np.array([[2, -1], [0, 1], [1, 1]]))
    nib.save(reoriented, tmp_path / "scan.nii.gz")
    mask = nib.Nifti1Image(truth.astype(np.uint8), AFFINE).as_reoriented(np.array([[2, -1], [0, 1], [1, 1]]))
    nib.save(mask, tmp_path / "truth.nii.gz")
    names = ("figure", "save-residual", "save-reconstruction", "save-probability", "report")
    out = {
        name: tmp_path / f"{name}{suffix}"
        for name, suffix in zip(names, (".png", ".nii", ".nii.gz", ".nii.gz", ".json"), strict=True)
    }
    options = [part for name, path in out.items() for part in (f"--{name}", path)]
    scan, truth_file, result_file = (tmp_path / f"{name}.nii.gz" for name in ("scan", "truth", "mask"))
    result = call(
        "predict",
        scan,
        "--out",
        result_file,
        "--model",
        trained,
        "--truth",
        truth_file,
        *options,
        *FAST,
        "--min-size-ml",
        2,
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    report = json.loads(out["report"].read_text())
    assert f"{report['lesion_ml']:.1f} ml in" in result.stdout
    assert report["dice"] > 0.7
    written = nib.load(result_file)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, nib.load(scan).affine)
    assert written.shape == reoriented.shape
    voxels = np.asarray(written.dataobj)
    assert report["lesion_ml"] == pytest.approx(
        voxels.sum() * abs(np.linalg.det(reoriented.affine[:3, :3])) / 1000, rel=1e-3
    )
    centre = nib.affines.apply_affine(written.affine, np.argwhere(np.asarray(mask.dataobj)).mean(axis=0))
    np.testing.assert_allclose(report["lesions"][0]["centroid_mm"], centre, atol=6)
    assert report["components"] == len(report["lesions"])
    assert {
        "read",
        "load_model",
        "brain",
        "slices",
        "model",
        "residual",
        "mixture",
        "morphology",
        "boundary",
        "grid",
        "location",
        "write",
    } == set(report["seconds"])
    fingerprint = find(str(trained)).card.fingerprint
    assert report["model"] == {"name": "small", "version": 1, "modalities": ["flair"], "sha256": fingerprint}
    assert report["options"]["min_size_ml"] == 2
    residual, reconstruction, probability = (nib.load(out[f"save-{name}"]) for name in MAPS)
    inside = np.asarray(mask.dataobj) > 0
    for image in (residual, reconstruction, probability):
        assert image.get_data_dtype() == np.float32
        assert image.shape == reoriented.shape
        np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    assert residual.get_fdata()[inside].mean() > 0.15
    posterior = probability.get_fdata()
    assert 0 <= posterior.min() < 0.01 < 0.99 < posterior.max() <= 1
    # The mask differs from the probability only by the morphology.
    assert dice(posterior > 0.5, voxels > 0) > 0.95
    assert out["figure"].stat().st_size > 10_000


def test_the_probability_is_zero_where_there_is_no_lesion(trained, scan, tmp_path):
    out = tmp_path / "probability.nii"
    options = ("--model", trained, "--save-probability", out, "--healthy-threshold", 1, *FAST)
    result = call("predict", scan, "--out", tmp_path / "mask.nii", *options)
    assert "no lesion found" in result.stdout
    assert not np.asarray(nib.load(out).dataobj).any()


def test_a_truth_without_a_lesion_is_allowed(trained, scan, tmp_path):
    empty = save(np.zeros(nib.load(scan).shape, np.uint8), tmp_path / "empty.nii.gz", nib.load(scan).affine)
    out, figure = tmp_path / "mask.nii.gz", tmp_path / "figure.png"
    result = call("predict", scan, "--out", out, "--model", trained, "--truth", empty, "--figure", figure, *FAST)
    assert result.exit_code == 0, result.output
    assert "Dice 0.000" in result.stdout
    assert figure.stat().st_size > 5000


def test_no_lesion_gives_an_empty_mask_and_says_so(trained, tmp_path):
    scan = save(make_brain(50, lesion=False)[0], tmp_path / "scan.nii.gz")
    out = tmp_path / "mask.nii.gz"
    result = call("predict", scan, "--out", out, "--model", trained, "--healthy-threshold", 0.9, *FAST)
    assert (result.exit_code, result.stdout) == (0, f"{out}: no lesion found, empty mask\n")
    assert not nib.load(out).get_fdata().any()


def test_a_skull_is_a_warning_without_the_network(trained, tmp_path):
    data, _ = make_brain(3)
    head = save(data + np.random.default_rng(0).normal(0, 3, data.shape).astype(np.float32), tmp_path / "head.nii.gz")
    out = ("--out", tmp_path / "mask.nii.gz", "--model", trained, "--overwrite", *FAST)
    result = call("predict", head, *out, "--brain", "stripped")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"Warning: {head}: the scan seems not to be skull-stripped")
    brain = save((data > 0).astype(np.uint8), tmp_path / "brain.nii.gz")
    result = call("predict", head, *out, "--brain-mask", brain)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_head_goes_in_and_its_lesions_come_out(tmp_path):
    phantom = ROOT / "examples" / "phantom"
    report, kept = tmp_path / "report.json", tmp_path / "brain.nii.gz"
    outputs = ("--out", tmp_path / "mask.nii.gz", "--report", report, "--save-brain-mask", kept)
    drawn = ("--figure", tmp_path / "figure.png", "--html", tmp_path / "page.html")
    truth = ("--truth", phantom / "head_lesions.nii.gz")
    result = call("predict", phantom / "head_flair.nii.gz", *outputs, *drawn, *truth)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    content = json.loads(report.read_text())
    assert content["dice"] > 0.7 and content["components"] == 3
    assert content["brain"]["source"] == "network"
    brain, expected = (nib.load(file).get_fdata() > 0 for file in (kept, phantom / "head_brain.nii.gz"))
    assert dice(brain, expected) > 0.94
    assert content["brain"]["ml"] == pytest.approx(brain.sum() * 3 / 1000, rel=1e-3)
    page = (tmp_path / "page.html").read_text()
    assert "brain mask by the brain network" in page and '"name": "brain"' in page.replace(
        '"name":"brain"', '"name": "brain"'
    )


@pytest.mark.slow
def test_a_name_of_another_modality_is_a_warning(trained, tmp_path):
    for name, expected in (("p1_t2.nii.gz", True), ("sub-01_T1w.nii.gz", True), ("sub-01_FLAIR.nii.gz", False)):
        scan = save(make_brain(1)[0], tmp_path / name)
        result = call("predict", scan, "--out", tmp_path / f"mask_{name}", "--model", trained, *FAST)
        assert result.exit_code == 0
        assert ("model small needs flair; the mask may be wrong" in result.stderr) is expected


def test_a_brain_mask_over_the_whole_field_changes_nothing_but_a_warning(trained, scan, tmp_path):
    whole = save(np.ones(make_brain(1)[0].shape, bool), tmp_path / "whole.nii.gz")
    masks = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    assert call("predict", scan, "--out", masks[0], "--model", trained, *FAST).exit_code == 0
    result = call("predict", scan, "--out", masks[1], "--model", trained, "--brain-mask", whole, *FAST)
    assert result.exit_code == 0
    assert "of the brain mask is background, which was removed; check --brain-mask" in result.stderr
    assert masks[0].read_bytes() == masks[1].read_bytes()


def test_one_bad_scan_does_not_stop_the_others(trained, tmp_path):
    scans = tmp_path / "scans"
    for number in (1, 2):
        save(make_brain(number)[0], scans / f"sub-{number:02}_FLAIR.nii.gz")
    bad = scans / "sub-01b_FLAIR.nii.gz"
    bad.write_bytes(b"nonsense")
    (scans / "notes.txt").touch()
    out = tmp_path / "out"
    result = call("predict", scans, "--out-dir", out, "--model", trained, *FAST)
    assert result.exit_code == 1
    # The lines have the order in which the scans are finished.
    assert re.match(rf"Error: \[[123]/3\] {re.escape(str(bad))}: is not a readable NIfTI file", result.stderr)
    assert result.stderr.splitlines()[1] == "Error: 1 of 3 scans failed"
    stems = ("sub-01_FLAIR", "sub-02_FLAIR")
    expected = {
        f"{stem}_{kind}" for stem in stems for kind in ("mask.nii.gz", "brain.nii.gz", "report.json", "figure.png")
    }
    expected |= {"summary.csv", ".summary.csv.lock", *cohort_tables.NAMES}
    assert {file.name for file in out.iterdir()} == expected
    assert len(result.stdout.splitlines()) == 2


def test_the_preset_for_small_lesions_grows_them(trained, scan, tmp_path):
    found = []
    for name, more in (("preset", ()), ("given", ("--growth", 3)), ("best", ("--preset", "best"))):
        out = ("--out", tmp_path / f"{name}.nii", "--report", tmp_path / f"{name}.json")
        result = call("predict", scan, "--model", trained, "--preset", "small", *more, *out)
        assert result.exit_code == 0, result.output
        found.append(json.loads((tmp_path / f"{name}.json").read_text())["options"]["growth"])
    assert found == [2.4, 3, 0]


@pytest.mark.slow
def test_the_papers_preset(trained, scan, tmp_path):
    for name, more in (("paper", ()), ("mixed", ("--erosion-mm", 4.5, "--lesion", "brightest"))):
        out = ("--out", tmp_path / f"{name}.nii", "--report", tmp_path / f"{name}.json")
        result = call("predict", scan, "--model", trained, "--preset", "paper", *out, *more)
        assert result.exit_code == 0, result.output
    paper, mixed = (json.loads((tmp_path / f"{name}.json").read_text())["options"] for name in ("paper", "mixed"))
    assert (paper["score"], paper["match_range"], paper["erosion_mm"], paper["median"]) == (
        "absolute",
        True,
        0,
        [1, 1, 1],
    )
    assert (paper["components"], paper["healthy_threshold"], paper["correct_bias_field"], paper["boundary_mm"]) == (
        [3],
        0,
        False,
        0,
    )
    assert (paper["mixture"]["lesion"], paper["mixture"]["spread"]) == ("smallest", "free")
    assert (mixed["erosion_mm"], mixed["mixture"]["lesion"], mixed["score"]) == (4.5, "brightest", "absolute")


@pytest.mark.slow
def test_a_whole_scan_through_the_installed_command_stays_small(tmp_path):
    """Memory of the real command on a 240 x 240 x 155 scan; its time is in benchmarks/."""
    command = [
        str(Path(sys.executable).with_name("brainseg-tf")),
        "predict",
        str(PHANTOM),
        "--out",
        str(tmp_path / "m.nii.gz"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
            process.wait(0.05)
        except (subprocess.TimeoutExpired, psutil.NoSuchProcess):
            continue
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    assert "ml in" in stdout
    assert peak < 2e9


@pytest.mark.slow
def test_the_contrast_decides_the_model(scan, tmp_path):
    t2 = shutil.copy(scan, tmp_path / "sub-01_T2w.nii.gz")
    named = call("predict", t2, "--out", tmp_path / "named.nii.gz", "--report", tmp_path / "named.json")
    assert named.exit_code == 0, named.output
    assert named.stderr.splitlines()[0] == "Contrast t2, from the names of the scans; model selfseg-t2"
    write_series(tmp_path / "0004", make_brain()[0], AFFINE, SeriesDescription="T2 TSE")
    series = call("predict", tmp_path / "0004", "--out", tmp_path / "s.nii.gz", "--report", tmp_path / "series.json")
    assert series.exit_code == 0, series.output
    first = "Contrast t2, from the names or series descriptions of the scans; model selfseg-t2"
    assert series.stderr.splitlines()[0] == first
    wrong = call("predict", tmp_path / "0004", "--out", tmp_path / "w.nii.gz", "--contrast", "flair")
    assert (
        "0004: is t2 according to its name or series description, but model selfseg-flair needs flair" in wrong.stderr
    )
    given = call("predict", scan, "--out", tmp_path / "m.nii.gz", "--contrast", "t2", "--report", tmp_path / "m.json")
    assert given.exit_code == 0, given.output
    assert "Contrast" not in given.stderr
    for name in ("named", "series", "m"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["model"]["name"] == "selfseg-t2"
    message = fails(
        call("predict", scan, "--out", tmp_path / "x.nii.gz", "--contrast", "t2", "--model", "cvae"), code=2
    )
    assert "--contrast t2 does not go with model cvae, whose main scan is flair" in message
    assert not (tmp_path / "x.nii.gz").exists()
