"""The Gaussian mixture with neighbourhood weights (section 5.3, step 3)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

Spread = Literal["tied", "free"]

# The start is fitted to at most this many voxels; more change the third digit of the means.
_SAMPLE = 50_000
# Posteriors below this neither matter nor may take the whole neighbourhood's prior to zero.
_TINY = 1e-6


@dataclass(frozen=True)
class MixtureOptions:
    """How the score is divided into components.

    Attributes:
        neighbourhood: edge of the cube of voxels whose mean posterior is a voxel's mixing weight; 1 gives an ordinary
            mixture with one weight per component for the whole volume.
        iterations: at most this many; fewer once no mean moves by more than ``tolerance``.
        tolerance: in units of the score.
        spread: ``tied`` gives all components one standard deviation, ``free`` each its own. A free component can grow
            so wide that it takes the outliers on both sides of the others.
        lesion: the component that is the lesion: the ``brightest`` or, after the paper, the ``smallest``.
    """

    neighbourhood: int = 3
    iterations: int = 20
    tolerance: float = 1e-3
    spread: Spread = "tied"
    lesion: Literal["brightest", "smallest"] = "brightest"


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture, components by rising mean.

    Attributes:
        means, stddevs, weights: (K,), in units of the score; weights are shares of the voxels.
        posterior: (K, N, H, W) float32, 0 outside the voxels it was fitted to.
        lesion: index of the lesion's component.
    """

    means: np.ndarray
    stddevs: np.ndarray
    weights: np.ndarray
    posterior: np.ndarray
    lesion: int

    @property
    def separation(self) -> float:
        """Distance from the lesion's mean to the nearest other one, in (pooled) standard deviations."""
        others = np.delete(self.means, self.lesion)
        return float(np.abs(others - self.means[self.lesion]).min() / np.sqrt(self.weights @ self.stddevs**2))


def fit_mixture(score: np.ndarray, where: np.ndarray, components: int, options: MixtureOptions) -> Mixture:
    """Fits a mixture of ``components`` to ``score`` (N, H, W) in ``where`` (N, H, W) bool by expectation maximisation.

    A voxel's mixing weight for component k is the mean of component k's posterior over the voxel's neighbours inside
    ``where``. So EM alternates posterior, neighbourhood mean, parameters. It starts from an ordinary mixture.
    """
    box = ndimage.find_objects(where.astype(np.uint8))[0]
    inside, values = where[box], score[box].astype(np.float32)
    means, stddevs, weights = _start(values[inside], components, options.spread)
    prior = np.broadcast_to(weights[:, None, None, None].astype(np.float32), (components, *values.shape))
    posterior = _posterior(values, inside, means, stddevs, prior)
    neighbours = _mean(inside.astype(np.float32), options.neighbourhood)
    for _ in range(options.iterations):
        before = means
        if options.neighbourhood > 1:
            prior = np.stack([_mean(one, options.neighbourhood) for one in posterior]) / np.maximum(neighbours, _TINY)
        else:
            shares = posterior.sum(axis=(1, 2, 3)) / inside.sum()
            prior = np.broadcast_to(shares[:, None, None, None], posterior.shape)
        posterior = _posterior(values, inside, means, stddevs, prior)
        means, stddevs = _moments(values, posterior, options.spread)
        if np.abs(means - before).max() < options.tolerance:
            break
    order = np.argsort(means)
    means, stddevs, posterior = means[order], stddevs[order], posterior[order]
    weights = posterior.sum(axis=(1, 2, 3), dtype=np.float64) / inside.sum()
    whole = np.zeros((components, *score.shape), np.float32)
    whole[(slice(None), *box)] = posterior
    lesion = int(np.argmin(weights)) if options.lesion == "smallest" else components - 1
    return Mixture(means, stddevs, weights, whole, lesion)


def _start(values: np.ndarray, components: int, spread: Spread) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, standard deviations and weights of an ordinary mixture, fitted to a part of the voxels."""
    from sklearn.mixture import GaussianMixture

    sample = values[:: max(1, values.size // _SAMPLE)].astype(np.float64)[:, None]
    distinct = np.unique(sample)
    if distinct.size < components:
        # Nothing to fit: a network that is sure of every voxel gives the same number everywhere.
        return np.resize(distinct, components), np.full(components, np.sqrt(_TINY)), np.full(components, 1 / components)
    mixture = GaussianMixture(
        components,
        covariance_type="tied" if spread == "tied" else "spherical",
        reg_covar=_TINY,
        max_iter=200,
        random_state=0,
    ).fit(sample)
    stddevs = np.broadcast_to(np.sqrt(np.ravel(mixture.covariances_)), components)
    return mixture.means_[:, 0], stddevs, mixture.weights_


def _posterior(
    values: np.ndarray, inside: np.ndarray, means: np.ndarray, stddevs: np.ndarray, prior: np.ndarray
) -> np.ndarray:
    """Posterior of each component at each voxel, (K, N, H, W); 0 outside."""
    logs = np.stack(
        [
            -0.5 * ((values - np.float32(mean)) / np.float32(stddev)) ** 2 - np.float32(np.log(stddev))
            for mean, stddev in zip(means, stddevs, strict=True)
        ]
    )
    weighted = np.exp(logs - logs.max(axis=0)) * np.maximum(prior, _TINY)
    weighted /= weighted.sum(axis=0)
    return weighted * inside


def _moments(values: np.ndarray, posterior: np.ndarray, spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations, (K,), of the values weighted by the posteriors."""
    totals = np.maximum(posterior.sum(axis=(1, 2, 3), dtype=np.float64), _TINY)
    means = np.array([np.vdot(one, values) for one in posterior], np.float64) / totals
    squares = values**2
    variances = np.array([np.vdot(one, squares) for one in posterior], np.float64) / totals - means**2
    if spread == "tied":
        variances = np.full_like(variances, np.average(variances, weights=totals))
    return means, np.sqrt(np.maximum(variances, _TINY))


def _mean(values: np.ndarray, edge: int) -> np.ndarray:
    return ndimage.uniform_filter(values, edge, mode="constant")
