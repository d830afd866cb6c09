"""Many scans on a Dask cluster: the same jobs, each on whichever worker is free."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.files import check_writable
from brainseg_tf.options import PredictOptions
from brainseg_tf.prediction.batch import attempt
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.pages import Navigation
from brainseg_tf.prediction.predictor import Predictor
from brainseg_tf.saved_model import find

if TYPE_CHECKING:
    from distributed import Client

# Seconds that a scheduler may take to answer.
_PATIENCE = 10


def run_on_cluster(
    address: str,
    model: str,
    options: PredictOptions,
    jobs: Sequence[Job],
    *,
    proceed: bool = False,
) -> Iterator[Outcome]:
    """Runs jobs on a cluster, whose workers see the same files under the same names.

    Args:
        address: the scheduler's, ``tcp://host:8786``.
        model: what ``saved_model.find`` takes, the same on every worker (``ModelFolder.reference``); each worker loads
            it once.
        options: how scans are segmented.
        jobs: in the order that the outcomes come in.
        proceed: as in ``batch.run_all``.

    Yields:
        An outcome for each job. What a worker that died had under way is done by another.

    Raises:
        InputError: Dask is not installed, no scheduler answers, it has no worker, or one without this version of the
            package.
    """
    if importlib.util.find_spec("distributed") is None:
        raise InputError("--scheduler: Dask is not installed; pip install 'brainseg-tf[dask]'")
    from distributed import Client
    from distributed.scheduler import KilledWorker

    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"{address}: no Dask scheduler answers there; check the address and that it runs") from error
    with client:
        _check_workers(client, address)
        waiting = []
        for job in jobs:
            taken = None if options.overwrite or proceed else _taken(job)
            # A scan is done anew when its worker dies: what then stands at its outputs is its own, and is kept.
            send = (_run, _absolute(job), model, options)
            waiting.append((job, taken or client.submit(*send, pure=False)))
        try:
            for job, future in waiting:
                try:
                    yield replace(future if isinstance(future, Outcome) else future.result(), job=job)
                except KilledWorker:
                    yield Outcome(job, error=f"{job.scan}: every worker that took it died; give them more memory")
        finally:
            client.cancel([future for _, future in waiting if not isinstance(future, Outcome)])


def _taken(job: Job) -> Outcome | None:
    """A failure if an output exists."""
    try:
        for path in job.outputs.paths:
            check_writable(path)
    except InputError as error:
        return Outcome(job, error=str(error))
    return None


def _absolute(job: Job) -> Job:
    """The job as a worker in another folder needs it."""
    outputs = Outputs(**{name: path.resolve() for name, path in job.outputs.named.items()})
    places: dict[str, Any] = {name: path.resolve() for name, path in vars(job).items() if isinstance(path, Path)}
    if job.navigation:
        index, previous, after = job.navigation.index, job.navigation.previous, job.navigation.next
        places["navigation"] = Navigation(index.resolve(), previous and previous.resolve(), after and after.resolve())
    return replace(job, outputs=outputs, **places)


def _check_workers(client: "Client", address: str) -> None:
    """Refuses a cluster that would fail on its first scan."""
    answers = client.run(_version, on_error="return")
    if not answers:
        raise InputError(f"{address}: has no worker; start one with: dask worker {address}")
    for worker, answer in answers.items():
        if answer != __version__:
            found = f"version {answer}" if isinstance(answer, str) else "none"
            raise InputError(
                f"{address}: worker {worker} has {found} of brainseg-tf, here it is {__version__}; install the same"
            )


def _version() -> str:
    return __version__


def _run(job: Job, model: str, options: PredictOptions) -> Outcome:
    """One job, on a worker."""
    return attempt(_predictor(model, options), job, proceed=not options.overwrite)


@cache
def _predictor(model: str, options: PredictOptions) -> Predictor:
    """A worker's own, which loads the model once; TensorFlow gets the threads that the worker was given."""
    import tensorflow as tf
    from distributed import get_worker

    from brainseg_tf.resources import limit_threads

    threads = get_worker().state.nthreads
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    limit_threads()
    found = find(model)
    return Predictor(found.card, found.load, options)
