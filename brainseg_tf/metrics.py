"""Agreement of two masks, and of a score with a mask."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

# Every mean that is reported has an interval that this share of bootstrap means lies in.
CONFIDENCE = 0.95
# Of a reliability diagram.
BINS = 10


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool arrays of one shape; 1 if both are empty."""
    union = np.count_nonzero(mask | truth)
    return float(np.count_nonzero(mask & truth) / union) if union else 1.0


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Twice the intersection over the sum of two bool arrays of one shape; 1 if both are empty."""
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    return float(2 * np.count_nonzero(mask & truth) / total) if total else 1.0


def hausdorff95(mask: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the distances from each mask's surface to the other's, the larger of the two, in mm.

    Args:
        mask: bool.
        truth: bool, of that shape.
        spacing: millimetres along each axis.

    Returns:
        NaN if either is empty; 0 if both are.
    """
    if not (mask.any() and truth.any()):
        return 0.0 if mask.any() == truth.any() else float("nan")
    box = ndimage.find_objects((mask | truth).astype(np.uint8))[0]
    surfaces = [_surface(np.pad(one[box], 1)) for one in (mask, truth)]
    away = [ndimage.distance_transform_edt(~surface, spacing) for surface in surfaces]
    return float(max(np.percentile(away[1 - k][surfaces[k]], 95) for k in (0, 1)))


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the precision-recall curve of a score (any shape); NaN without a lesion in the truth (bool)."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth.ravel(), score.ravel())) if truth.any() else float("nan")


def reliability(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What a reliability diagram (DeGroot and Fienberg 1983) is drawn from.

    Args:
        probability: of a lesion, in [0, 1], any shape.
        truth: bool, of that shape.

    Returns:
        (BINS, 3): for each tenth of the probability how many voxels have it, the sum of their probabilities, and how
        many are lesion. What two volumes give may be added up.
    """
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1).ravel()
    weights = (None, probability.ravel().astype(np.float64), truth.ravel())
    return np.stack([np.bincount(bins, weight, minlength=BINS) for weight in weights], axis=-1)


def calibration_error(counts: np.ndarray) -> float:
    """The expected calibration error (Naeini 2015) of what ``reliability`` gives; NaN for nothing.

    The mean over the voxels of how far a bin's mean probability is from its share of lesion.
    """
    voxels, expected, found = counts.T
    return float(np.abs(expected - found).sum() / voxels.sum()) if voxels.any() else float("nan")


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of the values that are not NaN; NaN for fewer than two."""
    return cluster_interval([[value] for value in values], seed)


def cluster_interval(clusters: Sequence[Sequence[float] | np.ndarray], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of all values that are not NaN, by a bootstrap that draws clusters.

    Values of one cluster, the slices of one patient for one, are not independent: a cluster is drawn with all of its
    values (Davison and Hinkley 1997, section 3.8), and the mean is that of all values drawn.

    Returns:
        NaN for fewer than two clusters that hold a value.
    """
    from scipy.stats import bootstrap

    arrays = [np.asarray(cluster, float) for cluster in clusters]
    known = [array[~np.isnan(array)] for array in arrays]
    sums = np.array([array.sum() for array in known if array.size])
    counts = np.array([array.size for array in known if array.size], float)
    if sums.size < 2:
        return float("nan"), float("nan")

    def mean(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    result = bootstrap(
        (sums, counts), mean, paired=True, confidence_level=CONFIDENCE, method="percentile", random_state=seed
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask that have a neighbour, across a face, outside it."""
    return mask & ~ndimage.binary_erosion(mask)
