"""Runs the jobs of a batch in parallel, or keeps the results of an earlier run."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from brainseg_tf.errors import InputError
from brainseg_tf.files import check_writable, exists, printable
from brainseg_tf.prediction.earlier import earlier_report, has_result, is_complete, not_in, same_inputs
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
        report = earlier_report(job) if proceed else None
        if report:
            if missing := next((path for path in job.inputs if not exists(path)), None):
                return Outcome(job, error=f"{missing}: no such file; restore it", refused=True)
            same_files = same_inputs(report.get("inputs"), job.inputs_record)
            if not (same_files and predictor.matches_report(report, job)):
                how = "by another version or model or with other options" if same_files else "from other files"
                return Outcome(
                    job,
                    error=f"{job.outputs.mask}: was written {how}; give --overwrite to segment all scans again, or "
                    "another --out-dir",
                    refused=True,
                )
            for path in not_in(report, job):
                check_writable(path)
            if is_complete(job):
                return Outcome(job, report, kept=True)
        return Outcome(job, predictor.run(job, overwrite=report is not None))
    except InputError as error:
        problem = str(error)
    except MemoryError:
        problem = f"{job.scan}: there is not enough memory; lower --workers, or give the process more memory"
    except Exception as error:
        # Unexpected errors of readers and libraries must not stop the other scans of a batch.
        text = printable(" ".join(str(error).split()))[:300]
        problem = (
            f"{job.scan}: failed unexpectedly ({type(error).__name__}: {text}); segment it separately with "
            "brainseg-tf --debug, and report the error"
        )
    # Whatever the problem is, a complete result of the earlier run stays, also in the tables.
    return Outcome(job, error=problem, refused=proceed and has_result(job))
