"""The command ``brainseg-tf-bids``."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from brainseg_tf.prediction import cohort_tables
from brainseg_tf_cli.bids import bids
from helpers import FAST, fails, make_brain, save

PROBABILITY = "label-lesion_probseg.nii.gz"


def app(*arguments):
    return CliRunner().invoke(bids, [str(argument) for argument in arguments])


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "data"
    for place in ("sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a", "sub-02/ses-b/anat/sub-02_ses-b"):
        save(make_brain(1)[0], folder / f"{place}_FLAIR.nii.gz")
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    return folder


def made(out, ending="_label-lesion_mask.nii.gz"):
    return sorted(file.name.removesuffix(ending) for file in out.rglob(f"*{ending}"))


def participant_ids(out):
    return [line.split("\t")[0] for line in (out / "volumes.tsv").read_text().splitlines()[1:]]


@pytest.mark.slow
def test_participants_one_by_one_and_then_the_group(dataset, trained, tmp_path):
    out = tmp_path / "out"
    options = ("--no-html", "--model", trained, *FAST)
    first = app(dataset, out, "participant", "--participant-label", "02", "--session-label", "b", "ses-a", *options)
    assert first.exit_code == 0, first.output
    assert made(out) == ["sub-02_ses-a", "sub-02_ses-b"]
    before = (out / "sub-02/ses-a/anat/sub-02_ses-a_label-lesion_mask.nii.gz").stat().st_mtime_ns
    second = app(dataset, out, "participant", *options)
    assert second.exit_code == 0, second.output
    assert made(out) == made(out, f"_{PROBABILITY}") == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    assert (out / "sub-02/ses-a/anat/sub-02_ses-a_label-lesion_mask.nii.gz").stat().st_mtime_ns == before
    for name in cohort_tables.NAMES:
        (out / name).unlink()
    # The results are found wherever the folder is, as it is mounted elsewhere in another container.
    moved = out.rename(tmp_path / "moved")
    group = app(dataset, moved, "group", "--no-html")
    assert group.exit_code == 0, group.output
    assert group.stdout == f"{moved}: tables of 3 scans\n"
    assert participant_ids(moved) == ["sub-01", "sub-02", "sub-02"]
    dictionary = json.loads((moved / "volumes.json").read_text())
    assert set(dictionary) == set((moved / "volumes.tsv").read_text().splitlines()[0].split("\t"))


def test_the_sidecars_say_what_the_files_are(dataset, trained, tmp_path):
    out = tmp_path / "out"
    result = app(dataset, out, "participant", "--participant_label", "sub-01", "--no-html", "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    folder = out / "sub-01" / "anat"
    kinds = {"label-lesion_mask": "Lesion", "label-lesion_probseg": "Lesion", "desc-lesions_dseg": "Lesion"}
    kinds["desc-brain_mask"] = "Brain"
    for name, kind in kinds.items():
        sidecar = json.loads((folder / f"sub-01_{name}.json").read_text())
        assert (sidecar["Type"], sidecar["Sources"]) == (kind, ["bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz"])
        assert (folder / f"sub-01_{name}.nii.gz").is_file()
    links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    assert links == {"raw": dataset.as_uri()}


@pytest.mark.slow
def test_the_derivative_is_valid_and_has_pages(dataset, trained, tmp_path):
    out = tmp_path / "out"
    result = app(dataset, out, "participant", "--participant-label", "01", "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    (out / "index.html").unlink()
    assert app(dataset, out, "group").exit_code == 0
    assert "sub-01" in (out / "index.html").read_text(encoding="utf-8")
    assert (out / "sub-01_label-lesion_mask.html").is_file()
    validator = shutil.which("bids-validator-deno", path=Path(sys.executable).parent) or shutil.which("bids-validator")
    assert validator, "pip install bids-validator-deno"
    checked = subprocess.run([validator, "--format", "json", str(out)], capture_output=True, text=True, check=False)
    found = json.loads(checked.stdout)["issues"]["issues"]
    assert [issue for issue in found if issue.get("severity") == "error"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--participant-label", "03"], "has no sub-03; it has sub-01, sub-02"),
        (["--participant-label", "01", "--session-label", "a"], "no subject has ses-a; check --session-label"),
        (["--session-label", "a", "c"], "no subject has ses-c; check --session-label"),
    ],
)
def test_labels_that_do_not_exist(dataset, tmp_path, options, message):
    out = tmp_path / "out"
    assert fails(app(dataset, out, "participant", *options, "--no-html")) == f"Error: {dataset}: {message}\n"
    assert not out.exists()


def test_a_label_option_without_a_label_does_not_mean_all(dataset, tmp_path):
    out = tmp_path / "out"
    for arguments in (["--participant-label", "--no-html"], ["--session-label", "--participant-label", "01"]):
        assert "expected one label or several" in fails(app(dataset, out, "participant", *arguments), code=2)
    message = fails(app(dataset, out, "group", "--participant-label", "01", "--no-html"), code=2)
    assert "group takes no labels" in message
    assert not out.exists()


def test_a_subject_without_a_scan_does_not_stop_the_others(dataset, trained, tmp_path):
    out = tmp_path / "out"
    (dataset / "sub-03" / "anat").mkdir(parents=True)
    result = app(dataset, out, "participant", "--participant-label", "03", "01", "--no-html", "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    assert "sub-03: left out, no sub-*/anat/*_FLAIR.nii.gz" in result.stderr
    assert made(out) == ["sub-01"]


def test_another_dataset_in_the_same_folder_is_not_taken_for_the_first(dataset, trained, tmp_path):
    out, options = tmp_path / "out", ("--participant-label", "01", "--no-html", "--model", trained, *FAST)
    assert app(dataset, out, "participant", *options).exit_code == 0
    other = tmp_path / "other"
    save(make_brain(2)[0], other / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    save(make_brain(2)[0], other / "sub-04" / "anat" / "sub-04_FLAIR.nii.gz")
    (other / "dataset_description.json").write_bytes((dataset / "dataset_description.json").read_bytes())
    result = app(other, out, "participant", "--no-html", "--model", trained, *FAST)
    assert result.exit_code == 1
    assert "sub-01_label-lesion_mask.nii.gz: was written from other files" in result.stderr
    # The description links to the first dataset, so a scan of the other one has no source in it.
    assert "Sources" not in json.loads((out / "sub-04/anat/sub-04_label-lesion_mask.json").read_text())
    assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"] == {"raw": dataset.as_uri()}


@pytest.mark.parametrize("level", ["participant", "group"])
def test_what_is_no_dataset(tmp_path, level):
    out = tmp_path / "out"
    missing = fails(app(tmp_path / "x", out, level, "--no-html"))
    assert missing == f"Error: {tmp_path / 'x'}: no such folder; give the root of a BIDS dataset\n"
    plain = fails(app(tmp_path, out, level, "--no-html"))
    assert plain == f"Error: {tmp_path}: has no dataset_description.json; give the root of a BIDS dataset\n"
    assert not out.exists()


def test_a_group_needs_results(dataset, tmp_path):
    out = tmp_path / "out"
    message = fails(app(dataset, out, "group", "--no-html"))
    assert message == f"Error: {out}: has no results; run the participant level first\n"
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["session"], "'session' is not one of 'participant', 'group'"),
        ([], "Missing argument 'participant|group'"),
        (["participant", "--participant-label"], "--participant-label: expected one label or several"),
        (["participant", "--no-html", "--no-such-option"], "No such option"),
        (["participant", "--no-html", "--workers", "0"], "0 is not in the range x>=1"),
    ],
)
def test_wrong_arguments_are_usage_errors(dataset, tmp_path, arguments, message):
    out = tmp_path / "out"
    assert message.lower() in fails(app(dataset, out, *arguments), code=2).lower()
    assert not out.exists()


def test_the_source_dataset_is_not_written_to(dataset, trained):
    message = fails(app(dataset, dataset, "participant", "--no-html", "--model", trained, *FAST))
    assert "belongs to another dataset; choose another --out-dir" in message
    assert not list(dataset.rglob("*mask*"))


def test_an_option_with_several_values_can_be_repeated(dataset, trained, tmp_path):
    out = tmp_path / "out"
    options = ("--participant-label=01", "--participant-label", "02", "--session-label", "a", "--no-html")
    result = app(dataset, out, "participant", *options, "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    assert made(out) == ["sub-02_ses-a"]
    assert np.isin(list(participant_ids(out)), ["sub-02"]).all()


def test_the_boutiques_descriptor_describes_each_argument():
    from boutiques.validator import validate_descriptor

    result = app("--boutiques")
    assert result.exit_code == 0
    described = json.loads(result.stdout)
    validate_descriptor(described)
    wanted = [parameter.name for parameter in bids.params if parameter.expose_value]
    assert [one["id"] for one in described["inputs"]] == wanted
    assert described["command-line"].startswith("brainseg-tf-bids [BIDS_DIR] [OUTPUT_DIR] [ANALYSIS_LEVEL]")
    (level,) = [one for one in described["inputs"] if one["id"] == "analysis_level"]
    assert level["value-choices"] == ["participant", "group"]


def test_the_descriptor_makes_calls_that_the_command_understands(tmp_path):
    import boutiques as bosh

    file, call = tmp_path / "brainseg-tf.json", tmp_path / "call.json"
    file.write_text(app("--boutiques").stdout)
    (tmp_path / "data").mkdir()
    given = {"bids_dir": str(tmp_path / "data"), "output_dir": "out", "analysis_level": "participant"}
    given |= {"participant_label": ["01", "02"], "html": True}
    call.write_text(json.dumps(given))
    line = bosh.execute("simulate", "-i", str(call), str(file)).shell_command.split()
    assert line[0] == "brainseg-tf-bids"
    message = fails(app(*line[1:]))
    assert message == f"Error: {tmp_path / 'data'}: has no dataset_description.json; give the root of a BIDS dataset\n"


def test_words_that_belong_to_no_option_are_not_scans(dataset, tmp_path):
    out = tmp_path / "out"
    message = fails(app(dataset, out, "participant", "01", "--no-html"), code=2)
    assert "unexpected arguments: 01; labels follow --participant-label" in message
    assert not out.exists()
