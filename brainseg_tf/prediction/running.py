"""Runs the jobs of a batch in parallel, or keeps the results of an earlier run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import check_name_length, check_writable, printable
from brainseg_tf.images.volume import is_whole
from brainseg_tf.prediction.jobs import Job, Outcome
from brainseg_tf.prediction.predictor import Predictor


def run_all(predictor: Predictor, jobs: Sequence[Job], *, workers: int = 2, proceed: bool = False) -> Iterator[Outcome]:
    """Runs jobs, several of them at the same time.

    While the network processes one scan, others are read, post-processed and written.

    Args:
        predictor: runs a job.
        jobs: the jobs.
        workers: number of scans that are processed at the same time.
        proceed: continue an earlier run: its complete results are kept, incomplete ones are replaced. Results of
            another version, of another model or with other options are errors, and so are files without a report,
            which are not results of an earlier run.

    Yields:
        The outcome of each job as soon as it is finished. If the caller stops early, the scans in progress are finished
        and no other is started.
    """
    pool = ThreadPoolExecutor(workers)
    finished: SimpleQueue[Future[Outcome]] = SimpleQueue()
    try:
        for job in jobs:
            pool.submit(attempt, predictor, job, proceed=proceed).add_done_callback(finished.put)
        for _ in jobs:
            yield finished.get().result()
    finally:
        pool.shutdown(cancel_futures=True)


def attempt(predictor: Predictor, job: Job, *, proceed: bool) -> Outcome:
    """Runs one job, or keeps the results of an earlier run.

    Exceptions are returned as the outcome of the scan, so that the other scans are still processed.

    Args:
        predictor: runs the job.
        job: the job.
        proceed: as for ``run_all``.
    """
    try:
        report = _earlier_report(job) if proceed else None
        if report:
            if missing := next((path for path in job.inputs if not path.exists()), None):
                return Outcome(job, error=f"{missing}: no such file; restore it", refused=True)
            same_inputs = _same_inputs(report.get("inputs"), job.inputs_record)
            if not (same_inputs and predictor.matches_report(report, job)):
                how = "by another version or model or with other options" if same_inputs else "from other files"
                return Outcome(
                    job,
                    error=f"{job.outputs.mask}: was written {how}; give --overwrite to segment all scans again, or "
                    "another --out-dir",
                    refused=True,
                )
            for path in _not_in(report, job):
                check_writable(path)
            if _is_complete(job):
                return Outcome(job, report, kept=True)
        return Outcome(job, predictor.run(job, overwrite=report is not None))
    except InputError as error:
        return Outcome(job, error=str(error))
    except MemoryError:
        return Outcome(
            job, error=f"{job.scan}: there is not enough memory; lower --workers, or give the process more memory"
        )
    except Exception as error:
        # Unexpected errors of readers and libraries must not stop the other scans of a batch.
        text = printable(" ".join(str(error).split()))[:300]
        return Outcome(
            job,
            error=f"{job.scan}: failed unexpectedly ({type(error).__name__}: {text}); segment it separately with "
            "brainseg-tf --debug, and report the error",
        )


def _same_inputs(recorded: Any, now: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an earlier result is of these files, as far as its version has recorded them."""
    if not isinstance(recorded, dict) or recorded.keys() != now.keys():
        return False
    return all(
        isinstance(one, dict) and all(one[name] == value for name, value in now[role].items() if name in one)
        for role, one in recorded.items()
    )


def _earlier_report(job: Job) -> dict[str, Any] | None:
    """The report of an earlier run; empty if a power failure has damaged it, None if there is none.

    The report is the first output that gets its name, so without it no other file is of an earlier run.

    Raises:
        InputError: the file cannot be read.
    """
    file = job.outputs.report
    if file is None:
        return None
    check_name_length(file)
    if not file.exists():
        return None
    try:
        content = file.read_bytes()
        report = json.loads(content)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    except ValueError:
        return {} if content.startswith(b"{") or not content.strip(b"\0") else None
    return report if isinstance(report, dict) and "brainseg_tf" in report else None


def _not_in(report: Mapping[str, Any], job: Job) -> list[Path]:
    """The outputs of a job that the earlier run has not written: if they exist, they are other files."""
    written = report.get("outputs")
    names = {Path(str(path)).name for path in written.values()} if isinstance(written, dict) else set()
    return [path for path in job.outputs.paths if path.name not in names]


def _is_complete(job: Job) -> bool:
    """Whether all outputs exist, and the mask is not damaged."""
    possible = () if job.dicom_required else ("dicom", "rtstruct")
    required = [path for name, path in job.outputs.named.items() if name not in possible]
    return all(path.is_file() for path in required) and is_whole(job.outputs.mask)
