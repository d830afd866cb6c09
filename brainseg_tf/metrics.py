"""Segmentation metrics: agreement of two masks, or of a score and a mask, and bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Confidence level of the bootstrap intervals.
CONFIDENCE = 0.95
# Number of bins of a reliability diagram.
BINS = 10


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool arrays of the same shape; 1 if both are empty."""
    union = np.count_nonzero(mask | truth)
    return float(np.count_nonzero(mask & truth) / union) if union else 1.0


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient of two bool arrays of the same shape; 1 if both are empty."""
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    return float(2 * np.count_nonzero(mask & truth) / total) if total else 1.0


def hausdorff95(mask: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the Hausdorff distance of two masks, in millimetres.

    This is the larger of two values: the 95th percentile of the distances from the surface of the first mask to that of
    the second, and vice versa.

    Args:
        mask, truth: bool, of the same shape.
        spacing: voxel size along each axis in millimetres.

    Returns:
        The distance; 0 if both masks are empty, NaN if one of them is.
    """
    if not (mask.any() and truth.any()):
        return 0.0 if mask.any() == truth.any() else float("nan")
    box = ndimage.find_objects((mask | truth).astype(np.uint8))[0]
    surfaces = [_surface(np.pad(one[box], 1)) for one in (mask, truth)]
    distances = [ndimage.distance_transform_edt(~surface, spacing) for surface in surfaces]
    return float(max(np.percentile(distances[1 - k][surfaces[k]], 95) for k in (0, 1)))


@dataclass(frozen=True)
class LesionCounts:
    """Detection by lesion. A lesion is a component of the ground truth; voxels that share a corner are connected.

    Attributes:
        detected: (n,) bool, for each lesion of the ground truth, whether a voxel of it is in the mask.
        voxels: (n,), the sizes of these lesions.
        false: number of the mask's components that do not touch the ground truth; ``true``: number of the others.
    """

    detected: np.ndarray
    voxels: np.ndarray
    false: int
    true: int

    @property
    def f1(self) -> float:
        """Harmonic mean of the share of lesions that are detected and of the share of components that are lesions.

        It is 1 if both masks are empty.
        """
        found, missed = int(self.detected.sum()), int((~self.detected).sum())
        components = self.true + self.false
        if not (len(self.detected) and components):
            return float(len(self.detected) == components)
        recall, precision = found / (found + missed), self.true / components
        return 2 * recall * precision / (recall + precision) if found else 0.0


def lesion_counts(mask: np.ndarray, truth: np.ndarray) -> LesionCounts:
    """Which lesions a mask detects, see ``LesionCounts``; both arrays are bool and of the same shape."""
    connected = np.ones((3,) * mask.ndim)
    lesions, lesion_number = ndimage.label(truth, connected)
    components, component_number = ndimage.label(mask, connected)
    overlap = mask & truth
    detected = np.isin(np.arange(1, lesion_number + 1), lesions[overlap])
    true = len(np.unique(components[overlap]))
    voxels = np.bincount(lesions.ravel(), minlength=lesion_number + 1)[1:]
    return LesionCounts(detected, voxels, component_number - true, true)


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """Average precision, the area under the precision-recall curve.

    Args:
        score: of any shape.
        truth: bool, of the same shape.

    Returns:
        The average precision; NaN if ``truth`` is empty.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth.ravel(), score.ravel())) if truth.any() else float("nan")


def reliability(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The data of a reliability diagram (DeGroot and Fienberg 1983).

    Args:
        probability: lesion probability in [0, 1], of any shape.
        truth: bool, of the same shape.

    Returns:
        (BINS, 3): for each bin of the probability the number of voxels, the sum of their probabilities, and the number
        of lesion voxels. The results of several volumes can be summed.
    """
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1).ravel()
    weights = (None, probability.ravel().astype(np.float64), truth.ravel())
    return np.stack([np.bincount(bins, weight, minlength=BINS) for weight in weights], axis=-1)


def calibration_error(counts: np.ndarray) -> float:
    """The expected calibration error (Naeini 2015).

    This is the absolute difference between the mean probability and the share of lesion voxels in each bin, averaged
    over the bins with their numbers of voxels as weights.

    Args:
        counts: (BINS, 3), the result of ``reliability``.

    Returns:
        The error; NaN if there is no voxel.
    """
    voxels, expected, found = counts.T
    return float(np.abs(expected - found).sum() / voxels.sum()) if voxels.any() else float("nan")


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, NaN values left out; (NaN, NaN) for fewer than two values."""
    return cluster_interval([[value] for value in values], seed)


def cluster_interval(clusters: Sequence[Sequence[float] | np.ndarray], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of all values, NaN values left out, by a bootstrap that draws clusters.

    The values of a cluster, for instance of the slices of one patient, are not independent. Therefore each cluster is
    drawn with all of its values (Davison and Hinkley 1997, section 3.8).

    Args:
        clusters: the values of each cluster.
        seed: of the bootstrap.

    Returns:
        The lower and the upper limit; NaN for fewer than two clusters with values.
    """
    from scipy.stats import bootstrap

    arrays = [np.asarray(cluster, float) for cluster in clusters]
    without_nan = [array[~np.isnan(array)] for array in arrays]
    sums = np.array([array.sum() for array in without_nan if array.size])
    counts = np.array([array.size for array in without_nan if array.size], float)
    if sums.size < 2:
        return float("nan"), float("nan")

    def mean(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    result = bootstrap(
        (sums, counts), mean, paired=True, confidence_level=CONFIDENCE, method="percentile", random_state=seed
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _surface(mask: np.ndarray) -> np.ndarray:
    """The surface voxels of a mask: those with a face neighbour outside the mask."""
    return mask & ~ndimage.binary_erosion(mask)
