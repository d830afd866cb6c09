from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib import image

from brainseg_tf.brain.mask import Brain
from brainseg_tf.errors import InputError
from brainseg_tf.images.registration import head_centre, mean_distance
from brainseg_tf.images.volume import Volume, read_segmentation, read_volume
from brainseg_tf.options import PredictOptions
from brainseg_tf.prediction import comparison_figure
from brainseg_tf.prediction.comparison import Comparison, TimePoint, compare_time_points, lesion_row, time_point
from brainseg_tf.prediction.predictor import Predictor
from helpers import TWO_SESSIONS, TwoSessions
from synthetic_models import OPTIONS, Healthy, card

pytest.importorskip("SimpleITK")


def point(scan: Path, mask: Path) -> TimePoint:
    volume = read_volume(scan)
    return TimePoint(volume, read_segmentation(mask, volume), "given")


@pytest.fixture(scope="module")
def points(sessions: TwoSessions) -> tuple[TimePoint, TimePoint]:
    return point(sessions.before, sessions.before_mask), point(sessions.after, sessions.after_mask)


@pytest.fixture(scope="module")
def result(points) -> Comparison:
    return compare_time_points(*points, days=90)


def test_the_lesions_of_two_sessions(result, sessions):
    centre = head_centre(result.before.scan)
    assert mean_distance(result.alignment.matrix, sessions.matrix, centre) < 0.5
    assert result.correlation > 0.9
    assert {one.status: 1 for one in result.lesions} == {status: n for status, n in result.counts.items() if n}
    assert {one.status for one in result.lesions} == set(TWO_SESSIONS)
    for lesion in result.lesions:
        place, *radii = TWO_SESSIONS[lesion.status]
        volumes = [4 / 3 * np.pi * radius**3 / 1000 for radius in radii]
        # Voxels of 2.5 mm.
        assert [lesion.before_ml, lesion.after_ml] == pytest.approx(volumes, rel=0.1)
        assert lesion.centroid_mm == pytest.approx(place, abs=0.7)
    assert result.change_ml == pytest.approx(sum(one.change_ml for one in result.lesions))
    assert result.warnings == []


def test_the_place_of_the_lesions_is_that_in_the_brain_before(points):
    scan = points[0].scan
    brain = Brain(scan.data > 50, "given")
    before = time_point(scan, points[0].mask, None, lambda scan: brain)
    centre = nib.affines.apply_affine(scan.affine, np.argwhere(brain.mask)).mean(axis=0)
    assert before.place.middle_mm == pytest.approx(centre[0])
    found = {one.status: one for one in compare_time_points(before, points[1]).lesions}
    assert {status: one.side for status, one in found.items()} == {
        "grown": "left",
        "new": "left",
        "stable": "right",
        "gone": "right",
    }
    aligned = before.place.to_template is not None
    assert {one.region is not None for one in found.values()} == {aligned}


def test_the_warnings_about_the_brain_are_kept(points):
    text = "scan.nii: the brain seems to be back to front; the orientation in the header may be wrong"
    brain = Brain(points[0].scan.data > 50, "network", [text])
    assert time_point(points[0].scan, points[0].mask, None, lambda scan: brain).warnings == (text,)


def test_without_a_brain_the_lesions_have_no_place(points):
    def nothing(scan: Volume) -> Brain:
        raise InputError("scan.nii: no brain found in the scan")

    before = time_point(points[0].scan, points[0].mask, None, nothing)
    assert before.place is None
    assert before.warnings == ("scan.nii: no brain found in the scan; side and region of the lesions are not known",)
    row = lesion_row(1, compare_time_points(before, points[1]).lesions[0])
    assert (row["side"], row["region"]) == (None, None)


def test_the_volumes_do_not_depend_on_the_registration(result, points):
    for ml, one in zip((result.before.lesion_ml, result.after.lesion_ml), points, strict=True):
        assert ml == pytest.approx(one.mask.sum() * 2.5**3 / 1000)
    assert sum(one.after_ml for one in result.lesions) == pytest.approx(result.after.lesion_ml)


def test_the_change_map_is_on_the_grid_before(result):
    changes, scan = result.change_map, result.before.scan
    points_mm = nib.affines.apply_affine(scan.affine, np.stack(np.indices(changes.shape), axis=-1))
    # Well inside a lesion, and well outside all of them.
    for status, value in {"grown": 1, "stable": 1, "gone": 3, "new": 2}.items():
        place, *radii = TWO_SESSIONS[status]
        near = np.linalg.norm(points_mm - place, axis=-1) < (min(radii) or max(radii)) - 4
        assert near.sum() > 10 and (changes[near] == value).all(), status
    place, small, large = TWO_SESSIONS["grown"]
    distance = np.linalg.norm(points_mm - place, axis=-1)
    rim = (distance > small + 1.5) & (distance < large - 2)
    assert (changes[rim] == 2).mean() > 0.95
    far = np.ones(changes.shape, bool)
    for place, *radii in TWO_SESSIONS.values():
        far &= np.linalg.norm(points_mm - place, axis=-1) > max(radii) + 3
    assert not changes[far].any()
    assert result.registered.source is scan.source


def test_the_figure_shows_what_has_changed(result, tmp_path):
    comparison_figure.draw(result, tmp_path / "figure.png")
    pixels = image.imread(tmp_path / "figure.png")[..., :3]
    third = pixels.shape[1] // 3
    red = (pixels[..., 0] > 1.5 * pixels[..., 1]) & (pixels[..., 0] > 1.5 * pixels[..., 2]) & (pixels[..., 0] > 0.4)
    blue = (pixels[..., 2] > 1.3 * pixels[..., 1]) & (pixels[..., 2] > 1.3 * pixels[..., 0]) & (pixels[..., 2] > 0.4)
    green = (pixels[..., 1] > 1.3 * pixels[..., 0]) & (pixels[..., 1] > 1.3 * pixels[..., 2]) & (pixels[..., 1] > 0.4)
    yellow = (pixels[..., 0] > 1.5 * pixels[..., 2]) & (pixels[..., 1] > 1.3 * pixels[..., 2]) & (pixels[..., 0] > 0.4)
    change, outlines = (False, False, True), (True, True, False)
    for colour, shown in ((red, change), (blue, change), (yellow, change), (green, outlines)):
        # Without the legend, which is below.
        panels = [colour[: -pixels.shape[0] // 12, k * third : (k + 1) * third].sum() > 40 for k in range(3)]
        assert tuple(panels) == shown


@pytest.mark.slow
def test_warnings_about_what_is_doubtful(points):
    before, after = points
    single = np.zeros_like(before.mask)
    single[30, 30, 30:33] = True
    found = compare_time_points(before, replace(after, mask=single, source="predicted"), days=-4).warnings
    assert [text.split(": ", 1)[1] for text in found] == [
        f"its mask was predicted, that of {before.scan.path} was given; volumes can differ for this reason alone",
        "its mask has only 3 voxels; check it",
        f"is 4 days older than {before.scan.path}; check the order of the scans",
    ]
    # The same head without every second slice, and below only: another voxel size, and lesions outside the field.
    part = replace(
        after.scan, data=after.scan.data[:, :, ::2], affine=after.scan.affine @ np.diag([1, 1, 2, 1]), warnings=("odd",)
    )
    found = compare_time_points(before, replace(after, scan=part, mask=after.mask[:, :, ::2])).warnings
    assert (
        found[0] == "odd"
        and "other voxel sizes than" in found[1]
        and "(2.5 x 2.5 x 2.5 and 2.5 x 2.5 x 5 mm)" in found[1]
    )
    same = compare_time_points(before, replace(before, mask=np.zeros_like(before.mask)))
    assert [one.status for one in same.lesions] == ["gone"] * 3
    assert ["has the same values as" in text for text in same.warnings] == [True]
    assert same.alignment.movement_mm(head_centre(before.scan)) < 0.1


def test_lesions_outside_the_field_of_view_are_not_called_gone(points):
    before, after = points
    # Without the lower part of the head, in which "gone" and "new" are.
    posterior = int(before.scan.data.shape[1] * 0.68)
    part = replace(before.scan, data=before.scan.data[:, :posterior])
    found = compare_time_points(replace(before, scan=part, mask=before.mask[:, :posterior]), after)
    assert found.counts["not covered"] == 1 and found.counts["new"] == 0
    assert "1 lesion outside the field of view that it shares with" in found.warnings[-1]


def test_another_head_is_reported(points, monkeypatch):
    before, after = points
    random = np.random.default_rng(4)
    noise = random.normal(200, 60, after.scan.data.shape).astype(np.float32) * (after.scan.data > 50)
    other = replace(after, scan=replace(after.scan, data=noise))
    (warning,) = compare_time_points(before, other).warnings
    assert "check in the figure that both show the same head" in warning


def test_a_mask_is_predicted_as_by_predict(points):
    scan = points[0].scan
    predictor = Predictor(card(), Healthy, PredictOptions(OPTIONS))
    found = time_point(scan, None, predictor)
    expected, _ = predictor.segment([scan])
    assert found.source == "predicted" and found.mask.any()
    np.testing.assert_array_equal(found.mask, expected.mask)
    named = time_point(replace(scan, path=Path("x_T2w.nii.gz")), None, predictor)
    assert named.warnings[0].startswith("x_T2w.nii.gz: is t2 according to its name, but model perfect needs flair")
    with pytest.raises(InputError, match="model perfect: needs t2 too; run predict for each scan, and give the masks"):
        time_point(scan, None, Predictor(card(modalities=("flair", "t2")), Healthy, PredictOptions(OPTIONS)))
