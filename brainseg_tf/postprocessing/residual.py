"""What differs between a slice and its healthy reconstruction (section 5.3, steps 1 and 2)."""

from typing import Literal

import numpy as np
from scipy import ndimage

Score = Literal["absolute", "positive", "weighted", "input"]


def match_range(reconstruction: np.ndarray, images: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Min-max normalises each channel of the reconstruction to the input's range in the brain.

    Args:
        reconstruction, images: (N, H, W, C).
        brain: (N, H, W) bool.
    """
    matched = np.zeros_like(reconstruction)
    for channel in range(images.shape[-1]):
        ours, theirs = reconstruction[..., channel][brain], images[..., channel][brain]
        width = max(float(np.ptp(ours)), np.finfo(np.float32).tiny)
        scaled = (reconstruction[..., channel] - ours.min()) / width * np.ptp(theirs) + theirs.min()
        matched[..., channel] = np.where(brain, scaled, 0)
    return matched


def score_map(images: np.ndarray, reconstruction: np.ndarray, kind: Score) -> np.ndarray:
    """How unlike healthy tissue each pixel is, averaged over the channels.

    Args:
        images, reconstruction: (N, H, W, C) in [0, 1].
        kind: ``absolute`` difference; its ``positive`` part (on FLAIR and T2 a lesion is brighter than what was there);
            ``weighted``, the geometric mean of the positive part and the input; or ``input`` itself, the baseline that
            uses no network.

    Returns:
        (N, H, W) float32, at least 0.
    """
    difference = images - reconstruction
    if kind == "absolute":
        score = np.abs(difference)
    elif kind == "positive":
        score = np.maximum(difference, 0)
    elif kind == "weighted":
        score = np.sqrt(np.maximum(difference, 0) * images)
    else:
        score = images
    return score.mean(axis=-1, dtype=np.float32)


def erode(brain: np.ndarray, spacing: tuple[float, float, float], rim: float) -> np.ndarray:
    """Takes ``rim`` millimetres off the brain's surface within each slice, where the edge itself leaves a residual.

    Args:
        brain: (N, H, W) bool.
        spacing: millimetres along (slice, row, column).
    """
    if rim <= 0:
        return brain
    pixels = max(1, round(rim / spacing[1]))
    return ndimage.binary_erosion(brain, ndimage.generate_binary_structure(3, 1)[1:2], iterations=pixels)


def smooth(score: np.ndarray, brain: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Median filter over (slices, rows, columns) against speckles; 0 outside ``brain``."""
    if max(size) > 1:
        box = ndimage.find_objects(brain.astype(np.uint8))[0] if brain.any() else (slice(0, 0),) * 3
        filtered = np.zeros_like(score)
        filtered[box] = ndimage.median_filter(score[box], size)
        score = filtered
    return np.where(brain, score, 0)
