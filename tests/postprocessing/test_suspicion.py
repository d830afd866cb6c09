"""What is suspected, and the rules that left it out of the mask."""

import numpy as np
import pytest

from brainseg_tf.images.volume import read_volume
from brainseg_tf.postprocessing.suspicion import (
    REASONS,
    Explanation,
    History,
    Suspect,
    suspected_pixels,
    suspects,
    suspicion_warning,
)
from helpers import lesion, make_brain, save

SHAPE = (20, 40, 50)
# Voxels of 0.01 ml.
VOXEL_ML = 0.01


def boxes(*places: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for place in places:
        mask[place] = True
    return mask


# 500, 400 and 300 voxels, far from each other.
FIRST, SECOND, THIRD = (
    (slice(2, 7), slice(2, 12), slice(2, 12)),
    (slice(2, 6), slice(20, 30), slice(2, 12)),
    (slice(2, 5), slice(2, 12), slice(30, 40)),
)


def test_each_component_is_explained_by_the_rule_that_removed_it():
    """Also by the values that this rule compared, averaged over what it removed."""
    everything = boxes(FIRST, SECOND, THIRD)
    history = History(everything, VOXEL_ML)
    history.keep(boxes(SECOND, THIRD), "boundary")
    score = np.where(boxes(THIRD), 0.5, 0.0)
    values = {"contrast": np.where(boxes(THIRD), 0.0625, 9.0), "conspicuity": np.where(boxes(THIRD), 0.5156, 9.0)}
    kept = boxes(SECOND)
    assert history.keep(kept, "inconspicuous", least=0.7, score=score, **values) is kept
    history.keep(boxes(), "min_size", least=5.0, when="")
    suspicion = history.suspicion(everything, score, "")
    found = {suspicion.components[place].max(): name for place, name in ((FIRST, "a"), (SECOND, "b"), (THIRD, "c"))}
    explained = {found[number]: one for number, one in enumerate(suspicion.explanations, start=1)}
    assert {name: one.reason for name, one in explained.items()} == {
        "a": "boundary",
        "b": "min_size",
        "c": "inconspicuous",
    }
    assert explained["a"].text == (
        "it is not bright enough in the image: the refinement of the boundary removed it (--boundary-mm)"
    )
    assert explained["b"].text == "it is too small: 4.000 ml, less than 5 ml (--min-size-ml)"
    assert explained["c"].text == (
        "it is not conspicuous enough: 0.516, less than 0.7 (--min-conspicuity); after the refinement of its boundary "
        "the network's mean probability is 0.500, the contrast 0.062"
    )


def test_what_no_rule_removed_is_below_the_detection_threshold():
    history = History(boxes(), VOXEL_ML)
    (one,) = history.suspicion(boxes(FIRST), np.full(SHAPE, 0.375), "0.5 is needed").explanations
    assert one == Explanation(
        "below_threshold",
        "it is below the detection threshold: the network's mean probability is 0.375, and 0.5 is needed",
    )


@pytest.mark.parametrize(
    ("rows", "reason", "start"),
    [
        # 1, 15 and 96 percent of a component of 100 rows.
        (1, "below_threshold", "most of it is below the detection threshold"),
        (15, "boundary", "its part above the detection threshold (15%) is not bright enough"),
        (96, "boundary", "it is not bright enough"),
    ],
)
def test_a_rule_explains_a_component_if_it_removed_a_tenth_of_it(rows, reason, start):
    suspected = np.zeros((100, 3, 3), bool)
    suspected[:, 1, 1] = True
    above = suspected.copy()
    above[rows:] = False
    history = History(above, VOXEL_ML)
    history.keep(np.zeros_like(above), "boundary")
    (one,) = history.suspicion(suspected, np.zeros(suspected.shape), "x").explanations
    assert one.reason == reason
    assert one.text.startswith(start)


def test_the_last_of_several_rules_explains_a_component():
    """The boundary was refined; what remained was too small."""
    history = History(boxes(FIRST), VOXEL_ML)
    history.keep(boxes((slice(2, 4), *FIRST[1:])), "boundary")
    history.keep(boxes(), "min_size", least=3.0, when=" after the refinement of its boundary")
    (one,) = history.suspicion(boxes(FIRST), np.zeros(SHAPE), "").explanations
    assert one.reason == "min_size"
    assert one.text == "it is too small: 2.000 ml after the refinement of its boundary, less than 3 ml (--min-size-ml)"


def test_the_size_is_that_of_the_largest_part():
    parts = boxes((slice(2, 4), *FIRST[1:]), (slice(6, 7), *FIRST[1:]))
    history = History(parts, VOXEL_ML)
    history.keep(boxes(), "min_size", least=2.5, when="")
    (one,) = history.suspicion(boxes(FIRST), np.zeros(SHAPE), "").explanations
    assert one.text == (
        "its part above the detection threshold (60%) is too small: 2.000 ml, less than 2.5 ml (--min-size-ml)"
    )


def test_nothing_suspected_has_no_explanation():
    suspicion = History(boxes(FIRST), VOXEL_ML).suspicion(boxes(), np.zeros(SHAPE), "")
    assert not suspicion.components.any() and suspicion.explanations == []


def test_each_reason_has_a_text():
    everything = {
        "conspicuity": 0.1,
        "least": 0.2,
        "when": "",
        "contrast": 0.1,
        "score": 0.1,
        "threshold": "",
    }
    for reason in REASONS:
        history = History(boxes(FIRST), VOXEL_ML)
        history.keep(boxes(), reason, **everything)
        (one,) = history.suspicion(boxes(FIRST), np.zeros(SHAPE), "").explanations
        assert one.reason == reason and "{" not in one.text


def test_the_components_on_the_scans_grid_get_their_explanations():
    """Largest first; a component with voxels of two explanations gets that of most voxels."""
    mask = boxes(FIRST, SECOND)
    explained = np.where(boxes(FIRST), 2.0, 0) + np.where(boxes(SECOND), 1.0, 0)
    explained[2, 2:6, 2:12] = 1
    found = suspects(
        mask,
        [lesion(5.0), lesion(4.0)],
        explained,
        [Explanation("boundary", "one"), Explanation("inconspicuous", "two")],
    )
    assert [(one.ml, one.reason, one.explanation) for one in found] == [
        (5.0, "inconspicuous", "two"),
        (4.0, "boundary", "one"),
    ]


def test_the_surroundings_of_a_mask_are_not_suspected():
    """A score that fades over 4 mm."""
    found, candidates = np.zeros((20, 40, 40), bool), np.zeros((20, 40, 40), bool)
    found[5:15, 5:15, 5:15] = True
    candidates[2:18, 2:18, 2:18] = True
    limits = {"spacing": (1.0, 1.0, 1.0), "margin_mm": 4.0, "min_size_ml": 0.5}
    assert not suspected_pixels(candidates, found, **limits).any()
    candidates[5:15, 25:35, 5:35] = True
    expected = np.zeros_like(found)
    expected[5:15, 25:35, 5:35] = True
    np.testing.assert_array_equal(suspected_pixels(candidates, found, **limits), expected)
    # 3 ml.
    assert not suspected_pixels(candidates, found, **limits | {"min_size_ml": 3.001}).any()


def test_suspects_of_twice_the_masks_volume_give_a_warning(tmp_path):
    def suspect(ml: float) -> Suspect:
        return Suspect(**vars(lesion(ml)), reason="inconspicuous", explanation="it is too faint")

    scan = read_volume(save(make_brain(3)[0], tmp_path / "scan.nii"))
    assert suspicion_warning(scan, [lesion(1.0)], [suspect(2.0)]) == (
        f"{scan.path}: the mask has 1.0 ml; 2.0 ml suspected near (1, 2, 3) mm, see --save-suspicion; it is not in the "
        "mask because it is too faint"
    )
    several = suspicion_warning(scan, [], [suspect(2.0), suspect(1.0)])
    assert "no lesion found; 3.0 ml suspected near (1, 2, 3) mm" in several
    assert several.endswith("the largest of 2 components is not in the mask because it is too faint")
    assert suspicion_warning(scan, [lesion(2.0)], [suspect(1.0)]) is None
    assert suspicion_warning(scan, [], []) is None
