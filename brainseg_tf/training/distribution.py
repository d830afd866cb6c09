"""Synchronous training on several devices or hosts; each host trains on different patients.

Keras' ``fit`` does not work on several hosts (keras issue 20585), so this module has its own training loop. Its step is
``ContextModel.training_losses``, which ``train_step`` calls as well. The hosts share the run's folder and the cache.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from brainseg_tf.errors import InputError
from brainseg_tf.keras_backend import keras
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.options import FitOptions, Strategy
from brainseg_tf.training.pipeline import CachedSlices, Part, batches, ordered_batches
from brainseg_tf.training.tf_config import check_tf_config


class Distribution:
    """A distribution strategy, and the index of this process (worker) in it.

    It must be created before any other TensorFlow operation. With several hosts the constructor waits until all workers
    are connected.

    Args:
        kind: ``mirrored``: all GPUs of this host, or its CPU if it has none; ``multi-worker``: those of all hosts in
            TF_CONFIG.

    Attributes:
        worker, workers: index of this process, from 0; number of processes.
        strategy: TensorFlow's strategy.
        replicas: number of devices of all workers.

    Raises:
        InputError: TF_CONFIG does not contain this worker, or its port cannot be opened.
    """

    def __init__(self, kind: Strategy) -> None:
        self.worker, self.workers = 0, 1
        if kind == "multi-worker":
            check_tf_config()
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
            self.worker, self.workers = resolver.task_id, len(resolver.cluster_spec().job_tasks("worker"))
            try:
                self.strategy: tf.distribute.Strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
            except (tf.errors.UnknownError, tf.errors.DeadlineExceededError) as error:
                raise InputError(f"TF_CONFIG: this worker cannot join the others: {_first_line(error)}") from None
        else:
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            self.strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
        self.replicas = self.strategy.num_replicas_in_sync
        self._add = tf.function(lambda values: self.strategy.run(_sum, args=(values,)), reduce_retracing=True)

    @property
    def chief(self) -> bool:
        """Whether this process writes the run's files."""
        return self.worker == 0

    def describe(self) -> str:
        """A line for the user."""
        return f"{self.workers} worker(s), {self.replicas} device(s); this is worker {self.worker}"

    def check_batch(self, batch: int) -> None:
        """Checks that a batch can be divided among the devices.

        Raises:
            InputError: the batch size is not a multiple of the number of devices.
        """
        if batch % self.replicas:
            nearest = max(1, round(batch / self.replicas)) * self.replicas
            raise InputError(
                f"a batch of {batch} slices cannot be divided among {self.replicas} devices; give --batch {nearest}"
            )

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """The items of this worker: every ``workers``-th, starting at index ``worker``."""
        return items[self.worker :: self.workers]

    def total(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Sums values over all workers, element by element; waits until all workers have called it."""
        # The sum is over replicas, and each replica of this worker adds the same values.
        share = tf.constant(values, tf.float64) / self._local_replicas
        with _lost_worker_as_input_error():
            return self._first_local(self._add(share)).numpy()

    def barrier(self) -> None:
        """Waits until all workers have called it."""
        self.total([0])

    def fit(
        self,
        model: ContextModel,
        training: Sequence[CachedSlices],
        validation: Sequence[CachedSlices],
        options: FitOptions,
        *,
        epochs: range,
        steps: int,
        callbacks: Sequence[keras.callbacks.Callback],
        verbose: int,
    ) -> None:
        """Trains a model, as ``model.fit`` does; its parameters are those of ``model.fit`` that are used here.

        Args:
            model: created and compiled in the strategy's scope.
            training, validation: the slices of all workers; each worker uses its part of them.
            options: of the run.
            epochs: numbers of the epochs; those before are finished already.
            steps: in an epoch.
            callbacks, verbose: as in ``model.fit``.

        Raises:
            InputError: another worker has stopped, or resumes after a different epoch.
        """
        first = epochs.start
        if not np.array_equal(self.total([first, first**2]), [self.workers * first, self.workers * first**2]):
            raise InputError("the workers resume after different epochs; --out must be a folder that all of them share")
        batch_of_replica = options.batch // self.replicas
        dataset = batches(
            patients_of(training, self.workers)[self.worker],
            batch_of_replica,
            options.seed,
            first_epoch=first,
            epochs=epochs.stop,
            part=Part(steps * self._local_replicas * batch_of_replica, self.worker, self.workers),
            columns=options.columns,
        )
        elements = iter(self.strategy.distribute_datasets_from_function(lambda context: dataset))
        local_validation = self.share(validation)
        names = model.loss_names

        @tf.function
        def training_step(data: Any) -> tf.Tensor:
            def on_replica(data: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
                losses = model.training_losses(data)
                return tf.distribute.get_replica_context().all_reduce(
                    tf.distribute.ReduceOp.MEAN, tf.stack([losses[name] for name in names])
                )

            return self.strategy.run(on_replica, args=(data,))

        @tf.function(reduce_retracing=True)
        def validation_step(data: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            losses = model.validation_losses(data)
            return tf.stack([losses[name] for name in names])

        def named(values: np.ndarray, prefix: str = "") -> dict[str, float]:
            return {prefix + name: float(value) for name, value in zip(names, values, strict=True)}

        progress = keras.callbacks.CallbackList(
            list(callbacks),
            add_progbar=self.chief and verbose > 0,
            model=model,
            verbose=verbose,
            epochs=options.epochs,
            steps=steps,
        )
        progress.on_train_begin()
        for epoch in epochs:
            progress.on_epoch_begin(epoch)
            training_sums = np.zeros(len(names))
            for number in range(steps):
                progress.on_train_batch_begin(number)
                with _lost_worker_as_input_error():
                    training_sums += self._first_local(training_step(next(elements))).numpy()
                progress.on_train_batch_end(number, named(training_sums / (number + 1)))
            # Sums of the loss terms over the validation slices, then the number of these slices.
            sums = np.zeros(len(names) + 1)
            for data in self._validation_batches(local_validation, options):
                count = len(data[0])
                sums += [*(validation_step(data).numpy() * count), count]
            totals = self.total(sums)
            progress.on_epoch_end(epoch, named(training_sums / steps) | named(totals[:-1] / totals[-1], "val_"))
            if model.stop_training:
                break
        progress.on_train_end()

    def _validation_batches(self, validation: Sequence[CachedSlices], options: FitOptions) -> Iterable[Any]:
        """The batches of this worker; none if it has no validation slices."""
        if not validation:
            return ()
        most = -(-options.validation_examples // self.workers)
        return ordered_batches(validation, options.batch, most, options.columns)

    @property
    def _local_replicas(self) -> int:
        return self.replicas // self.workers

    def _first_local(self, values: Any) -> tf.Tensor:
        """The value on the first device of this process."""
        return self.strategy.experimental_local_results(values)[0]


def patients_of(cached: Sequence[CachedSlices], workers: int) -> list[list[CachedSlices]]:
    """Divides patients among workers so that each gets about the same number of slices.

    The result is the same on every worker.

    Raises:
        InputError: there are fewer patients than workers.
    """
    if len(cached) < workers:
        raise InputError(
            f"{len(cached)} training patients cannot be divided among {workers} workers; use fewer workers"
        )
    parts: list[list[CachedSlices]] = [[] for _ in range(workers)]
    for slices in sorted(cached, key=lambda one: (-len(one.rows), one.patient)):
        min(parts, key=_slices).append(slices)
    return parts


def steps_in_epoch(training: Sequence[CachedSlices], batch: int, workers: int = 1, examples: int = 0) -> int:
    """Number of steps in an epoch of ``examples`` slices.

    If it is 0, the worker with most slices uses each of them once, ``batch / workers`` slices per step.
    """
    if examples:
        return -(-examples // batch)
    return max(-(-_slices(part) * workers // batch) for part in patients_of(training, workers))


def _slices(cached: Sequence[CachedSlices]) -> int:
    return sum(len(slices.rows) for slices in cached)


def _sum(values: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))


@contextmanager
def _lost_worker_as_input_error() -> Iterator[None]:
    """Raises ``InputError`` instead of TensorFlow's errors about a lost worker."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError) as error:
        raise InputError(
            f"another worker has stopped ({_first_line(error)}); start all workers again with --resume, which repeats "
            "at most the interrupted epoch"
        ) from None


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).splitlines()[0].split("}} ")[-1][:200]
