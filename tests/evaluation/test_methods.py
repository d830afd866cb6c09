"""The evaluation of methods on synthetic patients."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.evaluation.case_metrics import BINS, Histogram
from brainseg_tf.evaluation.methods import (
    EQUALISED,
    FALSE_POSITIVE_CUT,
    MIXTURE_CUT,
    NO_NETWORK,
    VALIDATION_CUT,
    Method,
    baseline,
    best_threshold,
    evaluate,
    oracle,
)
from brainseg_tf.images.volume import read_mask, read_volume
from brainseg_tf.training.cohort import read_cohort
from helpers import random_case
from synthetic_models import LEVELS, OPTIONS, Healthy, card


def methods() -> list[Method]:
    baselines = [baseline(name, card(), OPTIONS, LEVELS["input"]) for name in (NO_NETWORK, EQUALISED)]
    return [Method("perfect", card(), Healthy(), OPTIONS), *baselines]


def test_models_and_baselines_are_compared_on_every_test_patient(brats_like):
    patients = read_cohort(brats_like, ("flair",)).patients
    shown = []
    result = evaluate(methods(), patients[3:5], patients[:2], shown.append)
    assert [(one.method, one.patient, one.cut) for one in result.comparisons] == [
        (method, patient.name, MIXTURE_CUT) for patient in patients[:2] for method in ("perfect", NO_NETWORK)
    ]
    assert shown == result.comparisons
    assert all(one.dice > 0.6 for one in shown)
    scan = read_volume(patients[0].scans["flair"])
    assert shown[0].lesion_ml == pytest.approx(read_mask(patients[0].truth, scan).sum() * scan.voxel_ml)
    assert shown[0].average_precision > 0.6 and shown[0].hausdorff95 < 20
    # The tumour-free slices contain nothing that these methods flag.
    assert [one.tumour_free_ml for one in shown] == [0] * 4

    cuts = list(result.cut())
    assert {(one.method, one.cut) for one in cuts} == {
        (method, cut) for method in ("perfect", NO_NETWORK, EQUALISED) for cut in (FALSE_POSITIVE_CUT, VALIDATION_CUT)
    }
    best = {one.patient: one.dice for one in oracle([result]) if one.method == "perfect"}
    assert len(best) == 2
    by_validation = [one.dice for one in cuts if (one.method, one.cut) == ("perfect", VALIDATION_CUT)]
    assert np.mean(list(best.values())) >= np.mean(by_validation) > 0.5


def test_the_false_positive_threshold_on_its_own_validation_patient(brats_like):
    """Validation and test patient are the same, so the false positive share on it must be just below 5 %."""
    patients = read_cohort(brats_like, ("flair",)).patients[:1]
    result = evaluate(methods(), patients, patients)
    ((one, histogram),) = result.test[NO_NETWORK]
    (cut,) = [cut for cut in result.cut() if (cut.method, cut.cut) == (NO_NETWORK, FALSE_POSITIVE_CUT)]
    healthy = one.brain & ~one.truth.any(axis=(0, 1))
    flagged = cut.false_ml / (healthy.sum() * one.voxel_ml)
    assert 0.02 < flagged <= 0.05
    assert histogram.healthy()[0] == healthy.sum()


def test_without_a_healthy_validation_slice_there_is_no_threshold_of_false_positives(brats_like):
    patients = read_cohort(brats_like, ("flair",)).patients[:1]
    result = evaluate(methods(), patients, patients)
    for histograms in result.validation.values():
        for histogram in histograms:
            histogram._truth[:] = 1
    assert {cut.cut for cut in result.cut()} == {VALIDATION_CUT}


def test_without_validation_patients_only_mixture_and_oracle_are_measured(brats_like):
    result = evaluate(methods(), (), read_cohort(brats_like, ("flair",)).patients[:1])
    assert list(result.cut()) == []
    assert {one.method for one in oracle([result])} == {"perfect", NO_NETWORK, EQUALISED}


def test_the_best_threshold_is_the_best():
    histograms = [
        Histogram(one, np.random.default_rng(9).random(one.truth.shape)) for one in (random_case(0), random_case(1))
    ]
    mean = [
        np.mean([h.cut("m", "c", random_case(k), t).dice for k, h in enumerate(histograms)]) for t in range(1, BINS)
    ]
    assert mean[best_threshold(histograms) - 1] == max(mean)


def test_a_baseline_ignores_the_users_healthy_threshold_unless_it_is_0():
    for threshold, expected in ((None, None), (0.0, 0.0), (0.3, None)):
        options = replace(OPTIONS, healthy_threshold=threshold)
        assert baseline(NO_NETWORK, card(), options, 0.7).options.healthy_threshold == expected


def test_a_patient_with_a_damaged_file_is_left_out_and_named(brats_like, tmp_path):
    shutil.copytree(brats_like, tmp_path / "data")
    patients = read_cohort(tmp_path / "data", ("flair",)).patients[:2]
    patients[0].truth.write_bytes(b"")
    result = evaluate(methods(), (), patients)
    assert len(result.problems) == 1 and patients[0].name in result.problems[0]
    assert [one.patient for one in result.comparisons] == [patients[1].name] * 2


def test_a_patient_on_whom_one_method_fails_counts_for_none(brats_like):
    patients = read_cohort(brats_like, ("flair",)).patients[:2]

    class Failing(Healthy):
        calls = 0

        def reconstruct(self, images):
            self.calls += 1
            if self.calls == 1:
                raise InputError("cannot be segmented")
            return super().reconstruct(images)

    for sides in ((patients, ()), ((), patients)):
        result = evaluate([*methods(), Method("failing", card(), Failing(), OPTIONS)], *sides)
        assert result.problems == [f"{patients[0].name}: left out, cannot be segmented"]
        counts = [len(one) for one in (result.test if sides[1] else result.validation).values()]
        assert counts == [1, 1, 1, 1]
