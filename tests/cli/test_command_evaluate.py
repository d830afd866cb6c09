"""The command evaluate: exit codes, output and files."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.model_card import read_card
from brainseg_tf.training.cohort import read_cohort
from brainseg_tf_cli.evaluate import _select_patients
from helpers import FAST, call, fails, make_brain, save


def test_a_read_only_model_keeps_its_card(trained, brats_like, monkeypatch):
    card = trained / "1" / "assets.extra" / "model_card.json"
    before = card.read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert "no permission to write" in fails(
        call("evaluate", brats_like, "--model", trained, "--patients", "all", "--update-card")
    )
    assert card.read_bytes() == before


@pytest.mark.slow
def test_cross_validation_tests_every_patient_once_and_can_be_continued(trained, brats_like, tmp_path):
    assert "give --out" in fails(call("evaluate", brats_like, "--model", trained, "--folds", 2), code=2)
    card = read_card(trained / "1")
    quick = tmp_path / "quick"
    shutil.copytree(trained / "1", quick / "1")
    replace(card, training=card.training | {"epochs": 1}).write(quick / "1")
    out = tmp_path / "cv"
    arguments = ("evaluate", brats_like, "--model", quick, "--folds", 2, "--out", out, *FAST)
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((out / "comparisons.csv").read_text().splitlines()))
    tested = [row["patient"] for row in rows if (row["method"], row["cut"]) == ("small", "mixture")]
    assert sorted(tested) == sorted({row["patient"] for row in rows}) and len(tested) == 8
    for split in json.loads((out / "folds-seed0.json").read_text())["folds"]:
        assert len({*split["train"], *split["validation"], *split["test"]}) == 8
    weights = sorted(out.glob("runs/small/*/1/variables/*"))
    times = [file.stat().st_mtime_ns for file in weights]
    shutil.rmtree(out / "runs/small/seed0-fold2/1")
    assert call(*arguments, "--overwrite").exit_code == 0
    unchanged = [file.stat().st_mtime_ns == before for file, before in zip(weights, times, strict=True)]
    assert unchanged == ["fold1" in str(file) for file in weights]
    again = list(csv.DictReader((out / "comparisons.csv").read_text().splitlines()))
    assert [row["dice"] for row in again] == [row["dice"] for row in rows]
    message = fails(call(*arguments[:-2], *FAST, "--folds", 3, "--overwrite"))
    assert "another number of folds" in message


def test_evaluate_uses_the_patients_that_no_model_was_trained_on(trained, brats_like, tmp_path):
    data = read_card(trained / "1").data
    result = call("evaluate", brats_like, "--model", trained, *FAST)
    assert result.exit_code == 0, result.output
    tested = {line.split()[0] for line in result.stdout.splitlines() if " Dice 0" in line}
    assert tested == set(data.test) and not tested & {*data.train, *data.validation}


def test_patients_that_an_earlier_model_saw_and_other_examinations_are_not_unseen(trained, brats_like, tmp_path):
    card = read_card(trained / "1")
    first, *rest = card.data.test
    cohort = read_cohort(brats_like, ("flair",))
    assert _select_patients("unseen", cohort, [card]) == [first, *rest]
    tuned = replace(card, data=replace(card.data, earlier=(first,)))
    assert tuned.data.seen == (*card.data.train, *card.data.validation, first)
    assert _select_patients("unseen", cohort, [tuned]) == rest
    # Another session of a subject, which is not among these scans.
    session = replace(card, data=replace(card.data, train=("sub-01_ses-1",), validation=("a",)))
    one = replace(cohort, patients=(replace(cohort.patients[0], name="sub-01_ses-2", subject="sub-01"),))
    assert _select_patients("unseen", one, [session]) == []
    # The names anna_1 and anna_2 of the training depend on its table; here anna has one scan.
    named = replace(card, data=replace(card.data, train=("anna_1", "anna_2"), validation=("b",), subjects=("anna",)))
    one = replace(cohort, patients=(replace(cohort.patients[0], name="anna", subject="anna"),))
    assert _select_patients("unseen", one, [named]) == []
    subjects = {first: card.data.train[0]}
    twice = tuple(replace(one, subject=subjects.get(one.name, one.name)) for one in cohort.patients)
    assert _select_patients("unseen", replace(cohort, patients=twice), [card]) == rest


def test_two_models_of_one_name_are_two_methods(trained, brats_like, tmp_path):
    other = tmp_path / "small"
    shutil.copytree(trained / "1", other / "1")
    models = ("--models", f"{trained},{other}")
    result = call("evaluate", brats_like, *models, "--baselines", "no-network", *FAST)
    assert result.exit_code == 0, result.output
    for model in (trained, other):
        assert f"\n{model}, lowest Dice: " in result.stdout
    message = fails(call("evaluate", brats_like, *models, "--folds", 2, "--out", tmp_path / "out"))
    assert message == "Error: small: two of the models have this name; train them one by one, each with its own --out\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("-1", "-1: expected integers from 0 on, separated by commas"),
        ("0,x", "0,x: expected integers from 0 on, separated by commas"),
        ("0,1", "several --seeds go with --folds or --train-on, which train models"),
    ],
)
def test_seeds_that_are_not_possible_are_refused(trained, brats_like, seeds, message):
    assert message in fails(call("evaluate", brats_like, "--model", trained, "--seeds", seeds), code=2)


def test_a_subject_is_not_on_both_sides(two_cohorts, trained, tmp_path):
    first, second = two_cohorts
    for table, folder in ((tmp_path / "first.tsv", first), (tmp_path / "second.tsv", second)):
        rows = [
            f"{next(one.glob('*_flair.nii.gz'))}\t{next(one.glob('*_seg.nii.gz'))}\tsub-{number}\t{folder.name}"
            for number, one in enumerate(sorted(folder.iterdir()))
        ]
        table.write_text("path\tseg\tsubject\tsession\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    message = fails(
        call(
            *("evaluate", tmp_path / "second.tsv", "--train-on", tmp_path / "first.tsv"),
            "--model",
            trained,
            "--out",
            out,
        )
    )
    assert "subject sub-0 is on both sides, with different examinations; remove one of them" in message
    assert not out.exists()


def test_all_patients_of_another_cohort_are_unseen(trained, brats_like, tmp_path):
    patient = next(brats_like.glob("HGG/*"))
    copy = tmp_path / "HGG" / f"other_{patient.name}"
    shutil.copytree(patient, copy)
    for file in list(copy.iterdir()):
        file.rename(file.with_name(f"other_{file.name}"))
    message = fails(call("evaluate", tmp_path, "--model", trained, "--patients", "train"))
    assert "has no train patients for this model; give --patients all, or --folds 5" in message
    result = call("evaluate", tmp_path, "--model", trained, "--baselines", "no-network", *FAST)
    assert result.exit_code == 0, result.output
    assert "other_" in result.stdout
    assert "no network" in result.stdout and "equalised" not in result.stdout


@pytest.mark.parametrize(
    ("baselines", "message"),
    [
        ("no-network,nonsense", "nonsense: is not a baseline; choose from no-network, equalised"),
        ("equalised", "no-network is required, because"),
        ("", "no-network is required, because"),
    ],
)
def test_unknown_baselines_and_a_missing_no_network_are_refused(trained, brats_like, tmp_path, baselines, message):
    arguments = ("evaluate", brats_like, "--model", trained, "--baselines", baselines, "--out", tmp_path / "out")
    assert message in fails(call(*arguments), code=2)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def two_cohorts(brats_like, tmp_path) -> tuple[Path, Path]:
    """Six and two patients, in folders of their own."""
    for name, grade in (("first", "HGG"), ("second", "LGG")):
        shutil.copytree(brats_like / grade, tmp_path / name)
    return tmp_path / "first", tmp_path / "second"


def test_a_patient_without_a_lesion_is_evaluated_too(two_cohorts, trained, tmp_path):
    _, folder = two_cohorts
    one, other = sorted(folder.iterdir())
    save(np.zeros(make_brain(0)[1].shape, np.uint8), one / f"{one.name}_seg.nii.gz")
    out = tmp_path / "table"
    result = call(
        *("evaluate", folder, "--model", trained, "--baselines", "no-network", *FAST),
        *("--patients", "all", "--out", out),
    )
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((out / "comparisons.csv").read_text().splitlines()))
    volumes = {row["patient"]: float(row["lesion_ml"]) for row in rows}
    assert volumes[one.name] == 0 < volumes[other.name]


@pytest.mark.slow
def test_several_cohorts_are_reported_together_and_each_by_itself(two_cohorts, trained, tmp_path):
    out = tmp_path / "table"
    common = ("--model", trained, "--baselines", "no-network", *FAST)
    result = call("evaluate", *two_cohorts, *common, "--patients", "all", "--out", out)
    assert result.exit_code == 0, result.output
    assert "\nfirst\n" in result.stdout and "\nsecond\n" in result.stdout
    assert "small, lowest Dice: BraTS19_TEST_" in result.stdout
    rows = list(csv.DictReader((out / "comparisons.csv").read_text().splitlines()))
    assert {row["cohort"] for row in rows if row["patient"] == "BraTS19_TEST_03_1"} == {"second"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["patients"].startswith("first + second, ")
    numbers = {name: summary["cohorts"][name]["small"]["mixture"] for name in ("first", "second")}
    assert (numbers["first"]["patients"], numbers["second"]["patients"]) == (6, 2)
    pooled = summary["methods"]["small"]["mixture"]
    assert pooled["dice"] == pytest.approx((6 * numbers["first"]["dice"] + 2 * numbers["second"]["dice"]) / 8)
    assert len(pooled["worst"]) == 5


@pytest.mark.slow
def test_training_on_one_cohort_and_testing_on_another(two_cohorts, trained, tmp_path):
    first, second = two_cohorts
    out = tmp_path / "across"
    result = call(
        *("evaluate", second, "--train-on", first, "--model", trained, "--out", out),
        *("--baselines", "no-network", *FAST),
    )
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((out / "comparisons.csv").read_text().splitlines()))
    assert {row["patient"] for row in rows} == {"BraTS19_TEST_03_1", "BraTS19_TEST_07_1"}
    card = read_card(out / "runs" / "small" / "seed0" / "1")
    assert {*card.data.train, *card.data.validation} == {one.name for one in first.iterdir()}
    assert json.loads((out / "summary.json").read_text())["patients"] == "second, trained on first, seeds 0"


def test_train_on_does_not_go_with_other_ways_to_train(brats_like, trained, tmp_path):
    out = tmp_path / "out"
    for more, code, message in (
        ((), 2, "--train-on trains models; give --out FOLDER for them"),
        (("--out", out, "--folds", 2), 2, "--train-on does not go with it"),
        (("--out", out, "--update-card"), 2, "--update-card: --train-on tests newly trained networks"),
        (("--out", out), 1, "is the same patient as"),
    ):
        error = fails(call("evaluate", brats_like, "--train-on", brats_like, "--model", trained, *more), code)
        assert message in error
        assert not out.exists()
