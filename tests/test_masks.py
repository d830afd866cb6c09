import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainseg_tf.masks import (
    affine_of_box,
    bounding_box,
    centre,
    fill_holes,
    in_field_of_view,
    largest_component,
    some_voxels,
    within_box,
)

SHAPE = (11, 14, 9)


def blobs(seed: int, threshold: float) -> np.ndarray:
    """A mask of several components, some of them hollow, that can touch the edge of the array."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.0)
    return noise > threshold * noise.std()


@pytest.mark.parametrize("margin", [(0, 0, 0), (1, 3, 20)])
def test_the_box_contains_the_mask_and_its_margin(margin):
    mask = np.zeros(SHAPE, bool)
    mask[3, 5:8, 2] = mask[4, 6, 7] = True
    expected = [(3, 5), (5, 8), (2, 8)]
    ends = [
        (max(0, start - more), min(size, stop + more))
        for (start, stop), more, size in zip(expected, margin, SHAPE, strict=True)
    ]
    assert bounding_box(mask, margin) == tuple(slice(*one) for one in ends)


def test_an_empty_mask_has_an_empty_box():
    empty = np.zeros(SHAPE, bool)
    assert empty[bounding_box(empty, (2, 2, 2))].size == 0
    for function in (fill_holes, largest_component):
        result = function(empty)
        assert result.shape == SHAPE
        assert not result.any()
    assert not within_box(empty, lambda part: part | True).any()


def test_the_affine_of_a_box_is_that_of_nibabels_slicer():
    affine = np.random.default_rng(0).normal(size=(4, 4))
    affine[3] = 0, 0, 0, 1
    box = (slice(2, 9), slice(0, 4), slice(5, 6))
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
    np.testing.assert_allclose(affine_of_box(affine, box), image.slicer[box].affine)


def test_a_function_gets_the_part_in_the_box():
    mask = np.zeros(SHAPE, bool)
    mask[2, 3, 4] = mask[4, 3, 5] = True
    filled = within_box(mask, np.ones_like)
    assert filled.sum() == 3 * 1 * 2
    assert filled[2:5, 3, 4:6].all()


@pytest.mark.parametrize("threshold", [-1.0, -0.3, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_holes_are_those_of_scipy(seed, threshold):
    mask = blobs(seed, threshold)
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_a_cavity_is_filled_and_a_tunnel_is_not():
    mask = np.zeros(SHAPE, bool)
    mask[1:6, 1:6, 1:6] = True
    mask[3, 3, 3] = False
    assert fill_holes(mask)[3, 3, 3]
    mask[3, 3, 3:6] = False
    np.testing.assert_array_equal(fill_holes(mask), mask)


def test_the_largest_component_has_the_most_voxels():
    mask = np.zeros(SHAPE, bool)
    mask[1:3, 1:3, 1] = True
    mask[3, 3, 2] = True  # It touches the first only at a corner.
    mask[6:9, 6:9, 4] = True
    largest = largest_component(mask)
    assert largest.sum() == 9
    assert largest[6:9, 6:9, 4].all()
    np.testing.assert_array_equal(largest_component(largest), largest)


def test_voxels_are_spaced_evenly():
    mask = blobs(0, 0.5)
    every = np.argwhere(mask)
    np.testing.assert_array_equal(some_voxels(mask, 10**6), every)
    few = some_voxels(mask, 40)
    np.testing.assert_array_equal(few, every[:: len(every) // 40])
    assert 40 <= len(few) < 60


def test_the_centre_is_the_mean_index():
    mask = blobs(1, 0.5)
    np.testing.assert_array_equal(centre(mask), ndimage.center_of_mass(mask))


def test_the_field_of_view_ends_at_the_edges_of_the_outermost_voxels():
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [20, -30, 40], degrees=True).as_matrix() * [0.7, 1.3, 2.0]
    matrix[:3, 3] = 3, -2, 1
    shape, scan = (9, 11, 7), (6, 8, 5)
    index = nib.affines.apply_affine(matrix, np.stack(np.indices(shape), axis=-1))
    expected = np.all((index >= -0.5) & (index <= np.array(scan) - 0.5), axis=-1)
    assert 20 < expected.sum() < expected.size - 20
    np.testing.assert_array_equal(in_field_of_view(matrix, scan, shape), expected)
    assert in_field_of_view(np.eye(4), shape, shape).all()
