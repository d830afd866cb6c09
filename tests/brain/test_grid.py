import numpy as np
import pytest
from scipy import ndimage

from brainseg_tf.brain.grid import HeadGrid, block_means, from_head_grid, normalise, to_head_grid
from brainseg_tf.options import HeadGridOptions


def ball(shape, spacing, radius_mm):
    centre = (np.array(shape) - 1) / 2
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum(((axis - c) * step) ** 2 for axis, c, step in zip(axes, centre, spacing, strict=True)) < radius_mm**2


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (1.0, 1.0, 5.0), (0.72, 0.72, 3.0), (0.8, 6.0, 0.8), (2, 2, 2)])
def test_a_ball_keeps_its_place_and_size_there_and_back(spacing):
    shape = tuple(round(130 / step) + odd for step, odd in zip(spacing, (0, 1, 3), strict=True))
    scan = 100.0 * ball(shape, spacing, 50.0)
    grid = to_head_grid(scan, np.diag([*spacing, 1]), HeadGridOptions())
    # The grid covers the field of view with voxels of nearly 2 mm.
    np.testing.assert_allclose(grid.step * spacing, 2.0, rtol=0.02)
    np.testing.assert_allclose(grid.step * grid.data.shape, shape)
    again = from_head_grid(grid.data, grid, shape) > 0.5
    wrong = np.count_nonzero(again != (scan > 0)) / np.count_nonzero(scan)
    assert wrong < 0.05
    # Neither larger nor smaller on average, nor moved.
    assert np.count_nonzero(again) / np.count_nonzero(scan) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(np.argwhere(again).mean(axis=0), np.argwhere(scan).mean(axis=0), atol=0.1)


def test_positions_on_the_grid_become_positions_in_the_scan():
    start, step, shape = np.array([0.5, 1.0, -0.3]), np.array([2.0, 3.0, 0.4]), (9, 8, 12)
    for axis in range(3):
        grid = HeadGrid(np.zeros(shape, np.float32), start, step)
        position = start[axis] + step[axis] * np.arange(shape[axis])
        values = np.broadcast_to(position.reshape([-1 if k == axis else 1 for k in range(3)]), shape)
        back = from_head_grid(values, grid, (16, 20, 4))
        index = np.indices(back.shape)[axis]
        inside = (index >= position[0]) & (index <= position[-1])
        np.testing.assert_allclose(back[inside], index[inside], atol=1e-4)


@pytest.mark.parametrize("where", [np.s_[2:5, 3:4, 5:9], np.s_[:3, 6:, :4], np.s_[:, :2, 9:], np.s_[:0]])
def test_values_are_interpolated_where_they_are_not_zero(where):
    grid = HeadGrid(np.zeros((9, 8, 12), np.float32), np.array([0.4, 1.0, -0.3]), np.array([2.0, 3.0, 0.4]))
    values = np.zeros(grid.data.shape, np.float32)
    values[where] = 1 + np.random.default_rng(0).random(values[where].shape)
    shape = (18, 25, 6)
    index = [(np.arange(n) - start) / step for n, start, step in zip(shape, grid.start, grid.step, strict=True)]
    expected = ndimage.map_coordinates(values, np.meshgrid(*index, indexing="ij"), order=1, mode="nearest")
    found = from_head_grid(values, grid, shape)
    assert found.any() == values.any()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_large_field_gets_larger_voxels():
    grid = to_head_grid(np.ones((64, 64, 88), np.float32), np.diag([4.0, 4.0, 5.0, 1.0]), HeadGridOptions(most=64))
    assert grid.data.shape == (64, 64, 64)
    assert grid.step[2] == pytest.approx(88 / 64)


def test_intensities_go_from_air_to_bright_tissue():
    random = np.random.default_rng(0)
    scan = np.zeros((30, 31, 32), np.float32)
    scan[5:25, 5:25, 5:25] = random.uniform(200, 1000, (20, 20, 20))
    scan[10, 10, 10] = 1e6  # One voxel of an artefact does not make the rest dark.
    scaled = normalise(scan - 50)
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert (scaled[scan == 0] == 0).all()
    assert np.median(scaled[scan > 950]) > 0.9
    np.testing.assert_array_equal(normalise(np.full((4, 4, 4), 7.0)), 0)


def test_the_background_of_a_z_score_becomes_dark():
    random = np.random.default_rng(0)
    brain = np.zeros((30, 31, 32), bool)
    brain[5:25, 6:26, 4:28] = True
    plain = np.where(brain, random.uniform(200, 1000, brain.shape), 0).astype(np.float32)
    scores = np.where(brain, (plain - plain[brain].mean()) / plain[brain].std(), 0).astype(np.float32)
    one, other = (to_head_grid(data, np.diag([2.0, 2.0, 2.0, 1.0]), HeadGridOptions()).data for data in (plain, scores))
    assert (other[~brain] == 0).all() and np.median(other[brain]) > 0.3
    # Air is darker than tissue in the plain scan, so the scales differ, but not the order.
    assert np.corrcoef(one[brain], other[brain])[0, 1] > 0.99


def test_means_of_blocks():
    data = np.arange(5 * 4 * 3, dtype=float).reshape(5, 4, 3)
    means = block_means(data, np.array([2, 1, 3]))
    assert means.shape == (3, 4, 1)
    assert means[1, 2, 0] == pytest.approx(data[2:4, 2, :].mean())
    # The last layer is repeated.
    assert means[2, 0, 0] == pytest.approx(data[4, 0].mean())
