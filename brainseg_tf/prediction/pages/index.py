"""The index page of many scans: failed scans first, then outliers and scans with warnings, then the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainseg_tf import __version__
from brainseg_tf.prediction import pages

if TYPE_CHECKING:
    from brainseg_tf.prediction.jobs import Outcome

# An outlier is more than this many robust standard deviations from the median (Iglewicz and Hoaglin 1993). Fewer scans
# than the second number have no outliers.
_OUTLIER_DISTANCE, _FEWEST_SCANS = 3.5, 8
# Smallest height of a bar in percent of the chart, so that the bar of an empty mask is visible and can be clicked.
_LOWEST_BAR = 1.0


@dataclass(frozen=True)
class Row:
    """A scan in the index.

    Attributes:
        name: file name of the scan, see ``pages.distinct_names``.
        order: index of its job, from 0.
        report: of ``Predictor.run``; None after a failure.
        error: one line; None unless the scan failed.
        unusual: the quantities in which the scan is an outlier.
        page, thumbnail: URLs relative to the index; None if there is no such file.
    """

    name: str
    order: int
    report: Mapping[str, Any] | None
    error: str | None
    unusual: list[str]
    page: str | None
    thumbnail: str | None

    @property
    def lesion_ml(self) -> float | None:
        """Volume of all lesions in millilitres."""
        return None if self.report is None else _number(self.report.get("lesion_ml"))

    @property
    def lesions(self) -> int | None:
        """Number of lesions."""
        count = None if self.report is None else _number(self.report.get("components"))
        return None if count is None else int(count)

    @property
    def brain_ml(self) -> float | None:
        """Volume of the brain in millilitres."""
        return None if self.report is None else _number((self.report.get("brain") or {}).get("ml"))

    @property
    def warnings(self) -> list[str]:
        """The warnings in the report."""
        warnings = [] if self.report is None else self.report.get("warnings", [])
        return [str(one) for one in warnings] if isinstance(warnings, list) else []


@dataclass(frozen=True)
class Bar:
    """A bar of the chart.

    Attributes:
        row: the scan.
        left: position of the left edge; a bar is 10 units wide.
        height: in percent of the chart's height.
    """

    row: Row
    left: int
    height: float


def write_index(path: Path, outcomes: Sequence["Outcome"], total: int | None = None) -> None:
    """Writes the index page of a batch. It can be called repeatedly while the batch runs.

    Args:
        path: the HTML file; it links to the pages and thumbnails of the scans.
        outcomes: of the finished scans, in the order of the jobs.
        total: the number of all scans; None if all are finished.

    Raises:
        InputError: the file cannot be written.
    """
    reports = [one.report for one in outcomes if one.report is not None]
    unusual = iter(outliers(reports))
    names = pages.distinct_names([one.job.scan for one in outcomes])
    rows = [
        _row(one, name, path, order, next(unusual) if one.report is not None else [])
        for order, (one, name) in enumerate(zip(outcomes, names, strict=True))
    ]
    failed = [row for row in rows if row.report is None]
    notable = [row for row in rows if row.report is not None and (row.unusual or row.warnings)]
    usual = [row for row in rows if row.report is not None and not (row.unusual or row.warnings)]
    bars, highest = _bars([*notable, *usual])
    model = next((report["model"] for report in reports if report.get("model")), None)
    pages.write(
        path,
        "index.html",
        [pages.script("index.js")],
        rows=[*failed, *notable, *usual],
        total=max(total or 0, len(rows)),
        failed=len(failed),
        unusual=sum(bool(row.unusual) for row in rows),
        empty=sum(row.lesions == 0 for row in rows),
        model=model,
        version=__version__,
        bars=bars,
        highest=highest,
    )


def outliers(reports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Finds outliers in lesion volume, intensity scale, brain volume and the lesion's share of the brain.

    The logarithm of each quantity is compared with its median and median absolute deviation over all scans. Values that
    are missing in a report are ignored. Fewer than 8 scans have no outliers.

    Args:
        reports: of ``Predictor.run``, one per scan.

    Returns:
        For each scan, the names of the quantities in which it is an outlier.
    """
    unusual: list[list[str]] = [[] for _ in reports]
    lesion = _column(one.get("lesion_ml") for one in reports)
    brain = _column((one.get("brain") or {}).get("ml") for one in reports)
    median = _column((one.get("brain") or {}).get("median_intensity") for one in reports)
    share = np.divide(lesion, brain, out=np.full_like(lesion, np.nan), where=brain > 0)
    numbers = {
        "lesion volume": lesion + 1,
        "intensity scale": np.abs(median),
        "brain volume": brain,
        "share of brain": share + 1e-3,
    }
    for name, values in numbers.items():
        known = np.isfinite(values)
        if known.sum() < _FEWEST_SCANS:
            continue
        logs = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        deviation = np.abs(logs - np.median(logs[known]))
        # The standard deviation is at least 5 %, so that scans that are nearly equal have no outliers.
        stddev = max(1.4826 * float(np.median(deviation[known])), 0.05)
        for names, is_outlier in zip(unusual, known & (deviation > _OUTLIER_DISTANCE * stddev), strict=True):
            if is_outlier:
                names.append(name)
    return unusual


def _row(outcome: "Outcome", name: str, index: Path, order: int, unusual: list[str]) -> Row:
    def link(file: Path | None) -> str | None:
        # A failed scan has no links: files of an earlier run are not results of this one.
        return pages.link(file, index.parent) if outcome.report is not None and file and file.is_file() else None

    job = outcome.job
    return Row(
        name,
        order,
        outcome.report,
        outcome.error,
        unusual,
        link(job.outputs.page),
        link(job.outputs.thumbnail),
    )


def _bars(rows: Sequence[Row]) -> tuple[list[Bar], float]:
    """The bars of the scans with a known lesion volume, in ascending order; and the chart's upper end in ml."""
    order = sorted((row for row in rows if row.lesion_ml is not None), key=lambda row: (row.lesion_ml, row.order))
    highest = _round_up(max((row.lesion_ml or 0.0 for row in order), default=0.0))
    return [
        Bar(row, 10 * position, round(max(100 * (row.lesion_ml or 0.0) / highest, _LOWEST_BAR), 2))
        for position, row in enumerate(order)
    ], highest


def _round_up(value: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below ``value``."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _number(value: object) -> float | None:
    """A finite number; None for any other value."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _column(values: Any) -> np.ndarray:
    """Values as an array, with NaN for values that are not finite numbers."""
    return np.array([np.nan if (number := _number(value)) is None else number for value in values], float)
