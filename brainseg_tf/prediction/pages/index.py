"""The index page of many scans: failures first, then what is unlike the others, then the rest."""

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

# An outlier lies this many robust standard deviations from the median (Iglewicz and Hoaglin 1993), of at least so many.
_FAR, _FEWEST = 3.5, 8
# Height, in percent of the chart, of the bar of an empty mask: a bar that cannot be seen could not be clicked.
_LOWEST_BAR = 1.0


@dataclass(frozen=True)
class Row:
    """A scan in the index.

    Attributes:
        name: the scan's.
        order: its place among the jobs, from 0.
        report: of ``Predictor.run``, None after a failure.
        error: one line, None unless it failed.
        odd: in what it is unlike the others.
        page, thumbnail: URLs, relative to the index; None if there is no such file.
    """

    name: str
    order: int
    report: Mapping[str, Any] | None
    error: str | None
    odd: list[str]
    page: str | None
    thumbnail: str | None

    @property
    def lesion_ml(self) -> float | None:
        """Volume of all lesions."""
        return None if self.report is None else _number(self.report.get("lesion_ml"))

    @property
    def lesions(self) -> int | None:
        """Their number."""
        count = None if self.report is None else _number(self.report.get("components"))
        return None if count is None else int(count)

    @property
    def brain_ml(self) -> float | None:
        """Volume of the brain."""
        return None if self.report is None else _number((self.report.get("brain") or {}).get("ml"))

    @property
    def warnings(self) -> list[str]:
        """Sentences."""
        told = [] if self.report is None else self.report.get("warnings", [])
        return [str(one) for one in told] if isinstance(told, list) else []


@dataclass(frozen=True)
class Bar:
    """A bar of the chart.

    Attributes:
        row: its scan.
        left: of 10 units a bar.
        height: percent of the chart.
    """

    row: Row
    left: int
    height: float


def write_index(path: Path, outcomes: Sequence["Outcome"], total: int | None = None) -> None:
    """Writes the index of what became of many scans; also, again and again, while they run.

    Args:
        path: HTML; it links each scan's page and thumbnail where they lie.
        outcomes: one per scan that is finished, in the order of the jobs.
        total: the number of scans once all are finished; None: these are all.

    Raises:
        InputError: the place cannot be written to.
    """
    reports = [one.report for one in outcomes if one.report is not None]
    marks = iter(outliers(reports))
    rows = [_row(one, path, order, next(marks) if one.report is not None else []) for order, one in enumerate(outcomes)]
    failed = [row for row in rows if row.report is None]
    notable = [row for row in rows if row.report is not None and (row.odd or row.warnings)]
    usual = [row for row in rows if row.report is not None and not (row.odd or row.warnings)]
    bars, highest = _bars([*notable, *usual])
    model = next((report["model"] for report in reports if report.get("model")), None)
    pages.write(
        path,
        "index.html",
        [pages.script("index.js")],
        rows=[*failed, *notable, *usual],
        total=max(total or 0, len(rows)),
        failed=len(failed),
        odd=sum(bool(row.odd) for row in rows),
        empty=sum(row.lesions == 0 for row in rows),
        model=model,
        version=__version__,
        bars=bars,
        highest=highest,
    )


def outliers(reports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """In what each scan is unlike the others: lesion volume, intensity scale, the lesion's share of the brain.

    Held against median and median absolute deviation, in logarithms; nothing is, among fewer than 8 scans. What a
    report lacks is not compared.
    """
    marks: list[list[str]] = [[] for _ in reports]
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
        if known.sum() < _FEWEST:
            continue
        logs = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        off = np.abs(logs - np.median(logs[known]))
        # At least 5 %: scans that are all but equal are no outliers of one another.
        scale = max(1.4826 * float(np.median(off[known])), 0.05)
        for mark, far in zip(marks, known & (off > _FAR * scale), strict=True):
            if far:
                mark.append(name)
    return marks


def _row(outcome: "Outcome", index: Path, order: int, odd: list[str]) -> Row:
    def link(file: Path | None) -> str | None:
        # What an earlier run left of a scan that failed now is not this run's.
        return pages.link(file, index.parent) if outcome.report is not None and file and file.is_file() else None

    job = outcome.job
    return Row(
        job.scan.name, order, outcome.report, outcome.error, odd, link(job.outputs.page), link(job.outputs.thumbnail)
    )


def _bars(rows: Sequence[Row]) -> tuple[list[Bar], float]:
    """A bar for each scan of known volume, smallest first; and the volume at the top of the chart, in ml."""
    order = sorted((row for row in rows if row.lesion_ml is not None), key=lambda row: (row.lesion_ml, row.order))
    highest = _round_up(max((row.lesion_ml or 0.0 for row in order), default=0.0))
    return [
        Bar(row, 10 * place, round(max(100 * (row.lesion_ml or 0.0) / highest, _LOWEST_BAR), 2))
        for place, row in enumerate(order)
    ], highest


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, ... that is not below ``value``."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _column(values: Any) -> np.ndarray:
    """Numbers, NaN where there is none."""
    return np.array([np.nan if (number := _number(value)) is None else number for value in values], float)
