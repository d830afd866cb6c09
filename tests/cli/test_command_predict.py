"""The command ``predict``: exit codes, output on stdout and stderr, and files."""

import json
import os
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
from helpers import AFFINE, DAMAGES, FAST, ROOT, call, damaged, fails, make_brain, save

PHANTOM = Path(__file__).parents[2] / "examples" / "phantom" / "phantom_flair.nii.gz"


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from brainseg_tf_cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('numpy', 'tensorflow', 'keras', 'scipy', 'nibabel', 'sklearn') if n in sys.modules])"
    )
    for arguments in (["--help"], ["--version"], ["predict", "--help"], ["fit", "--help"], ["predict"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    for name in ("fit", "predict", "brain", "evaluate", "models"):
        assert f"\n  {name} " in result.stdout
    assert "not a medical device" in result.stdout


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
    assert report["model"] == {"name": "small", "version": 1, "modalities": ["flair"]}
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


def test_no_lesion_gives_an_empty_mask_and_says_so(trained, tmp_path):
    scan = save(make_brain(50, lesion=False)[0], tmp_path / "scan.nii.gz")
    out = tmp_path / "mask.nii.gz"
    result = call("predict", scan, "--out", out, "--model", trained, "--healthy-threshold", 0.9, *FAST)
    assert (result.exit_code, result.stdout) == (0, f"{out}: no lesion found, empty mask\n")
    assert not nib.load(out).get_fdata().any()


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


def test_a_name_of_another_modality_is_a_warning(trained, tmp_path):
    for name, expected in (("p1_t2.nii.gz", True), ("sub-01_T1w.nii.gz", True), ("sub-01_FLAIR.nii.gz", False)):
        scan = save(make_brain(1)[0], tmp_path / name)
        result = call("predict", scan, "--out", tmp_path / f"mask_{name}", "--model", trained, *FAST)
        assert result.exit_code == 0
        assert ("model small needs flair; the mask may be wrong" in result.stderr) is expected


@pytest.mark.parametrize("option", ["--brain-mask", "--truth"])
def test_masks_on_another_grid_are_refused(option, trained, scan, tmp_path):
    other = save(make_brain(1)[0][:-1], tmp_path / "other.nii.gz")
    message = fails(call("predict", scan, "--out", tmp_path / "m.nii.gz", "--model", trained, option, other))
    assert message == f"Error: {other}: lies on another grid than {scan}; resample it to that scan\n"
    assert not (tmp_path / "m.nii.gz").exists()


def test_a_brain_mask_over_the_whole_field_changes_nothing_but_a_warning(trained, scan, tmp_path):
    whole = save(np.ones(make_brain(1)[0].shape, bool), tmp_path / "whole.nii.gz")
    masks = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    assert call("predict", scan, "--out", masks[0], "--model", trained, *FAST).exit_code == 0
    result = call("predict", scan, "--out", masks[1], "--model", trained, "--brain-mask", whole, *FAST)
    assert result.exit_code == 0
    assert "of the brain mask is background, which was removed; check --brain-mask" in result.stderr
    assert masks[0].read_bytes() == masks[1].read_bytes()


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
    assert result.stderr.splitlines()[0].startswith(f"Error: [2/3] {bad}: is not a readable NIfTI file")
    assert result.stderr.splitlines()[1] == "Error: 1 of 3 scans failed"
    stems = ("sub-01_FLAIR", "sub-02_FLAIR")
    expected = {
        f"{stem}_{kind}" for stem in stems for kind in ("mask.nii.gz", "brain.nii.gz", "report.json", "figure.png")
    }
    expected |= {"summary.csv", ".summary.csv.lock", *cohort_tables.NAMES}
    assert {file.name for file in out.iterdir()} == expected
    assert len(result.stdout.splitlines()) == 2


def test_several_scans_need_different_names(trained, tmp_path):
    scans = [save(make_brain(1)[0], tmp_path / place / "scan.nii.gz") for place in "ab"]
    message = fails(call("predict", *scans, "--out-dir", tmp_path / "out", "--model", trained))
    assert "is the mask of two scans; rename one of them" in message
    (tmp_path / "empty").mkdir()
    message = fails(call("predict", tmp_path / "empty", "--out-dir", tmp_path / "out", "--model", trained))
    assert message.startswith(f"Error: {tmp_path}/empty: contains no scan (.nii, .nii.gz, .mgz, ...)")


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


def test_models_lists_what_is_shipped():
    result = call("models")
    assert result.exit_code == 0
    for word in (
        "cvae, version",
        "dcvae, version",
        "dae, version",
        "MB",
        "flair",
        "30 patients",
        "IoU",
        "with citation",
    ):
        assert word in result.stdout


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


def test_the_contrast_decides_the_model(scan, tmp_path):
    t2 = shutil.copy(scan, tmp_path / "sub-01_T2w.nii.gz")
    named = call("predict", t2, "--out", tmp_path / "named.nii.gz", "--report", tmp_path / "named.json")
    assert named.exit_code == 0, named.output
    assert named.stderr.splitlines()[0] == "Contrast t2, from the file names; model selfseg-t2"
    given = call("predict", scan, "--out", tmp_path / "m.nii.gz", "--contrast", "t2", "--report", tmp_path / "m.json")
    assert given.exit_code == 0, given.output
    assert "Contrast" not in given.stderr
    for name in ("named", "m"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["model"]["name"] == "selfseg-t2"
    message = fails(
        call("predict", scan, "--out", tmp_path / "x.nii.gz", "--contrast", "t2", "--model", "cvae"), code=2
    )
    assert "--contrast t2 does not go with model cvae, whose main scan is flair" in message
    assert not (tmp_path / "x.nii.gz").exists()
