"""Training without segmentations: the network itself looks for abnormal slices, which are left out afterwards.

Archives of healthy scans contain lesions. The assumption is that a network that was trained on them for a short time
still finds them, because it has not yet learned that they are healthy. So the training has several parts
(``FitOptions.round_starts``), and between two of them every slice is looked at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, write_json
from brainseg_tf.json_file import read_json
from brainseg_tf.options import Score
from brainseg_tf.postprocessing.residual import score_map, smooth
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.schema import Integer, Items, Map, Record, Text
from brainseg_tf.training.calibration import EVEN_ODDS, HEALTHY_QUANTILE
from brainseg_tf.training.pipeline import CachedSlices, central_columns
from brainseg_tf.training.runs import LEFT_OUT, REMEDY

_WHAT = "the record of slices that are left out"
_RECORD = Record(
    {"rounds": Items(Record({"epochs": Integer(), "rows": Map(Text(1, 100_000))}))},
)
# A slice is healthy if at most this share of its brain is above the threshold. By definition 1.5 % of healthy tissue is
# above the healthy threshold of a residual.
_LARGEST_SHARE = {"probability": 0.005}
_LARGEST_SHARE_OF_RESIDUAL = 3 * (1 - HEALTHY_QUANTILE)
# Scans of another contrast: the quantiles of the normalised intensities that are compared, and the largest difference
# that is usual. Among 68 FLAIR scans of three hospitals and many scanners the largest was 0.26; half of 30 T2 scans
# differ from FLAIR scans by more than 0.5.
_QUANTILES, _LARGEST_DIFFERENCE = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99), 0.3
_LEAST_SCANS, _SAMPLED_SLICES = 5, 12
# Median filter within the slice.
_MEDIAN = (1, 3, 3)


@dataclass(frozen=True)
class LeftOut:
    """The rows that are not used any more after an epoch.

    Attributes:
        epochs: number of finished epochs.
        rows: of the file of each patient's slices, by patient.
    """

    epochs: int
    rows: dict[str, tuple[int, ...]]

    def apply(self, cached: Iterable[CachedSlices]) -> list[CachedSlices]:
        """The patients without these rows; patients without any row are left out."""
        remaining = [replace(one, left_out=self.rows.get(one.patient, ())) for one in cached]
        return [one for one in remaining if len(one.rows)]

    def describe(self, cached: Sequence[CachedSlices]) -> str:
        """How much of these slices is left out, and what to do if it is most of them: one line for the user."""
        count, total = sum(len(rows) for rows in self.rows.values()), sum(one.used for one in cached)
        # Then either most slices show lesions, or the network does not know what is healthy in these scans.
        remedy = "; if you know that the scans have no lesions, --rounds 0 uses all slices" if count > total / 2 else ""
        return (
            f"after {self.epochs} epochs: {count} of {total} slices ({count / total:.0%}) are left out as abnormal, in "
            f"{len(self.rows)} of {len(cached)} scans{remedy}"
        )


def abnormal_slices(images: np.ndarray, brain: np.ndarray, reconstruction: Reconstruction, kind: Score) -> np.ndarray:
    """Which slices of a scan show something abnormal, according to a network.

    In these, too large a share of the brain is above a threshold. The threshold of a probability is 0.5. That of a
    residual is the median over the slices of its 98.5 % quantile, which lesions in less than half of the slices hardly
    change.

    Args:
        images: (N, H, W, C), slices of one scan.
        brain: (N, H, W) bool.
        reconstruction: of the slices.
        kind: of score.

    Returns:
        (N,) bool.
    """
    score = smooth(score_map(images, reconstruction.images, kind, reconstruction.probability), brain, _MEDIAN)
    largest = _LARGEST_SHARE.get(kind, _LARGEST_SHARE_OF_RESIDUAL)
    quantiles = np.zeros((len(images), 2))
    for row, (values, inside) in enumerate(zip(score, brain, strict=True)):
        if inside.any():
            quantiles[row] = np.quantile(values[inside], [1 - largest, HEALTHY_QUANTILE])
    threshold = EVEN_ODDS if kind == "probability" else float(np.median(quantiles[:, 1]))
    return quantiles[:, 0] > threshold


def find_abnormal(
    cached: Iterable[CachedSlices], model: Reconstructor, kind: Score, epochs: int, columns: int = 0
) -> LeftOut:
    """Looks at all cached slices, also at those that are left out at present.

    Args:
        cached: the slices.
        model: the network in training.
        kind: of its score.
        epochs: number of finished epochs.
        columns: number of central columns that the network is trained with; 0 uses all.
    """
    rows: dict[str, tuple[int, ...]] = {}
    for one in cached:
        images = central_columns(np.load(one.file), columns)
        found = abnormal_slices(images, np.any(images, axis=-1), model.reconstruct(images), kind)
        if found.any():
            rows[one.patient] = tuple(int(row) for row in np.flatnonzero(found))
    return LeftOut(epochs, rows)


def unlike_others(cached: Sequence[CachedSlices]) -> list[str]:
    """One line about each scan whose intensities are unlike those of the others, as those of another contrast are.

    The quantiles of a scan's intensities are compared with their medians over all scans.

    Args:
        cached: the slices of all scans, with robust normalisation.
    """
    cached = [one for one in cached if one.used]
    if len(cached) < _LEAST_SCANS:
        return []
    quantiles = np.array([_intensities(one) for one in cached])
    usual = np.median(quantiles, axis=0)
    lines = []
    for one, of_scan in zip(cached, quantiles, strict=True):
        worst = int(np.argmax(np.abs(of_scan - usual)))
        if abs(of_scan[worst] - usual[worst]) > _LARGEST_DIFFERENCE:
            lines.append(
                f"{one.patient}: its intensities are unlike those of the other scans ({_QUANTILES[worst]:.0%} quantile "
                f"{of_scan[worst]:.2f}, others {usual[worst]:.2f}); check that it has the same contrast"
            )
    return lines


def _intensities(cached: CachedSlices) -> np.ndarray:
    """Quantiles of the first channel over the brain, in evenly spaced slices."""
    images = np.load(cached.file, mmap_mode="r")
    some = np.asarray(images[:: max(1, len(images) // _SAMPLED_SLICES), ..., 0])
    return np.quantile(some[some > 0], _QUANTILES) if some.any() else np.zeros(len(_QUANTILES))


def read_rounds(out: Path) -> list[LeftOut]:
    """What was left out in a run so far, the first round first.

    Raises:
        InputError: the record is damaged.
    """
    file = out / LEFT_OUT
    if not file.exists():
        return []
    content = read_json(file, _RECORD, what=_WHAT, remedy=REMEDY)
    try:
        return [
            LeftOut(one["epochs"], {patient: _rows(text) for patient, text in one["rows"].items()})
            for one in content["rounds"]
        ]
    except ValueError as error:
        raise InputError(f"{printable(file)}: is not {_WHAT} ({printable(error)}); {REMEDY}") from error


def write_rounds(out: Path, rounds: Sequence[LeftOut]) -> None:
    """Writes the record of a run. Rows are written as ranges, for instance ``3-17,40``: most of them are neighbours."""
    content = [
        {"epochs": one.epochs, "rows": {patient: _ranges(rows) for patient, rows in one.rows.items()}} for one in rounds
    ]
    write_json(out / LEFT_OUT, {"rounds": content})


def _ranges(rows: Sequence[int]) -> str:
    """Ascending numbers as text; neighbours are one range."""
    breaks = np.flatnonzero(np.diff(rows) > 1) + 1
    parts = np.split(np.array(rows), breaks)
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _rows(text: str) -> tuple[int, ...]:
    """The numbers in the text of ``_ranges``.

    Raises:
        ValueError: it is no such text.
    """
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return tuple(row for part in ends for row in range(part[0], part[-1] + 1))
