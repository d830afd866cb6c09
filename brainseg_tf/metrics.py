"""Overlap of two masks, and agreement of a score with a mask."""

import numpy as np


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool arrays of one shape; 1 if both are empty."""
    union = np.count_nonzero(mask | truth)
    return float(np.count_nonzero(mask & truth) / union) if union else 1.0


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Twice the intersection over the sum of two bool arrays of one shape; 1 if both are empty."""
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    return float(2 * np.count_nonzero(mask & truth) / total) if total else 1.0


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the precision-recall curve of ``score`` for ``truth`` (bool), both of one shape."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth.ravel(), score.ravel()))
