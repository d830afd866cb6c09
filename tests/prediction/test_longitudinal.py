"""Matching of lesions; the expected volumes and statuses are counted by hand."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from brainseg_tf.options import CompareOptions
from brainseg_tf.postprocessing.lesions import Place
from brainseg_tf.prediction.longitudinal import LesionChange, _status, change_map, match_lesions

# Left-handed, oblique, 2 x 3 x 4 mm; a voxel has 0.024 ml.
ONE = np.diag([-2.0, 3, 4, 1])
ONE[:3, :3] = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix() @ ONE[:3, :3]
ONE[:3, 3] = 40, -20, 7
SHAPE = (21, 17, 13)
UNMOVED = np.eye(4)
# Every change counts.
SHARP = CompareOptions(tolerance_mm=0.0, min_growth=10.0, min_shrinkage=10.0, min_change_ml=0.0)


def boxes(*corners: tuple[int, int, int, int], shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Cubes (x, y, z of the first voxel, edge)."""
    mask = np.zeros(shape, bool)
    for x, y, z, edge in corners:
        mask[x : x + edge, y : y + edge, z : z + edge] = True
    return mask


def matched(before: np.ndarray, after: np.ndarray, options: CompareOptions = SHARP) -> list[LesionChange]:
    return match_lesions(before, ONE, after, ONE, UNMOVED, options)


def test_the_status_and_the_volumes_of_each_lesion():
    before = boxes((1, 1, 1, 3), (8, 2, 2, 2), (15, 10, 6, 3))
    after = boxes((1, 1, 1, 4), (8, 2, 2, 2), (2, 11, 8, 2))
    after[15, 10, 6:9] = True
    grown, shrunk, *rest = matched(before, after)
    assert (grown.status, shrunk.status) == ("grown", "shrunk")
    assert grown.before_ml == pytest.approx(27 * 0.024) and grown.after_ml == pytest.approx(64 * 0.024)
    assert grown.change_ml == pytest.approx(37 * 0.024) and grown.change_percent == pytest.approx(100 * 37 / 27)
    assert shrunk.change_percent == pytest.approx(-100 * 24 / 27)
    assert sorted(one.status for one in rest) == ["new", "stable"]
    (new,) = (one for one in rest if one.status == "new")
    assert (new.before_ml, new.change_percent, new.before_components, new.after_components) == (0, None, 0, 1)
    assert new.centroid_mm == pytest.approx(nib.affines.apply_affine(ONE, [2.5, 11.5, 8.5]), abs=0.01)
    # Of both, the centroid before.
    assert grown.centroid_mm == pytest.approx(nib.affines.apply_affine(ONE, [2, 2, 2]), abs=0.01)
    (gone,) = matched(before & boxes((8, 2, 2, 2)), boxes())
    assert (gone.status, gone.after_ml, gone.change_percent) == ("gone", 0, -100)


def test_the_side_and_the_region_are_those_in_the_scan_before():
    """The scan before is MNI space, 100 mm further to the right; the scan after lies half a metre away from it."""
    scan, shift, moved = np.diag([2.0, 2, 2, 1]), np.eye(4), np.eye(4)
    scan[:3, 3] = 0, -100, -60
    shift[0, 3], moved[0, 3] = -100, 500
    # Around (-40, 40, 30) and (24, -96, 10) mm of MNI space.
    before, after = (boxes((x - 1, y - 1, z - 1, 3), shape=(90, 90, 60)) for x, y, z in ((30, 70, 45), (62, 2, 35)))
    place = Place(scan, 0.0, shift)
    found = match_lesions(before, scan, after, moved @ scan, moved, SHARP, place)
    assert {one.status: (one.side, one.region) for one in found} == {
        "gone": ("left", "frontal"),
        "new": ("right", "occipital"),
    }
    # Without an alignment, the side is that relative to the middle of the brain.
    place = place._replace(middle_mm=60.0, to_template=None)
    found = match_lesions(before, scan, after, moved @ scan, moved, SHARP, place)
    assert {one.status: (one.side, one.region) for one in found} == {"gone": ("midline", None), "new": ("right", None)}
    assert {(one.side, one.region) for one in matched(boxes((3, 3, 3, 2)), boxes())} == {(None, None)}


@pytest.mark.parametrize("empty", [True, False])
def test_empty_masks_have_no_lesions(empty):
    assert match_lesions(boxes(), ONE, boxes(), ONE, UNMOVED) == []
    mask = boxes((3, 3, 3, 2), (10, 10, 3, 2))
    found = matched(boxes(), mask) if empty else matched(mask, boxes())
    assert [one.status for one in found] == [("new" if empty else "gone")] * 2


def test_merged_and_split_lesions_are_one_lesion_each():
    two, one = boxes((2, 2, 2, 3), (7, 2, 2, 3)), boxes((2, 2, 2, 8))
    (merged,) = matched(two, one)
    assert (merged.before_components, merged.after_components, merged.note) == (2, 1, "merged")
    assert merged.before_ml == pytest.approx(54 * 0.024)
    (split,) = matched(one, two)
    assert (split.before_components, split.after_components, split.note) == (1, 2, "split")
    # Two components that overlap the same one before belong together, and so do all that overlap these.
    chain = matched(boxes((1, 1, 1, 3), (7, 1, 1, 3)), boxes((3, 1, 1, 2), (5, 1, 1, 3), (9, 1, 1, 4)))
    assert [(found.before_components, found.after_components) for found in chain] == [(2, 2)]
    assert chain[0].note == ""
    assert matched(two, boxes((2, 2, 2, 3)))[1].note == ""


def test_components_near_each_other_are_matched_within_the_tolerance():
    # Along the first axis, voxels are 2 mm apart: between the nearest ones there are 3 steps, 6 mm.
    before, after = boxes((2, 5, 5, 2)), boxes((6, 5, 5, 2))
    assert sorted(one.status for one in matched(before, after)) == ["gone", "new"]
    assert len(matched(before, after, replace(SHARP, tolerance_mm=5.99))) == 2
    (same,) = matched(before, after, replace(SHARP, tolerance_mm=6.01))
    assert same.status == "stable"
    # A lesion that overlaps another does not take in its neighbours, however near they are.
    both = matched(
        boxes((2, 5, 5, 2), (6, 5, 5, 2)), boxes((2, 5, 5, 2), (6, 5, 5, 2)), replace(SHARP, tolerance_mm=50.0)
    )
    assert [one.status for one in both] == ["stable"] * 2
    # Of several, the nearest is taken.
    far = matched(before, boxes((6, 5, 5, 2), (13, 5, 5, 2)), replace(SHARP, tolerance_mm=7.0))
    assert sorted((one.before_components, one.after_components, one.status) for one in far) == [
        (0, 1, "new"),
        (1, 1, "stable"),
    ]


@pytest.mark.parametrize(
    ("edge", "options", "status"),
    [
        # 64 voxels become 80: 25 %, 0.384 ml.
        (80, CompareOptions(min_growth=25, min_change_ml=0.38), "grown"),
        (80, CompareOptions(min_growth=25.1, min_change_ml=0.0), "stable"),
        (80, CompareOptions(min_growth=0, min_change_ml=0.385), "stable"),
        (48, CompareOptions(min_shrinkage=25, min_change_ml=0.38), "shrunk"),
        (48, CompareOptions(min_shrinkage=25.1, min_change_ml=0.0), "stable"),
        (48, CompareOptions(min_shrinkage=0, min_change_ml=0.385), "stable"),
        (64, CompareOptions(min_growth=0, min_shrinkage=0, min_change_ml=0), "stable"),
    ],
)
def test_the_limits(edge, options, status):
    after = np.zeros(SHAPE, bool)
    after[2:6, 2:6, 2 : 2 + edge // 16] = True
    (found,) = matched(boxes((2, 2, 2, 4)), after, options)
    assert found.after_ml == pytest.approx(edge * 0.024)
    assert found.status == status


def test_a_change_that_is_just_at_the_limit_counts():
    """From 1 to 1.4 ml are 39.99999999999999 % in floating point."""
    limits = CompareOptions(min_growth=40, min_shrinkage=40, min_change_ml=0.4)
    assert _status(1.0, 1.4, 1.0, limits) == "grown"
    assert _status(1.0, 0.6, 1.0, limits) == "shrunk"
    assert _status(1.0, 1.399, 1.0, limits) == "stable"


def test_a_lesion_outside_the_other_field_of_view_is_not_gone():
    before = boxes((1, 4, 4, 2), (14, 4, 4, 3))
    # The scan after ends at the 15th voxel.
    after = boxes((1, 4, 4, 2), shape=(15, *SHAPE[1:]))
    assert [one.status for one in matched(before, after)] == ["not covered", "stable"]
    assert [one.status for one in matched(after, before)] == ["not covered", "stable"]
    # At the 17th, all of it is inside.
    assert [one.status for one in matched(before, boxes((1, 4, 4, 2), shape=(17, *SHAPE[1:])))] == ["gone", "stable"]


def test_a_lesion_that_the_field_of_view_cuts_has_not_shrunk():
    before = boxes((2, 2, 2, 10))
    whole, cut = matched(before, before), matched(before, before[:6])
    assert [one.status for one in whole] == ["stable"]
    assert [one.status for one in cut] == ["not covered"]
    assert cut[0].after_ml < 0.6 * cut[0].before_ml
    assert (cut[0].change_ml, cut[0].change_percent) == (None, None)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 2, 6), (1, 1, 6)])
@pytest.mark.parametrize("cut_before", [True, False])
def test_whether_a_lesion_is_cut_does_not_depend_on_the_voxel_size(size, cut_before):
    """A ball with a radius of 10 mm, of which one scan shows half; in the whole one the voxels have another size."""

    def ball(voxel: tuple[int, int, int], height: int) -> tuple[np.ndarray, np.ndarray]:
        grid = np.diag([*voxel, 1.0])
        shape = tuple(extent // step for extent, step in zip((60, 60, height), voxel, strict=True))
        points = nib.affines.apply_affine(grid, np.stack(np.indices(shape), axis=-1))
        return np.linalg.norm(points - [30, 30, 50], axis=-1) < 10, grid

    half, whole = ball((1, 1, 1), 50), ball(size, 100)
    first, second = (half, whole) if cut_before else (whole, half)
    (found,) = match_lesions(*first, *second, UNMOVED)
    assert found.status == "not covered"


def test_a_lesion_that_is_cut_is_not_called_stable():
    """It has doubled, but the scan after shows only half of it, which has the volume of before."""
    before, after = boxes((2, 2, 2, 8)), boxes((2, 2, 2, 8))
    after[2:, 2:12, 2:12] = True
    (found,) = matched(before, after[:7])
    assert abs(found.after_ml - found.before_ml) < 0.1 * found.before_ml
    assert found.status == "not covered"


def test_a_new_component_beside_an_old_one_is_new():
    before, after = boxes((2, 2, 2, 4)), boxes((2, 2, 2, 4), (7, 2, 2, 4))
    near = CompareOptions(tolerance_mm=50.0)
    assert sorted(one.status for one in matched(before, after, near)) == ["new", "stable"]
    assert sorted(one.status for one in matched(after, before, near)) == ["gone", "stable"]


def test_masks_on_different_grids_are_matched_by_position():
    """Balls on two grids that have nothing in common but the movement; the volume of a ball is known."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [-40, 15, 70], degrees=True).as_matrix()
    matrix[:3, 3] = 500, -300, 40
    coarse = np.array([[0, 0, 5.0, -60], [1.5, 0, 0, -50], [0, -1.5, 0, 55], [0, 0, 0, 1]])
    second = matrix @ np.array([[2.0, 0, 0, -55], [0, 2, 0, -50], [0, 0, 2, -55], [0, 0, 0, 1]])
    grids = (coarse, (70, 75, 25)), (second, (56, 56, 56))
    balls = {"grown": ((-20, 10, 5), 9, 13), "stable": ((20, -15, 0), 11, 11), "gone": ((20, 20, 0), 8, 0)}
    masks = []
    for number, (affine, shape) in enumerate(grids):
        points = nib.affines.apply_affine(affine, np.stack(np.indices(shape), axis=-1))
        mask = np.zeros(shape, bool)
        for centre, *radii in balls.values():
            place = nib.affines.apply_affine(matrix, centre) if number else np.array(centre)
            mask |= np.linalg.norm(points - place, axis=-1) < radii[number]
        masks.append(mask)
    found = {one.status: one for one in match_lesions(masks[0], coarse, masks[1], second, matrix)}
    assert set(found) == set(balls)
    for status, (centre, *radii) in balls.items():
        expected = [4 / 3 * np.pi * radius**3 / 1000 for radius in radii]
        assert [found[status].before_ml, found[status].after_ml] == pytest.approx(expected, rel=0.06)
        assert found[status].centroid_mm == pytest.approx(centre, abs=0.5)


def test_a_lesion_between_the_voxels_of_a_coarse_grid_is_matched():
    fine, thick = np.diag([1.0, 1, 1, 1]), np.diag([1.0, 1, 6, 1])
    small = np.zeros((12, 12, 30), bool)
    small[4:6, 4:6, 8:10] = True  # No slice of the other scan has its centre there; they are at 6 and 12 mm.
    slices = np.zeros((12, 12, 5), bool)
    slices[4:6, 4:6, 1] = True
    for options in (SHARP, CompareOptions()):
        assert len(match_lesions(small, fine, slices, thick, UNMOVED, options)) == 1
        assert len(match_lesions(slices, thick, small, fine, UNMOVED, options)) == 1


def test_the_change_map():
    before, after = boxes((2, 2, 2, 3)), boxes((3, 2, 2, 3))
    covered = np.ones(SHAPE, bool)
    covered[:, 4:] = False
    changes = change_map(before, after, covered)
    assert changes.dtype == np.uint8
    assert {value: int((changes == value).sum()) for value in range(5)} == {
        0: before.size - 36,
        1: 18,
        2: 9,
        3: 6,
        4: 3,
    }
    assert (changes[2, 2:4, 2:5] == 3).all() and (changes[2, 4, 2:5] == 4).all() and (changes[5, 2:5, 2:5] == 2).all()
