"""Segmentation of many scans on a Dask cluster."""

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.files import check_writable
from brainseg_tf.options import PredictOptions
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.pages import Navigation
from brainseg_tf.prediction.predictor import Predictor
from brainseg_tf.prediction.running import attempt
from brainseg_tf.saved_model import find, shipped_brain_network

if TYPE_CHECKING:
    from distributed import Client, Future

# Longest time in seconds to wait for an answer of the scheduler.
_TIMEOUT = 10


def run_on_cluster(
    address: str,
    model: str,
    options: PredictOptions,
    jobs: Sequence[Job],
    *,
    proceed: bool = False,
) -> Iterator[Outcome]:
    """Runs jobs on a Dask cluster. The workers must have access to the same files under the same names.

    Args:
        address: of the scheduler, for instance ``tcp://host:8786``.
        model: name, folder or URL of the model, see ``saved_model.find``; each worker loads it once. Use
            ``ModelFolder.reference``, which is the same on all workers.
        options: how scans are segmented.
        jobs: the jobs.
        proceed: as for ``running.run_all``.

    Yields:
        The outcome of each job as soon as it is finished. If a worker dies, another worker repeats its jobs.

    Raises:
        InputError: Dask is not installed, no scheduler answers or it stops answering, or it has no worker or a worker
            with another version of brainseg-tf.
    """
    if importlib.util.find_spec("distributed") is None:
        raise InputError("--scheduler: Dask is not installed; pip install 'brainseg-tf[dask]'")
    from distributed import Client, as_completed
    from distributed.scheduler import KilledWorker

    try:
        client = Client(address, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers at this address; check the address and that the scheduler runs"
        ) from error
    with client:
        _check_workers(client, address)
        running: dict[Future[Any], Job] = {}
        refused: list[Outcome] = []
        for job in jobs:
            # Existing outputs are refused here. If they exist when the job runs on a worker, they are the results of a
            # worker that died, and are kept.
            if failure := None if options.overwrite or proceed else _existing_outputs(job):
                refused.append(failure)
            else:
                running[client.submit(_run, _absolute(job), model, options, pure=False)] = job
        # Its messages about a lost connection have tracebacks; the error below says what to do.
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield from refused
            for future in as_completed(list(running), loop=client.loop):
                # Results are released as soon as they are here, so that neither workers nor client keep all of them.
                job = running.pop(future)
                try:
                    yield replace(future.result(), job=job)
                except KilledWorker:
                    yield Outcome(
                        job, error=f"{job.scan}: all workers that processed it died; give the workers more memory"
                    )
                except (CancelledError, OSError) as error:  # The second class has errors of the connection.
                    running.clear()
                    raise InputError(
                        f"{address}: the connection to the scheduler was lost; start it again, and continue with "
                        "--continue"
                    ) from error
                del future
        finally:
            client.cancel(list(running))


def _existing_outputs(job: Job) -> Outcome | None:
    """A failure if an output of a job exists or cannot be written, else None."""
    try:
        for path in job.outputs.paths:
            check_writable(path)
    except InputError as error:
        return Outcome(job, error=str(error))
    return None


def _absolute(job: Job) -> Job:
    """The job with absolute paths, because workers have other working folders."""
    outputs = Outputs.of({name: path.resolve() for name, path in job.outputs.named.items()})
    # Links are kept: their names say what they are, and those of the files in an annex do not.
    paths: dict[str, Any] = {name: path.absolute() for name, path in vars(job).items() if isinstance(path, Path)}
    paths["modalities"] = {name: path.absolute() for name, path in job.modalities.items()}
    if job.navigation:
        index, previous, after = job.navigation.index, job.navigation.previous, job.navigation.next
        paths["navigation"] = Navigation(index.resolve(), previous and previous.resolve(), after and after.resolve())
    return replace(job, outputs=outputs, **paths)


def _check_workers(client: "Client", address: str) -> None:
    """Checks that there are workers and that all have this version of brainseg-tf.

    Raises:
        InputError: there is no worker, or a worker has another version.
    """
    answers = client.run(_version, on_error="return")
    if not answers:
        raise InputError(f"{address}: the scheduler has no worker; start one with: dask worker {address}")
    for worker, answer in answers.items():
        if answer != __version__:
            found = f"brainseg-tf {answer}" if isinstance(answer, str) else "no brainseg-tf"
            raise InputError(
                f"{address}: worker {worker} has {found}, but this is version {__version__}; install the same version"
            )


def _version() -> str:
    return __version__


def _run(job: Job, model: str, options: PredictOptions) -> Outcome:
    """Runs a job; called on a worker."""
    return attempt(_predictor(model, options), job, proceed=not options.overwrite)


@cache
def _predictor(model: str, options: PredictOptions) -> Predictor:
    """The predictor of a worker, with one model for all jobs. The network uses as many threads as the worker has."""
    from distributed import get_worker

    from brainseg_tf.resources import Runtime, choose_engine, limit_threads

    threads = get_worker().state.nthreads
    found, brain = find(model), shipped_brain_network()
    runtime = Runtime(choose_engine(options.engine), threads)
    limit_threads(threads if runtime.engine == "tensorflow" else None)
    return Predictor(found.card, partial(found.load, runtime), options, load_brain=partial(brain.load, runtime))
