"""The index page of many scans: failures first, then what is unlike the others, then the rest."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainseg_tf import __version__, figures, pages
from brainseg_tf.batch import Outcome

# An outlier lies this many robust standard deviations from the median (Iglewicz and Hoaglin 1993), of at least so many.
_FAR, _FEWEST = 3.5, 8


@dataclass(frozen=True)
class Row:
    """A scan in the index.

    Attributes:
        name: the scan's.
        report: of ``Predictor.run``, None after a failure.
        error: one line, None unless it failed.
        odd: in what it is unlike the others.
        page, thumbnail: links, relative to the index.
    """

    name: str
    report: dict[str, Any] | None
    error: str | None
    odd: list[str]
    page: str | None
    thumbnail: str | None


def write_index(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes the index of what became of many scans.

    Args:
        path: HTML; it links each scan's page and thumbnail where they lie.
        outcomes: one per scan.

    Raises:
        InputError: the place cannot be written to.
    """
    done = [(one, one.report) for one in outcomes if one.report is not None]
    reports = [report for _, report in done]
    marks = outliers(reports)
    rows = [_row(one, path, []) for one in outcomes if one.report is None]
    told = [(odd, report["warnings"], _row(one, path, odd)) for (one, report), odd in zip(done, marks, strict=True)]
    rows += [row for odd, warnings, row in told if odd or warnings]
    rows += [row for odd, warnings, row in told if not odd and not warnings]
    figure = io.BytesIO()
    if done:
        figures.volumes([report["lesion_ml"] for report in reports], [bool(odd) for odd in marks], figure)
    pages.write(
        path,
        "index.html",
        rows=rows,
        failed=len(outcomes) - len(done),
        odd=sum(bool(odd) for odd in marks),
        empty=sum(not report["lesions"] for report in reports),
        model=reports[0]["model"] if reports else None,
        version=__version__,
        figure=base64.b64encode(figure.getvalue()).decode("ascii"),
    )


def outliers(reports: Sequence[dict[str, Any]]) -> list[list[str]]:
    """In what each scan is unlike the others: lesion volume, intensity scale, the lesion's share of the brain.

    Held against median and median absolute deviation, in logarithms; nothing is, among fewer than 8 scans.
    """
    marks: list[list[str]] = [[] for _ in reports]
    if len(reports) < _FEWEST:
        return marks
    numbers = {
        "lesion volume": np.array([one["lesion_ml"] + 1 for one in reports]),
        "intensity scale": np.array([abs(one["brain"]["median_intensity"]) for one in reports]),
        "brain volume": np.array([one["brain"]["ml"] for one in reports]),
        "share of brain": np.array([one["lesion_ml"] / one["brain"]["ml"] for one in reports]) + 1e-3,
    }
    for name, values in numbers.items():
        logs = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        off = np.abs(logs - np.median(logs))
        # At least 5 %: scans that are all but equal are no outliers of one another.
        scale = max(1.4826 * float(np.median(off)), 0.05)
        for mark, far in zip(marks, off / scale > _FAR, strict=True):
            if far:
                mark.append(name)
    return marks


def _row(outcome: Outcome, index: Path, odd: list[str]) -> Row:
    def link(file: Path | None) -> str | None:
        return Path(os.path.relpath(file, index.parent)).as_posix() if file and file.is_file() else None

    job = outcome.job
    return Row(job.scan.name, outcome.report, outcome.error, odd, link(job.page), link(job.thumbnail))
