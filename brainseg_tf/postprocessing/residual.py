"""The score: from slices and their reconstruction to how abnormal each pixel is (section 5.3, steps 1 and 2)."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import ndimage

from brainseg_tf.errors import InputError
from brainseg_tf.masks import bounding_box
from brainseg_tf.options import Score


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


def score_map(
    images: np.ndarray, reconstruction: np.ndarray, kind: Score, probability: np.ndarray | None = None
) -> np.ndarray:
    """How abnormal each pixel is, averaged over the channels.

    Args:
        images: (N, H, W, C) in [0, 1].
        reconstruction: of that shape.
        kind: ``absolute``, the absolute residual; ``positive``, its positive part (on FLAIR and T2, lesions are
            brighter than healthy tissue); ``weighted``, the geometric mean of the positive part and the input;
            ``probability``, the network's lesion probability. For the baselines without a network: ``input``, the
            input itself; ``equalised``, its first channel after histogram equalisation.
        probability: (N, H, W) in [0, 1], of networks that have this output.

    Returns:
        (N, H, W) float32, at least 0.

    Raises:
        InputError: the network has no probability.
    """
    difference = images - reconstruction
    if kind == "absolute":
        score = np.abs(difference)
    elif kind == "positive":
        score = np.maximum(difference, 0)
    elif kind == "weighted":
        score = np.sqrt(np.maximum(difference, 0) * images)
    elif kind == "probability":
        if probability is None:
            raise InputError("--score probability: this model gives none; choose another --model or --score")
        score = probability[..., None]
    elif kind == "equalised":
        from skimage.exposure import equalize_hist

        inside = images[..., 0] > 0
        score = np.where(inside, equalize_hist(images[..., 0], mask=inside), 0)[..., None]
    else:
        score = images
    return score.mean(axis=-1, dtype=np.float32)


def erode(brain: np.ndarray, spacing: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """Erodes the brain within each slice by a disc: the edge of the brain has a residual of its own.

    Args:
        brain: (N, H, W) bool.
        spacing: millimetres along (slice, row, column).
        radius_mm: pixels whose distance to a pixel outside the brain, from centre to centre, is at most this are
            removed.
    """
    if radius_mm <= 0:
        return brain
    # Pixels outside the image are outside the brain.
    padded = np.pad(brain, ((0, 0), (1, 1), (1, 1)))
    eroded = [ndimage.distance_transform_edt(one, spacing[1:]) > radius_mm for one in padded]
    return np.stack(eroded)[:, 1:-1, 1:-1]


def smooth(score: np.ndarray, brain: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Median filter over (slices, rows, columns); 0 outside ``brain``.

    The result is that of ``ndimage.median_filter``. NumPy sorts the windows with vector instructions, in a fraction of
    the time, and only those in ``brain`` are sorted.
    """
    filtered = np.zeros_like(score)
    if not brain.any():
        return filtered
    box = bounding_box(brain)
    padded = np.pad(score[box], [(n // 2, (n - 1) // 2) for n in size], mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)

    def filter_slice(windows: np.ndarray, inside: np.ndarray, result: np.ndarray) -> None:
        values = windows[inside].reshape(-1, math.prod(size))
        values.sort(axis=1)
        result[inside] = values[:, math.prod(size) // 2]

    # The windows of one slice fit into the processor's cache.
    with ThreadPoolExecutor() as pool:
        list(pool.map(filter_slice, windows, brain[box], filtered[box]))
    return filtered


def median_exceeds(score: np.ndarray, threshold: float, brain: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Where the result of ``smooth`` exceeds a threshold, (N, H, W) bool.

    The median exceeds a threshold where half of the window does. Counting is several times as fast as sorting.
    """
    exceeds = np.zeros_like(brain)
    box = bounding_box(brain)
    share = ndimage.uniform_filter((score[box] > threshold).astype(np.float32), size)
    # Half, minus the rounding error of a single voxel's share.
    exceeds[box] = share > 0.5 - 0.25 / math.prod(size)
    return exceeds & brain
