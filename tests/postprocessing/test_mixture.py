from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.mixture import GaussianMixture

from brainseg_tf.options import MixtureOptions
from brainseg_tf.postprocessing.mixture import Mixture, _box_sums, _start, fit_mixture

MEANS, STDDEV = (0.1, 0.25, 0.6), 0.05


def phantom(
    noise: float = STDDEV, shape: tuple[int, int, int] = (13, 40, 37)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, where it counts, and labels of three tissues in coherent regions."""
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.normal(size=shape), 3)
    labels = np.digitize(smooth, np.quantile(smooth, [0.6, 0.9]))
    where = np.zeros(shape, bool)
    where[1:-1, 3:-4, 2:-3] = True
    score = np.array(MEANS)[labels] + random.normal(0, noise, shape)
    return score.astype(np.float32), where, labels


@pytest.mark.parametrize(("spread", "kind"), [("tied", "tied"), ("free", "spherical")])
def test_without_neighbours_it_is_an_ordinary_mixture(spread, kind):
    score, where, _ = phantom()
    ours = fit_mixture(score, where, 3, MixtureOptions(neighbourhood=1, iterations=300, tolerance=1e-7, spread=spread))
    oracle = GaussianMixture(3, covariance_type=kind, means_init=np.array(MEANS)[:, None], tol=1e-9, max_iter=1000)
    oracle.fit(score[where][:, None].astype(float))
    np.testing.assert_allclose(ours.means, oracle.means_[:, 0], atol=2e-3)
    np.testing.assert_allclose(ours.stddevs, np.broadcast_to(oracle.covariances_.ravel() ** 0.5, 3), atol=2e-3)
    np.testing.assert_allclose(ours.weights, oracle.weights_, atol=2e-3)
    posterior = oracle.predict_proba(score[where][:, None].astype(float)).T
    np.testing.assert_allclose(ours.posterior[:, where], posterior, atol=0.03)


def test_one_step_is_the_equation():
    """Posterior times neighbourhood mean, written out voxel by voxel."""
    score, where, _ = phantom(shape=(5, 9, 11))
    before, after = (
        fit_mixture(score, where, 3, MixtureOptions(neighbourhood=3, iterations=n, tolerance=0)) for n in (4, 5)
    )
    for z, y, x in np.argwhere(where)[::7]:
        box = tuple(slice(max(0, c - 1), c + 2) for c in (z, y, x))
        prior = before.posterior[(slice(None), *box)][:, where[box]].mean(axis=1)
        density = np.exp(-0.5 * ((score[z, y, x] - before.means) / before.stddevs) ** 2) / before.stddevs
        expected = prior * density / (prior * density).sum()
        np.testing.assert_allclose(after.posterior[:, z, y, x], expected, atol=2e-3)


@pytest.mark.parametrize("edge", [3, 5, 9])
def test_the_neighbourhood_is_a_box_of_any_odd_edge_across_slabs(edge):
    random = np.random.default_rng(0)
    values = random.random((2, 11, 8, 7)).astype(np.float32)
    expected = [ndimage.uniform_filter(one, edge, mode="constant") * edge**3 for one in values.astype(float)]
    found = [_box_sums(values, slice(start, start + 4), edge) for start in (0, 4, 8)]
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-5)


def test_neighbours_help_against_noise():
    score, where, labels = phantom(noise=0.08)
    errors = {}
    for edge in (1, 3):
        fitted = fit_mixture(score, where, 3, MixtureOptions(neighbourhood=edge))
        errors[edge] = np.mean(fitted.posterior.argmax(axis=0)[where] != labels[where])
    assert errors[3] < 0.5 * errors[1]


def test_posteriors_are_shares_inside_and_nothing_outside():
    score, where, _ = phantom()
    fitted = fit_mixture(score, where, 4, MixtureOptions())
    assert fitted.posterior.shape == (4, *score.shape)
    np.testing.assert_allclose(fitted.posterior.sum(axis=0), where, atol=1e-5)
    assert np.all(np.diff(fitted.means) > 0)
    assert fitted.weights.sum() == pytest.approx(1, abs=1e-5)


def test_separation_is_in_standard_deviations():
    mixture = Mixture(np.array([0.1, 0.2, 0.6]), np.full(3, 0.05), np.array([0.5, 0.3, 0.2]), np.zeros((3, 1, 1, 1)), 2)
    assert mixture.separation == pytest.approx(8)
    assert replace(mixture, lesion=0).separation == pytest.approx(2)


def test_which_component_is_the_lesion():
    score, where, _ = phantom()
    flipped = 0.7 - score
    assert fit_mixture(score, where, 3, MixtureOptions()).lesion == 2
    assert fit_mixture(score, where, 3, MixtureOptions(lesion="smallest")).lesion == 2
    assert fit_mixture(flipped, where, 3, MixtureOptions(lesion="brightest")).lesion == 2
    assert fit_mixture(flipped, where, 3, MixtureOptions(lesion="smallest")).lesion == 0


def test_the_background_is_not_the_lesion():
    """Shares 0.1, 0.3 and 0.6 by rising mean: the smallest is the background, so the next one is the lesion."""
    score, where, _ = phantom()
    flipped, options = 0.7 - score, MixtureOptions(lesion="smallest")
    assert fit_mixture(flipped, where, 3, options).lesion == 0
    assert fit_mixture(flipped, where, 3, options, with_background=True).lesion == 1
    # Where the smallest has the highest mean, nothing changes.
    assert fit_mixture(score, where, 3, options, with_background=True).lesion == 2


@pytest.mark.parametrize(("spread", "kind"), [("tied", "tied"), ("free", "spherical")])
def test_it_starts_from_an_ordinary_mixture_not_from_clusters(spread, kind):
    random = np.random.default_rng(0)
    # The components overlap, and the larger one has most of what is between the means.
    values = np.concatenate([random.normal(0.3, 0.1, 40_000), random.normal(0.6, 0.1, 8_000)]).astype(np.float32)
    oracle = GaussianMixture(2, covariance_type=kind, means_init=[[0.3], [0.6]], tol=1e-9, max_iter=2000)
    oracle.fit(values[:, None].astype(float))
    means, stddevs, weights = _start(values, 2, MixtureOptions(spread=spread, tolerance=1e-5))
    order = np.argsort(means)
    np.testing.assert_allclose(means[order], oracle.means_[:, 0], atol=0.01)
    np.testing.assert_allclose(stddevs[order], np.broadcast_to(oracle.covariances_.ravel() ** 0.5, 2), atol=0.01)
    np.testing.assert_allclose(weights[order], oracle.weights_, atol=0.03)


def test_no_component_starts_empty():
    """The clusters of these values have an empty one after some iterations."""
    random = np.random.default_rng(10330)
    random.choice([3, 4, 5, 6, 8, 10, 20, 50, 300])
    values = (10 ** random.uniform(-6, 0, 20)).astype(np.float32)
    _, _, weights = _start(values, 3, MixtureOptions())
    assert weights.min() >= 0.99 / len(values)


@pytest.mark.parametrize("slices", [96, 98, 99, 101])
def test_the_start_sees_all_columns_of_whole_slices(slices):
    """Every 32nd voxel of slices with 128 columns would be in four columns."""
    score = np.random.default_rng(0).normal(0, 0.01, (slices, 128, 128)).astype(np.float32)
    score[40:60, 50:80, 40:60] += 0.5
    means, _, weights = _start(score.ravel(), 3, MixtureOptions())
    assert means.max() == pytest.approx(0.5, abs=0.02)
    assert weights[means.argmax()] == pytest.approx(20 * 30 * 20 / score.size, rel=0.2)


def test_the_same_score_gives_the_same_mixture():
    score, where, _ = phantom()
    first, second = (fit_mixture(score, where, 3, MixtureOptions()) for _ in range(2))
    np.testing.assert_array_equal(first.posterior, second.posterior)


def test_a_score_without_variety_does_not_fail():
    where = np.ones((4, 5, 6), bool)
    fitted = fit_mixture(np.zeros((4, 5, 6), np.float32), where, 3, MixtureOptions())
    assert np.isfinite(fitted.posterior).all()
    np.testing.assert_allclose(fitted.means, 0)


def test_a_score_of_one_or_two_values_needs_no_fit():
    where = np.ones((4, 5, 6), bool)
    flat = fit_mixture(np.zeros(where.shape, np.float32), where, 2, MixtureOptions())
    np.testing.assert_array_equal(flat.means, [0, 0])
    two = np.zeros(where.shape, np.float32)
    two[:2] = 1
    mixture = fit_mixture(two, where, 3, MixtureOptions(neighbourhood=1))
    np.testing.assert_allclose(mixture.means, [0, 0, 1], atol=1e-3)
    np.testing.assert_array_equal(mixture.posterior[2] > 0.5, two > 0)
