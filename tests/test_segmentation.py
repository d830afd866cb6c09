from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from brainseg_tf.brain.mask import Brain
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import read_volume
from brainseg_tf.metrics import dice
from brainseg_tf.options import MixtureOptions, SegmentationOptions, SliceOptions
from brainseg_tf.reconstruction import Reconstruction
from brainseg_tf.segmentation import segment
from brainseg_tf.slices import from_stack, onto_stack, to_stack
from brainseg_tf.training.calibration import healthy_levels
from brainseg_tf.training.cohort import read_cohort
from helpers import AFFINE, make_brain, save
from synthetic_models import LEVELS, OPTIONS, SLICES, Healthy, Pointing, card


def test_the_lesion_and_nothing_else_on_the_scans_own_grid(tmp_path):
    data, truth = make_brain(3)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    result = segment([scan], Healthy(), card(), OPTIONS)
    assert result.mask.shape == scan.data.shape
    assert result.mask.dtype == bool
    assert dice(result.mask, truth) > 0.75
    (lesion,) = result.lesions
    assert lesion.ml == pytest.approx(result.mask.sum() * scan.voxel_ml)
    assert set(result.seconds) == {
        "slices",
        "model",
        "residual",
        "mixture",
        "morphology",
        "boundary",
        "grid",
        "location",
    }
    assert result.warnings == []
    assert result.outline.mixture.means[-1] > result.outline.healthy_threshold == LEVELS["weighted"]


def test_the_means_of_a_lesion_are_over_its_voxels_on_the_scans_grid(tmp_path):
    scan = read_volume(save(make_brain(3)[0], tmp_path / "scan.nii"))
    result = segment([scan], Healthy(), card(), OPTIONS)
    (lesion,) = result.lesions
    maps = {
        "mean_residual": result.residual.mean(axis=-1),
        "mean_probability": result.outline.probability,
        "mean_score": result.outline.score,
    }
    for name, values in maps.items():
        expected = from_stack(values, result.stack, scan)[result.mask].mean()
        assert getattr(lesion, name) == pytest.approx(expected, abs=1e-3) and expected > 0.05
    healthy = np.median(scan.data[result.brain.mask & ~result.mask])
    assert lesion.intensity_ratio == pytest.approx(scan.data[result.mask].mean() / healthy, abs=1e-3)


def test_the_smallest_size_holds_on_the_scans_grid_too(tmp_path):
    """A thin bright sheet that lies obliquely falls apart on slices of 16 mm."""
    data, _ = make_brain(3, lesion=False, shape=(43, 47, 92))
    affine = AFFINE @ np.diag([1, 1, 0.25, 1])
    x, _, z = np.indices(data.shape)
    data[(np.abs(z - 2 * x) < 3) & (data > 0)] = 900
    scan = read_volume(save(data[:, :, ::13], tmp_path / "scan.nii", affine @ np.diag([1, 1, 13, 1])))
    result = segment(
        [scan], Healthy(), card(), replace(OPTIONS, closing_mm=0.0, boundary_mm=0.0, healthy_threshold=0.0)
    )
    assert result.lesions
    assert min(lesion.ml for lesion in result.lesions) >= OPTIONS.min_size_ml
    assert ndimage.label(result.mask, np.ones((3, 3, 3)))[1] == len(result.lesions)


def test_a_healthy_scan_gives_an_empty_mask(tmp_path):
    scan = read_volume(save(make_brain(3, lesion=False)[0], tmp_path / "scan.nii"))
    result = segment([scan], Healthy(), card(), OPTIONS)
    assert not result.mask.any()
    assert result.lesions == []


def test_the_healthy_threshold_decides_whether_there_is_a_lesion(tmp_path):
    scan = read_volume(save(make_brain(3)[0], tmp_path / "scan.nii"))
    assert not segment([scan], Healthy(), card(), replace(OPTIONS, healthy_threshold=0.9)).mask.any()
    assert segment([scan], Healthy(), card(), replace(OPTIONS, healthy_threshold=0.0)).mask.any()


def test_a_third_component_is_tried_where_two_are_healthy(tmp_path):
    """A small lesion in a brain of two tissues: of two components neither is the lesion's."""
    data, _ = make_brain(3, lesion=False)
    half = np.arange(data.shape[0])[:, None, None] < data.shape[0] // 2
    data = np.where((data > 0) & half, data + 160, data)
    data[12:16, 20:25, 10:13] = 900
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    options = replace(OPTIONS, score="positive", healthy_threshold=0.5, median=(1, 1, 1), separation=5.0)
    assert not segment([scan], Healthy(), card(), replace(options, components=(2,))).mask.any()
    result = segment([scan], Healthy(), card(), options)
    assert len(result.outline.mixture.means) == 3
    assert dice(result.mask, scan.data == 900) > 0.6
    assert result.outline.mixture.separation > 5
    assert len(segment([scan], Healthy(), card(), replace(options, separation=0.0)).outline.mixture.means) == 2


@pytest.mark.parametrize("score", ["absolute", "positive", "weighted", "input"])
def test_every_score_finds_a_plain_lesion(tmp_path, score):
    data, truth = make_brain(3)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    result = segment([scan], Healthy(), card(), replace(OPTIONS, score=score, healthy_threshold=0.0))
    assert dice(result.mask, truth) > 0.6


@pytest.mark.parametrize(("probability", "found"), [(0.95, True), (0.7, False)])
def test_an_area_of_moderate_probability_does_not_hide_a_tumour(tmp_path, probability, found):
    """Two components: one has the tumour and the larger area, with a mean below the threshold of 0.5.

    Of three, one has the tumour alone. It counts only if it is certain.
    """
    shape, centre = (60, 68, 54), np.array([29.5, 33.5, 26.5])
    place = (np.stack(np.indices(shape), axis=-1) - centre) * 3.0
    random = np.random.default_rng(0)
    brain = np.linalg.norm(place / [68, 84, 66], axis=-1) < 1
    tumour, area = (
        brain & (np.linalg.norm(place - [x, 0, 0], axis=-1) < radius) for x, radius in ((30, 16), (-30, 36))
    )
    data = np.where(brain, 300 + random.normal(0, 20, shape) + 330 * tumour + 60 * area, 0).astype(np.float32)
    scan = read_volume(save(data, tmp_path / "scan.nii", np.diag([-3.0, -3, 3, 1])))
    levels = LEVELS | {"probability": 0.5}
    known = card(score="probability", healthy_levels=levels, slices=SliceOptions(spacing=3.0))
    stack = to_stack([scan], brain, known.slices)
    parts = [onto_stack(one, scan, stack) > 0.5 for one in (tumour, area)]

    class Unsure(Healthy):
        def reconstruct(self, images: np.ndarray) -> Reconstruction:
            values = np.select(parts, [probability, 0.45], 0.02) + random.normal(0, 0.04, parts[0].shape)
            return replace(super().reconstruct(images), probability=np.clip(values, 0, 1).astype(np.float32))

    options = SegmentationOptions(correct_bias_field=False)
    two = segment([scan], Unsure(), known, replace(options, components=(2,)), Brain(brain, "given"))
    assert two.outline.mixture.separation > options.separation and not two.mask.any()
    result = segment([scan], Unsure(), known, options, Brain(brain, "given"))
    assert len(result.outline.mixture.means) == (3 if found else 2)
    assert dice(result.mask, tumour) > 0.8 if found else not result.mask.any()


def test_a_probability_takes_the_residuals_place(tmp_path):
    data, truth = make_brain(3)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    pointing = card(score="probability", healthy_levels=LEVELS | {"probability": 0.4})
    assert dice(segment([scan], Pointing(), pointing, OPTIONS).mask, truth) > 0.6
    assert not segment([scan], Pointing(1.1), pointing, OPTIONS).mask.any()
    with pytest.raises(InputError, match=r"scan.nii: --score probability: this model gives none"):
        segment([scan], Healthy(), card(), replace(OPTIONS, score="probability"))


def test_a_brain_mask_limits_the_search(tmp_path):
    data, truth = make_brain(3)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    brain = (scan.data > 0) & ~truth
    assert not (segment([scan], Healthy(), card(), OPTIONS, Brain(brain, "given")).mask & truth).any()


def test_nothing_is_found_outside_the_brain(tmp_path):
    """Two lesions on either side of a gap in the brain mask: closing joins them across it."""
    data, truth = make_brain(3)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    middle = int(np.argwhere(truth).mean(axis=0)[0])
    brain = scan.data > 0
    brain[middle : middle + 2] = False
    result = segment(
        [scan], Healthy(), card(), replace(OPTIONS, closing_mm=12.0, erosion_mm=0.0), Brain(brain, "given")
    )
    assert result.outline.found.any()
    assert not (result.outline.found & ~result.stack.brain).any()


@pytest.mark.parametrize(("kind", "expected"), [("absolute", 3.75), ("probability", 0.0)])
def test_the_ignored_edge_depends_on_the_score(kind, expected):
    assert SegmentationOptions().erosion_of(kind) == expected
    assert SegmentationOptions(erosion_mm=2.0).erosion_of(kind) == 2.0


def test_a_mixture_of_whole_slices_has_the_background_as_a_component(tmp_path):
    data, truth = make_brain(3)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    options = replace(OPTIONS, mixture_region="slice", components=(3,), mixture=MixtureOptions(lesion="smallest"))
    result = segment([scan], Healthy(), card(), options)
    assert result.outline.inside.all()
    # The residual is 0 outside the brain and about 0.01 in healthy tissue.
    assert result.outline.mixture.lesion > 0
    assert dice(result.mask, truth) > 0.6
    assert not (result.mask & (scan.data == 0)).any()


def test_a_head_with_its_skull_is_warned_of(tmp_path):
    data, _ = make_brain(3)
    data = data + np.random.default_rng(0).normal(0, 3, data.shape).astype(np.float32)
    scan = read_volume(save(data, tmp_path / "head.nii"))
    (warning,) = segment([scan], Healthy(), card(), OPTIONS).warnings
    assert "head.nii: the scan seems not to be skull-stripped" in warning


def test_invalid_scans_and_options_are_refused(tmp_path):
    scan = read_volume(save(make_brain(3)[0], tmp_path / "scan.nii"))
    with pytest.raises(InputError, match=r"needs flair, 2 scan\(s\) given"):
        segment([scan, scan], Healthy(), card(), OPTIONS)
    with pytest.raises(InputError, match="an erosion of 200 mm leaves nothing of the brain"):
        segment([scan], Healthy(), card(), replace(OPTIONS, erosion_mm=200.0))


def test_levels_are_the_scores_of_healthy_tissue(brats_like):
    patients = read_cohort(brats_like, ("flair",)).patients[:2]
    levels = healthy_levels(patients, Healthy(), SLICES)
    assert set(levels) == set(LEVELS)
    # Lesions are at 0.6 and more, healthy texture around 0.3.
    assert 0.3 < levels["input"] < 0.55
    assert 0 < levels["positive"] < 0.2
    assert levels["positive"] <= levels["absolute"]
    assert healthy_levels(patients, None, SLICES) == {"input": levels["input"]}
    # No healthy pixel here is likely a lesion: the level is that of even odds.
    assert healthy_levels(patients, Pointing(), SLICES)["probability"] >= 0.5


class OneSided(Pointing):
    """It takes whatever is bright for a lesion, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__(brightness=0.4)
        self.shown: list[np.ndarray] = []

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        self.shown.append(images)
        return super().reconstruct(images)


def test_a_bias_field_is_not_detected_as_a_lesion(tmp_path):
    textured, _ = make_brain(3, lesion=False)
    across = np.linspace(-1, 1, textured.shape[0])[:, None, None]
    # Even tissue, and some fluid.
    even = np.select([textured > np.quantile(textured[textured > 0], 0.05), textured > 0], [300.0, 60.0])
    scan = read_volume(save(even * np.exp(0.6 * across), tmp_path / "scan.nii"))
    pointing = card(score="probability", healthy_levels=LEVELS | {"probability": 0.5})
    model = OneSided()
    # A field is so smooth that what it brightens is no brighter than what is beside it, either.
    plain = replace(OPTIONS, min_conspicuity=0.0)
    assert segment([scan], model, pointing, replace(plain, correct_bias_field=False)).mask.any()
    assert len(model.shown) == 1
    result = segment([scan], model, pointing, plain)
    assert len(model.shown) == 3
    # A field is seen in every third slice.
    assert [len(shown) for shown in model.shown[1:]] == [-(-len(result.stack.images) // 3), len(result.stack.images)]
    assert not result.mask.any()
    assert result.stack.images is model.shown[-1]
    assert "bias field" in result.seconds
    # Residual scores are left as they were, unless it is asked for.
    segment([scan], model, pointing, replace(OPTIONS, score="weighted"))
    assert len(model.shown) == 4
    segment([scan], model, pointing, replace(OPTIONS, score="weighted", correct_bias_field=True))
    assert len(model.shown) == 6


@pytest.mark.parametrize(
    ("brightness", "probability", "kept"),
    [(1.05, 0.52, False), (1.05, 0.6, True), (1.25, 0.52, True), (2.0, 0.52, True)],
)
def test_components_of_low_contrast_and_low_probability_are_removed(tmp_path, brightness, probability, kept):
    class Sure(Healthy):
        def reconstruct(self, images: np.ndarray) -> Reconstruction:
            said = np.where(images[..., 0] > 0.31, np.float32(probability), np.float32(0))
            return replace(super().reconstruct(images), probability=said)

    data, truth = make_brain(3)
    even = np.where(data > 0, 300.0, 0)
    # The brain's lowest hundredth is 0 on the networks' scale.
    even[(data > 0) & (np.indices(data.shape).sum(axis=0) % 20 == 0)] = 10
    scan = read_volume(save(np.where(truth, 300 * brightness, even), tmp_path / "scan.nii"))
    pointing = card(score="probability", healthy_levels=LEVELS | {"probability": 0.5})
    options = replace(OPTIONS, correct_bias_field=False)
    assert segment([scan], Sure(), pointing, replace(options, min_conspicuity=0.0)).mask.any()
    assert segment([scan], Sure(), pointing, options).mask.any() == kept


@pytest.mark.parametrize("modality", ["flair", "t2"])
def test_lesions_grow_into_bright_tissue_on_flair_only(tmp_path, modality):
    class Half(Pointing):
        """Sees one half of the lesion."""

        def reconstruct(self, images: np.ndarray) -> Reconstruction:
            found = super().reconstruct(images)
            lesion = np.argwhere(found.probability)
            found.probability[..., int(lesion[:, 2].mean()) :] = 0
            return found

    data, truth = make_brain(3)
    even = np.where(data > 0, 300.0, 0)
    even[(data > 0) & (np.indices(data.shape).sum(axis=0) % 20 == 0)] = 10
    scan = read_volume(save(np.where(truth, 700, even), tmp_path / "scan.nii"))
    pointing = card(modalities=(modality,), score="probability", healthy_levels=LEVELS | {"probability": 0.5})
    options = replace(OPTIONS, correct_bias_field=False, boundary_mm=0.0)
    half = segment([scan], Half(), pointing, options).mask
    grown = segment([scan], Half(), pointing, replace(options, growth=2.4)).mask
    if modality == "t2":
        np.testing.assert_array_equal(grown, half)
    else:
        assert not (half & ~grown).any()
        assert dice(half, truth) < 0.75 < 0.85 < dice(grown, truth)


def test_an_erosion_that_leaves_nothing_is_refused_before_anything_is_fitted(tmp_path):
    scan = read_volume(save(make_brain(3)[0], tmp_path / "scan.nii"))
    pointing = card(score="probability", healthy_levels=LEVELS | {"probability": 0.5})
    with pytest.raises(
        InputError, match=r"scan.nii: an erosion of 500 mm leaves nothing of the brain; lower --erosion-mm"
    ):
        segment([scan], Pointing(), pointing, replace(OPTIONS, erosion_mm=500.0))


def test_a_lesion_that_a_rule_removes_is_suspected_and_the_user_is_told(tmp_path):
    data, truth = make_brain(3)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    pointing = card(score="probability", healthy_levels=LEVELS | {"probability": 0.5})

    class Unsure(Pointing):
        def reconstruct(self, images: np.ndarray) -> Reconstruction:
            found = super().reconstruct(images)
            return replace(found, probability=0.6 * found.probability)

    plain = segment([scan], Unsure(), pointing, OPTIONS)
    assert plain.mask.any() and not plain.suspects and plain.warnings == []
    # No component has a conspicuity of 100.
    removed = segment([scan], Unsure(), pointing, replace(OPTIONS, min_conspicuity=100.0))
    assert not removed.mask.any()
    assert dice(removed.suspected, truth) > 0.6
    suspected_ml = sum(one.ml for one in removed.suspects)
    assert suspected_ml == pytest.approx(removed.suspected.sum() * scan.voxel_ml)
    place = ", ".join(f"{value:.0f}" for value in removed.suspects[0].centroid_mm)
    (warning,) = removed.warnings
    (suspect,) = removed.suspects
    assert suspect.reason == "inconspicuous"
    assert warning == (
        f"{scan.path}: no lesion found; {suspected_ml:.1f} ml suspected near ({place}) mm, see --save-suspicion; it is "
        f"not in the mask because {suspect.explanation}"
    )


def test_each_suspect_has_its_own_reason(tmp_path):
    """The left lesion has a probability below the threshold; no component has a conspicuity of 100."""
    data, _ = make_brain(3, lesion=False)
    index = np.stack(np.indices(data.shape), axis=-1)
    middle = (np.array(data.shape) - 1) / 2
    for side in (-9, 9):
        distance = np.linalg.norm((index - middle - [side, 0, 3]) * np.abs(np.diag(AFFINE)[:3]), axis=-1)
        data[(distance < 14) & (data > 0)] += 330
    scan = read_volume(save(data, tmp_path / "scan.nii"))

    class Uneven(Pointing):
        def reconstruct(self, images: np.ndarray) -> Reconstruction:
            found = super().reconstruct(images)
            left = np.arange(images.shape[2]) >= images.shape[2] / 2
            return replace(found, probability=found.probability * np.where(left, 0.3, 0.6).astype(np.float32))

    pointing = card(score="probability", healthy_levels=LEVELS | {"probability": 0.5})
    result = segment([scan], Uneven(), pointing, replace(OPTIONS, min_conspicuity=100.0))
    assert not result.mask.any()
    reasons = {one.side: one.reason for one in result.suspects}
    assert reasons == {"left": "below_threshold", "right": "inconspicuous"}


@pytest.mark.parametrize(("probability", "suspected"), [(0.3, True), (0.2, False)])
def test_a_probability_of_half_the_threshold_is_suspected(tmp_path, probability, suspected):
    class Faint(Pointing):
        def reconstruct(self, images: np.ndarray) -> Reconstruction:
            found = super().reconstruct(images)
            return replace(found, probability=found.probability * probability)

    scan = read_volume(save(make_brain(3)[0], tmp_path / "scan.nii"))
    pointing = card(score="probability", healthy_levels=LEVELS | {"probability": 0.5})
    result = segment([scan], Faint(), pointing, OPTIONS)
    assert not result.mask.any()
    assert bool(result.suspects) == suspected == bool(result.warnings)
    assert [one.reason for one in result.suspects] == ["below_threshold"] * suspected


def test_the_users_threshold_does_not_make_healthy_tissue_suspected(tmp_path):
    """With a threshold of 0 every probability exceeds half of it."""

    class Noisy(Pointing):
        def reconstruct(self, images: np.ndarray) -> Reconstruction:
            found = super().reconstruct(images)
            return replace(found, probability=np.maximum(found.probability, np.float32(0.05)))

    scan = read_volume(save(make_brain(3)[0], tmp_path / "scan.nii"))
    pointing = card(score="probability", healthy_levels=LEVELS | {"probability": 0.5})
    result = segment([scan], Noisy(), pointing, replace(OPTIONS, healthy_threshold=0.0))
    assert result.mask.any() and not result.suspects and result.warnings == []
