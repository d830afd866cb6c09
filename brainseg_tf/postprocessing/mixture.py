"""The Gaussian mixture with neighbourhood weights (section 5.3, step 3)."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from brainseg_tf.masks import bounding_box
from brainseg_tf.options import MixtureOptions, Spread

# Means, standard deviations and weights, each (K,).
Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]

# The initial mixture is fitted to at most this many voxels; more of them change the third digit of the means.
_SAMPLE = 50_000
# Most iterations of its fit.
_START_ITERATIONS = 200
# Smallest posterior: it keeps the mixing weights of a neighbourhood above zero.
_TINY = 1e-6
# Slices that are processed together.
_SLAB = 4


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture, components by rising mean.

    Attributes:
        means, stddevs, weights: (K,), in units of the score; weights are shares of the voxels.
        posterior: (K, N, H, W) float32, 0 outside the voxels that were fitted.
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


def fit_mixture(
    score: np.ndarray, where: np.ndarray, components: int, options: MixtureOptions, *, with_background: bool = False
) -> Mixture:
    """Fits a mixture of ``components`` to ``score`` (N, H, W) in ``where`` (N, H, W) bool by expectation maximisation.

    A voxel's mixing weight for component k is the mean of component k's posterior over the voxel's neighbours inside
    ``where``. EM alternates between posterior, neighbourhood mean and parameters. It starts from an ordinary mixture.
    ``with_background`` says that the component with the lowest mean is the background, which cannot be the lesion.
    """
    box = bounding_box(where)
    inside, values = where[box], score[box].astype(np.float32)
    start = _start(values[inside], components, options)
    posterior, (means, stddevs, weights) = _alternate(_Slabs(values, inside), start, options)
    order = np.argsort(means)
    whole = np.zeros((components, *score.shape), np.float32)
    whole[(slice(None), *box)] = posterior[order]
    first = 1 if with_background else 0
    smallest = first + int(np.argmin(weights[order][first:]))
    lesion = smallest if options.lesion == "smallest" else components - 1
    return Mixture(means[order], stddevs[order], weights[order], whole, lesion)


def _alternate(volume: "_Slabs", start: Parameters, options: MixtureOptions) -> tuple[np.ndarray, Parameters]:
    """Expectation maximisation: the posteriors, (K, N, H, W), and the parameters that follow from them."""
    means, stddevs, weights = start
    posterior, _ = volume.expect(means, stddevs, weights)
    for _ in range(options.iterations):
        before = means
        posterior, sums = volume.expect(means, stddevs, weights, posterior, options.neighbourhood)
        means, stddevs, weights = _maximise(sums, options.spread)
        if np.abs(means - before).max() < options.tolerance:
            break
    return posterior, (means, stddevs, weights)


def _start(values: np.ndarray, components: int, options: MixtureOptions) -> Parameters:
    """An ordinary mixture of a subset of the voxels (V,), without neighbourhoods; it starts from clusters (k-means)."""
    from scipy.cluster.vq import ClusterError, kmeans2

    # Not every n-th voxel: in whole slices these could be a few columns only.
    chosen = np.random.default_rng(0).choice(values.size, min(values.size, _SAMPLE), replace=False, shuffle=False)
    sample = values[chosen]
    distinct = np.unique(sample)
    if distinct.size < components:
        # A network can give the same value for all voxels: nothing to fit.
        return np.resize(distinct, components), np.full(components, np.sqrt(_TINY)), np.full(components, 1 / components)
    cluster = partial(kmeans2, sample.astype(np.float64), components, minit="++", missing="raise", rng=0)
    try:
        _, clusters = cluster()
    except ClusterError:
        # A cluster became empty. The first clusters, around values of the sample, are not.
        _, clusters = cluster(iter=1)
    belongs = clusters == np.arange(components)[:, None]
    sums = np.array([belongs.sum(axis=1), belongs @ sample, belongs @ sample**2], float)
    line = sample[None, None]
    ordinary = replace(options, neighbourhood=1, iterations=_START_ITERATIONS)
    return _alternate(_Slabs(line, np.ones_like(line, bool)), _maximise(sums, options.spread), ordinary)[1]


class _Slabs:
    """A volume that is processed a few slices at a time, which fit into the processor's cache, on all cores.

    Args:
        values: (N, H, W) float32.
        inside: (N, H, W) bool, the voxels that are fitted.
    """

    def __init__(self, values: np.ndarray, inside: np.ndarray) -> None:
        self._values, self._inside = values, inside
        self._slabs = [slice(start, start + _SLAB) for start in range(0, len(values), _SLAB)]

    def expect(
        self,
        means: np.ndarray,
        stddevs: np.ndarray,
        weights: np.ndarray,
        posterior: np.ndarray | None = None,
        edge: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Posteriors of the components, and the sums from which the parameters are computed.

        Args:
            means, stddevs, weights: (K,).
            posterior: (K, N, H, W), of the previous iteration; its means over cubes of this ``edge`` are the mixing
                weights. If it is None or the edge is 1, ``weights`` are.

        Returns:
            (K, N, H, W) float32, 0 outside; and (3, K), the sums over voxels of posterior, posterior times value and
            posterior times squared value.
        """
        result = np.empty((len(means), *self._values.shape), np.float32)

        def work(slab: slice) -> np.ndarray:
            values = self._values[slab]
            prior = weights if posterior is None or edge == 1 else _box_sums(posterior, slab, edge)
            return _posterior(values, self._inside[slab], means, stddevs, prior, result[:, slab])

        with ThreadPoolExecutor() as pool:
            return result, np.sum(list(pool.map(work, self._slabs)), axis=0)


def _posterior(
    values: np.ndarray,
    inside: np.ndarray,
    means: np.ndarray,
    stddevs: np.ndarray,
    prior: np.ndarray,
    result: np.ndarray,
) -> np.ndarray:
    """Writes the posterior of each component at each voxel, (K, N, H, W), to ``result``; returns its sums, (3, K).

    The prior may have any scale: (K,) or (K, N, H, W).
    """
    for one, mean, stddev in zip(result, means, stddevs, strict=True):
        np.subtract(values, np.float32(mean), out=one)
        one *= one
        one *= np.float32(-0.5 / stddev**2)
        one -= np.float32(np.log(stddev))
    result -= result.max(axis=0)
    np.exp(result, out=result)
    result *= np.maximum(prior, _TINY).astype(np.float32).reshape(len(means), *(prior.shape[1:] or (1, 1, 1)))
    result *= inside / result.sum(axis=0)
    flat, values = result.reshape(len(means), -1), values.ravel()
    return np.array([flat.sum(axis=1, dtype=np.float64), flat @ values, flat @ values**2])


def _box_sums(values: np.ndarray, slab: slice, edge: int) -> np.ndarray:
    """Sums of (K, N, H, W) over cubes of ``edge`` voxels around those of some slices, 0 beyond the volume."""
    reach = edge // 2
    last = min(slab.stop, values.shape[1])
    first = max(0, slab.start - reach)
    wide = values[:, first : last + reach]
    for axis in (1, 2, 3):
        total = wide.copy()
        for step in range(1, reach + 1):
            ahead = [slice(None)] * 4
            behind = [slice(None)] * 4
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            total[tuple(ahead)] += wide[tuple(behind)]
            total[tuple(behind)] += wide[tuple(ahead)]
        # The slices around the slab are no longer needed.
        wide = total[:, slab.start - first : last - first] if axis == 1 else total
    return wide


def _maximise(sums: np.ndarray, spread: Spread) -> Parameters:
    """The parameters from the sums of ``_Slabs.expect``."""
    totals, firsts, seconds = sums
    totals = np.maximum(totals, _TINY)
    means = firsts / totals
    variances = seconds / totals - means**2
    if spread == "tied":
        variances = np.full_like(variances, np.average(variances, weights=totals))
    return means, np.sqrt(np.maximum(variances, _TINY)), totals / totals.sum()
