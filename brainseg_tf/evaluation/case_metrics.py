"""One mask of one patient against the ground truth; and a score, cut at any threshold."""

from dataclasses import dataclass, field, replace

import numpy as np

from brainseg_tf import metrics

# Scores lie in [0, 1]; thresholds are multiples of a 256th.
BINS = 256


@dataclass(frozen=True)
class Patient:
    """What of a patient every method is held against.

    Attributes:
        name: the patient's.
        truth, brain: (X, Y, Z) bool, the last axis along the slices.
        used: (Z,) bool, the slices that slice-wise metrics count.
        spacing: millimetres along each axis.
    """

    name: str
    truth: np.ndarray
    brain: np.ndarray
    used: np.ndarray
    spacing: tuple[float, float, float]

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000


@dataclass(frozen=True)
class Comparison:
    """One method's mask of one patient against the ground truth, on the scan's own grid.

    Attributes:
        method, patient, cut: who made it, of whom, and how the score was cut.
        dice, iou, sensitivity, precision: of the whole volume.
        hausdorff95: mm; NaN if it was not measured or one mask is empty.
        average_precision: of the score in the brain.
        slices: IoU and Dice of each used slice that shows a lesion in the truth, (S, 2).
        overlap, union, total: voxels in both, in either, and summed over both, for pooling.
        lesion_ml, found_ml: volume in the truth and in the mask.
        false_ml: volume flagged in slices whose truth is empty.
        tumour_free_ml: volume flagged when these slices are all that the method gets; NaN if it was not measured.
        brier: mean squared difference (Brier 1950) of a lesion's posterior and the truth in the brain; NaN without one.
        reliability: ``metrics.reliability`` of it in the brain; all 0 without one.
    """

    method: str
    patient: str
    cut: str
    dice: float
    iou: float
    sensitivity: float
    precision: float
    hausdorff95: float
    average_precision: float
    slices: np.ndarray
    overlap: int
    union: int
    total: int
    lesion_ml: float
    found_ml: float
    false_ml: float
    tumour_free_ml: float
    brier: float = float("nan")
    reliability: np.ndarray = field(default_factory=lambda: np.zeros((metrics.BINS, 3)))


def compare(
    method: str,
    cut: str,
    patient: Patient,
    mask: np.ndarray,
    *,
    posterior: np.ndarray | None = None,
    average_precision: float = float("nan"),
    tumour_free_ml: float = float("nan"),
) -> Comparison:
    """Compares a mask, (X, Y, Z) bool, and a lesion's posterior, (X, Y, Z) in [0, 1]."""
    overlap, found = (np.count_nonzero(one, axis=(0, 1)) for one in (mask & patient.truth, mask))
    distance = metrics.hausdorff95(mask, patient.truth, patient.spacing)
    compared = _from_counts(method, cut, patient, overlap, found, distance, average_precision, tumour_free_ml)
    if posterior is None:
        return compared
    inside, truth = posterior[patient.brain], patient.truth[patient.brain]
    return replace(
        compared,
        brier=float(np.mean((inside - truth) ** 2, dtype=np.float64)),
        reliability=metrics.reliability(inside, truth),
    )


class Histogram:
    """How often each value of a score occurs in the brain of a patient: by slice, outside and inside the lesion.

    Args:
        patient: whose.
        score: (X, Y, Z) in [0, 1].
    """

    def __init__(self, patient: Patient, score: np.ndarray) -> None:
        slices = score.shape[-1]
        bins = np.clip(np.ceil(score * BINS).astype(np.int64) - 1, 0, BINS - 1)
        z = np.broadcast_to(np.arange(slices), score.shape)
        flat = (z * 2 + patient.truth) * BINS + bins
        counts = np.bincount(flat[patient.brain], minlength=slices * 2 * BINS)
        # Kept: how many lie above the threshold k / BINS.
        above = counts.reshape(slices, 2, BINS)[..., ::-1].cumsum(axis=-1)[..., ::-1]
        self._above = np.concatenate([above, np.zeros((slices, 2, 1), np.int64)], axis=-1)
        self._patient = patient.name
        self._truth = np.count_nonzero(patient.truth, axis=(0, 1))

    def dice(self) -> np.ndarray:
        """Of the whole volume, for each of the BINS + 1 thresholds; the first takes all of the brain."""
        outside, inside = self._above.sum(axis=0)
        total = outside + inside + self._truth.sum()
        return np.where(total > 0, 2 * inside / np.maximum(total, 1), 1.0)

    def healthy(self) -> np.ndarray:
        """How many voxels of slices without lesion lie above each of the BINS + 1 thresholds."""
        return self._above[self._truth == 0].sum(axis=(0, 1))

    def cut(self, method: str, name: str, patient: Patient, threshold: int) -> Comparison:
        """The comparison of the mask ``score > threshold / BINS`` in the brain."""
        outside, inside = self._above[:, 0, threshold], self._above[:, 1, threshold]
        return _from_counts(method, name, patient, inside, inside + outside)


def _from_counts(
    method: str,
    cut: str,
    patient: Patient,
    overlap: np.ndarray,
    found: np.ndarray,
    hausdorff95: float = float("nan"),
    average_precision: float = float("nan"),
    tumour_free_ml: float = float("nan"),
) -> Comparison:
    """A comparison from voxels by slice, (Z,): in both masks, and in the method's."""
    truth = np.count_nonzero(patient.truth, axis=(0, 1))
    abnormal = truth > 0
    both, union, total = overlap.sum(), (found + truth - overlap).sum(), (found + truth).sum()
    z = abnormal & patient.used
    slices = np.stack([overlap[z] / (found + truth - overlap)[z], 2 * overlap[z] / (found + truth)[z]], axis=-1)
    return Comparison(
        method=method,
        patient=patient.name,
        cut=cut,
        dice=float(2 * both / total) if total else 1.0,
        iou=float(both / union) if union else 1.0,
        sensitivity=float(both / truth.sum()) if abnormal.any() else float("nan"),
        precision=float(both / found.sum()) if found.any() else float("nan"),
        hausdorff95=hausdorff95,
        average_precision=average_precision,
        slices=slices,
        overlap=int(both),
        union=int(union),
        total=int(total),
        lesion_ml=float(truth.sum() * patient.voxel_ml),
        found_ml=float(found.sum() * patient.voxel_ml),
        false_ml=float(found[~abnormal].sum() * patient.voxel_ml),
        tumour_free_ml=tumour_free_ml,
    )
