"""Aggregation over patients, with numbers that were computed by hand."""

import numpy as np
import pytest

from brainseg_tf.evaluation import reports
from brainseg_tf.evaluation.aggregate import summarise
from brainseg_tf.evaluation.case_metrics import Case, Comparison, compare
from brainseg_tf.evaluation.methods import MIXTURE_CUT

# One voxel is 1 ml.
SPACING = (10.0, 10.0, 10.0)
SHAPE = (8, 8, 4)


def comparison(name: str, lesion: int, found: int, common: int, cohort: str = "a") -> Comparison:
    """A patient with these numbers of voxels in the ground truth, in the mask, and in both."""
    truth, mask = np.zeros((2, *SHAPE), bool)
    truth.ravel()[:lesion] = True
    mask.ravel()[lesion - common : lesion - common + found] = True
    case = Case(name, truth, np.ones(SHAPE, bool), np.ones(SHAPE[2], bool), SPACING, cohort)
    return compare("m", MIXTURE_CUT, case, mask)


@pytest.fixture
def comparisons() -> list[Comparison]:
    return [
        comparison("good", 40, 40, 40),
        comparison("half", 40, 40, 20),
        comparison("missed", 40, 0, 0),
        comparison("hardly", 90, 10, 4, "b"),
        comparison("small", 1, 0, 0, "b"),
        comparison("healthy", 0, 0, 0, "b"),
        comparison("flagged", 0, 3, 0, "b"),
    ]


def test_patients_whose_lesion_is_missed(comparisons):
    """Of more than 2 ml, with a Dice below 0.1: 'missed' and 'hardly' (0.08), not 'small' with its 1 ml."""
    assert [one.patient for one in comparisons if one.missed] == ["missed", "hardly"]
    numbers = summarise(comparisons)
    assert numbers["missed"] == 2
    assert numbers["missed_share"] == pytest.approx(2 / 5)
    low, high = numbers["missed_share_interval"]
    assert 0 <= low < 0.4 < high <= 1


def test_median_and_the_lowest_five(comparisons):
    numbers = summarise(comparisons)
    assert numbers["dice"] == pytest.approx((1 + 0.5 + 0 + 0.08 + 0) / 5)
    assert numbers["dice_median"] == pytest.approx(0.08)
    assert [one["patient"] for one in numbers["worst"]] == ["missed", "small", "hardly", "half", "good"]
    assert numbers["worst"][2] == {"patient": "hardly", "dice": 0.08, "lesion_ml": 90.0, "found_ml": 10.0}
    without = summarise([one for one in comparisons if one.lesion_ml == 0])
    assert without["worst"] == [] and np.isnan(without["dice_median"]) and np.isnan(without["missed_share"])
    assert (without["healthy_flagged"], without["healthy_ml_p95"]) == (0.5, pytest.approx(0.95 * 3))


def test_detection_by_lesion(comparisons):
    numbers = summarise(comparisons)
    assert numbers["lesions"] == 5
    assert numbers["lesion_sensitivity"] == pytest.approx(3 / 5)
    assert numbers["false_lesions"] == pytest.approx(1 / 7)
    # Over the patients with a lesion.
    assert numbers["lesion_f1"] == pytest.approx((1 + 1 + 0 + 1 + 0) / 5)
    unmeasured = summarise([Comparison(**{**vars(comparisons[0]), "lesions": None})])
    assert np.isnan(unmeasured["lesion_sensitivity"]) and np.isnan(unmeasured["lesions"])


def test_several_seeds_add_no_patients(comparisons):
    once, thrice = summarise(comparisons), summarise([*comparisons, *comparisons, *comparisons])
    for name in ("patients", "missed", "lesions", "slices", "dice", "missed_share", "lesion_sensitivity", "worst"):
        assert thrice[name] == once[name], name
    for name in ("dice", "missed_share", "lesion_f1", "lesion_sensitivity", "iou_slice"):
        assert thrice[f"{name}_interval"] == pytest.approx(once[f"{name}_interval"]), name
    # A patient who is missed with one seed of two.
    found = comparison("missed", 40, 40, 40)
    both = summarise([*comparisons, *(found if one.patient == "missed" else one for one in comparisons)])
    assert (both["patients"], both["missed"]) == (7, 1.5)
    assert both["worst"][0]["patient"] == "missed" and both["worst"][0]["dice"] == 0
    # A patient who could not be tested with the other seed counts once too.
    assert summarise([*comparisons, *comparisons[:3]])["missed"] == 2


def test_summaries_by_cohort(comparisons):
    by_cohort = reports.by_cohort(comparisons)
    assert list(by_cohort) == ["a", "b"]
    assert by_cohort["a"]["m", MIXTURE_CUT]["dice"] == pytest.approx(0.5)
    assert by_cohort["b"]["m", MIXTURE_CUT]["patients"] == 4
    assert reports.by_cohort(comparisons[:3]) == {}


def test_the_line_with_the_lowest_dice(comparisons):
    summaries = reports.by_method_and_cut(comparisons)
    assert reports.worst(summaries).startswith(
        "m, lowest Dice: missed 0.00 (40 ml, found 0), small 0.00 (1 ml, found 0)"
    )
