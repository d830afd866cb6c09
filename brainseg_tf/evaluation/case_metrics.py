"""Metrics of one patient: comparison of a mask, or of a score at any threshold, with the ground truth."""

from dataclasses import dataclass, field, replace

import numpy as np

from brainseg_tf import metrics

# Number of histogram bins of a score in [0, 1]. Thresholds are multiples of 1 / BINS.
BINS = 256
# A lesion of more than this volume is missed if the Dice is below this.
_MISSED_ML, _MISSED_DICE = 2.0, 0.1


@dataclass(frozen=True)
class Case:
    """Ground truth of a patient.

    Attributes:
        name: of the patient.
        truth, brain: (X, Y, Z) bool; slices are along the last axis.
        used: (Z,) bool, the slices that the slice-wise metrics use.
        spacing: voxel size along each axis in millimetres.
        cohort: name of the patient's cohort.
    """

    name: str
    truth: np.ndarray
    brain: np.ndarray
    used: np.ndarray
    spacing: tuple[float, float, float]
    cohort: str = ""

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000


@dataclass(frozen=True)
class Comparison:
    """Metrics of a method's mask for one patient, on the grid of the scan.

    Attributes:
        method: name of the method.
        patient: name of the patient.
        cut: how the score was turned into a mask, one of ``methods.CUTS``.
        dice, iou, sensitivity, precision: of the whole volume.
        hausdorff95: 95th percentile of the Hausdorff distance in millimetres; NaN if it was not measured or one mask is
            empty.
        average_precision: of the score, over the voxels of the brain.
        slices: IoU and Dice of each used slice with a lesion in the ground truth, (S, 2).
        overlap, union, total: voxels in the intersection, in the union, and sum of both masks' voxels, for pooling.
        lesion_ml, found_ml: volume of the ground truth and of the mask.
        false_ml: volume of the mask in slices whose ground truth is empty.
        tumour_free_ml: volume of the mask if the method gets only these slices; NaN if it was not measured.
        lesions: detection by lesion; None if it was not measured.
        cohort: name of the patient's cohort.
        brier: Brier score (Brier 1950) of the lesion posterior over the voxels of the brain; NaN without a posterior.
        reliability: ``metrics.reliability`` of the posterior in the brain; all 0 without a posterior.
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
    lesions: metrics.LesionCounts | None = None
    cohort: str = ""
    brier: float = float("nan")
    reliability: np.ndarray = field(default_factory=lambda: np.zeros((metrics.BINS, 3)))

    @property
    def missed(self) -> bool:
        """Whether there is a lesion of more than 2 ml of which hardly anything is in the mask."""
        return self.lesion_ml > _MISSED_ML and self.dice < _MISSED_DICE

    @property
    def lesion_f1(self) -> float:
        """F1 by lesion; NaN if it was not measured."""
        return float("nan") if self.lesions is None else self.lesions.f1


def compare(
    method: str,
    cut: str,
    patient: Case,
    mask: np.ndarray,
    *,
    posterior: np.ndarray | None = None,
) -> Comparison:
    """Compares a mask, and a lesion posterior if there is one, with the ground truth.

    ``average_precision`` and ``tumour_free_ml`` need more than a mask: the caller measures and replaces them.

    Args:
        method, cut: names of the method and of the cut.
        patient: the ground truth.
        mask: (X, Y, Z) bool.
        posterior: lesion posterior, (X, Y, Z) in [0, 1].
    """
    overlap, found = (np.count_nonzero(one, axis=(0, 1)) for one in (mask & patient.truth, mask))
    distance = metrics.hausdorff95(mask, patient.truth, patient.spacing)
    compared = replace(
        _from_counts(method, cut, patient, overlap, found),
        hausdorff95=distance,
        lesions=metrics.lesion_counts(mask, patient.truth),
    )
    if posterior is None:
        return compared
    inside, truth = posterior[patient.brain], patient.truth[patient.brain]
    return replace(
        compared,
        brier=float(np.mean((inside - truth) ** 2, dtype=np.float64)),
        reliability=metrics.reliability(inside, truth),
    )


class Histogram:
    """Histograms of a score in the brain, for each slice, outside and inside the lesion.

    They give the metrics of a mask at any threshold without the score.

    Args:
        patient: the ground truth.
        score: (X, Y, Z) in [0, 1].
    """

    def __init__(self, patient: Case, score: np.ndarray) -> None:
        slices = score.shape[-1]
        bins = np.clip(np.ceil(score * BINS).astype(np.int64) - 1, 0, BINS - 1)
        z = np.broadcast_to(np.arange(slices), score.shape)
        flat = (z * 2 + patient.truth) * BINS + bins
        counts = np.bincount(flat[patient.brain], minlength=slices * 2 * BINS)
        # (slice, outside or inside the lesion, k): number of voxels whose score exceeds k / BINS.
        above = counts.reshape(slices, 2, BINS)[..., ::-1].cumsum(axis=-1)[..., ::-1]
        self._above = np.concatenate([above, np.zeros((slices, 2, 1), np.int64)], axis=-1)
        self._patient = patient.name
        self._truth = np.count_nonzero(patient.truth, axis=(0, 1))

    def dice(self) -> np.ndarray:
        """Dice of the whole volume for each of the BINS + 1 thresholds; at the first one the mask is the brain."""
        outside, inside = self._above.sum(axis=0)
        total = outside + inside + self._truth.sum()
        return np.where(total > 0, 2 * inside / np.maximum(total, 1), 1.0)

    def healthy(self) -> np.ndarray:
        """Number of brain voxels above each of the BINS + 1 thresholds, in the slices without a lesion."""
        return self._above[self._truth == 0].sum(axis=(0, 1))

    def cut(self, method: str, name: str, patient: Case, threshold: int) -> Comparison:
        """The metrics of the mask ``score > threshold / BINS`` within the brain."""
        outside, inside = self._above[:, 0, threshold], self._above[:, 1, threshold]
        return _from_counts(method, name, patient, inside, inside + outside)


def _from_counts(method: str, cut: str, patient: Case, overlap: np.ndarray, found: np.ndarray) -> Comparison:
    """Metrics from voxel counts by slice; those that need more than counts are NaN.

    Args:
        overlap: (Z,), voxels in the mask and in the ground truth.
        found: (Z,), voxels in the mask.
    """
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
        hausdorff95=float("nan"),
        average_precision=float("nan"),
        slices=slices,
        overlap=int(both),
        union=int(union),
        total=int(total),
        lesion_ml=float(truth.sum() * patient.voxel_ml),
        found_ml=float(found.sum() * patient.voxel_ml),
        false_ml=float(found[~abnormal].sum() * patient.voxel_ml),
        tumour_free_ml=float("nan"),
        cohort=patient.cohort,
    )
