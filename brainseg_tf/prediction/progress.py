"""Keeps the table and the index page of a batch up to date while it runs."""

import json
import math
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputWarning, LockedError
from brainseg_tf.prediction import cohort_tables, results_table
from brainseg_tf.prediction.batch import SUMMARY, Batch
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs

# The keys of a report that the index page shows.
_IN_INDEX = ("lesion_ml", "components", "brain", "warnings", "model")
# Shortest time between two updates of the index page, and largest share of the time that the updates of a file take.
_INDEX_SECONDS, _UPDATE_SHARE = 5.0, 0.05
# An update of the table that takes less time follows each scan, whatever its share.
_QUICK_SECONDS = 0.1


class _Pace:
    """Decides when a file is written again: its size grows with the number of scans, and so does the time for it.

    Args:
        least_seconds: shortest time between two updates.
        quick_seconds: an update that takes less is not delayed.
    """

    def __init__(self, least_seconds: float, quick_seconds: float) -> None:
        self._least, self._quick = least_seconds, quick_seconds
        self._started, self._seconds = -math.inf, 0.0

    def is_due(self) -> bool:
        """Whether enough time has passed for updates to take a small share of the time."""
        wait = self._seconds / _UPDATE_SHARE if self._seconds > self._quick else 0.0
        return time.perf_counter() - self._started >= max(self._least, wait)

    def start(self) -> None:
        """An update begins."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """The update has ended."""
        self._seconds = time.perf_counter() - self._started


class Progress:
    """Updates the table and the index page while a batch runs, and counts the finished scans.

    Args:
        out: the folder for results.
        batch: the batch.
        index: the index page; None for none.
    """

    def __init__(self, out: Path, batch: Batch, index: Path | None) -> None:
        self._table, self._index = out / SUMMARY, index
        self._total = len(batch.jobs) + len(batch.failed)
        self._outcomes: list[Outcome] = []
        self._order = {job.outputs.mask: number for number, job in enumerate(batch.jobs)}
        self._start = time.perf_counter()
        self._segmented = 0
        self._table_pace, self._index_pace = _Pace(0.0, _QUICK_SECONDS), _Pace(_INDEX_SECONDS, 0.0)
        self._pending = [results_table.row(file, "left out", error=reason) for file, reason in batch.left_out]
        self._write_rows()
        # The page of the first scan links to the index, so it must exist before.
        if self._total:
            self.write_index()

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of this run so far; their reports have only what the index page shows."""
        return self._outcomes

    def add(self, outcome: Outcome) -> None:
        """Adds an outcome to the table and to the index page, unless these were updated a moment ago."""
        self._outcomes.append(replace(outcome, report=_for_index(outcome.report)))
        self._segmented += not outcome.kept
        if not outcome.refused:
            self._pending.append(outcome.row)
        if self._table_pace.is_due():
            self._write_rows()
        if self._index_pace.is_due():
            self.write_index()

    def write_index(self) -> None:
        """Writes the index page, if there is one, with the scans of this run and of other runs in the same folder."""
        if self._index is None:
            return
        from brainseg_tf.prediction.pages.index import write_index

        self._write_rows()
        self._index_pace.start()
        in_run = [(outcome.job.scan, outcome.job.outputs.mask) for outcome in self._outcomes]
        others = results_table.of_other_scans(results_table.read(self._table), in_run, self._table.parent)
        known = [outcome for row in others if (outcome := _outcome_of(row, self._table.parent)) is not None]
        ours = sorted(self._outcomes, key=lambda one: self._order.get(one.job.outputs.mask, -1))
        write_index(self._index, [*ours, *known], total=self._total + len(known))
        self._index_pace.stop()

    def _write_rows(self) -> None:
        """Writes the rows that are not yet in the table; they stay for the next time if another run keeps it locked."""
        if not self._pending:
            return
        self._table_pace.start()
        with suppress(LockedError):
            results_table.update(self._table, self._pending)
            self._pending = []
        self._table_pace.stop()

    def finish(self) -> None:
        """Writes the index page, and the tables of all scans in the folder.

        If other runs keep the tables locked, there is a warning: what is in them follows from the reports.
        """
        self._write_rows()
        self.write_index()
        locked = [self._table.name] if self._pending else []
        try:
            cohort_tables.write(self._table.parent)
        except LockedError:
            locked.append(cohort_tables.VOLUMES)
        if locked:
            text = f"{self._table.parent}: other runs keep {' and '.join(locked)} locked; --continue adds the rows"
            warnings.warn(InputWarning(text), stacklevel=2)

    def __str__(self) -> str:
        """The numbers of finished and of all scans, for instance ``3/14``."""
        return f"{len(self._outcomes)}/{self._total}"

    @property
    def time_left(self) -> str:
        """An estimate such as ``about 2 min left``; empty before the first scan is segmented and after the last."""
        left = self._total - len(self._outcomes)
        if not left or not self._segmented:
            return ""
        seconds = (time.perf_counter() - self._start) / self._segmented * left
        minutes = round(seconds / 60)
        return f"about {minutes} min left" if minutes > 1 else f"about {max(1, round(seconds))} s left"


def _outcome_of(row: results_table.Row, out: Path) -> Outcome | None:
    """The outcome in a row of another run; None for a file that was left out or if its report cannot be read."""
    scan, file = Path(row["scan"]), results_table.located(row["report"], out)
    if row["status"] == "failed":
        return Outcome(Job(scan, Outputs(Path(row["mask"]))), error=row["error"])
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        paths = {name: results_table.located(path, out) for name, path in report["outputs"].items()}
        return Outcome(Job(scan, Outputs.of(paths)), _for_index(report), kept=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _for_index(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the index page needs of a report: reports of thousands of scans would fill the memory."""
    return None if report is None else {name: report[name] for name in _IN_INDEX if name in report}
