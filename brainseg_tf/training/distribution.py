"""Training on several devices or hosts: each has patients of its own, all take every step together.

Keras' ``fit`` does not work on several hosts (keras issue 20585), so the loop stands here; the step is the model's own
``learn``, which ``train_step`` takes as well. The hosts share the run's folder and the cache.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from brainseg_tf.errors import InputError
from brainseg_tf.keras_backend import keras
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.options import FitOptions, Strategy
from brainseg_tf.training.pipeline import CachedSlices, batches, ordered_batches
from brainseg_tf.training.tf_config import check_tf_config


class Distribution:
    """This process' place among all that train together.

    Made before TensorFlow does anything else; with several hosts it waits until all are there.

    Args:
        kind: ``mirrored``, all GPUs of this host (or its CPU); ``multi-worker``, those of all hosts in TF_CONFIG.

    Raises:
        InputError: TF_CONFIG does not name this host's place, or its port cannot be opened.
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
        """Whether this process writes what the run leaves."""
        return self.worker == 0

    def describe(self) -> str:
        """A line for the user."""
        return f"{self.workers} worker(s), {self.replicas} device(s); this is worker {self.worker}"

    def check_batch(self, batch: int) -> None:
        """Refuses a batch that cannot be divided among the devices.

        Raises:
            InputError: that is so.
        """
        if batch % self.replicas:
            near = max(1, round(batch / self.replicas)) * self.replicas
            raise InputError(f"a batch of {batch} cannot be divided among {self.replicas} devices; give --batch {near}")

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """Every ``workers``-th item, from this worker's number on."""
        return items[self.worker :: self.workers]

    def total(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Sums over all workers of the numbers that each gives; all wait here for each other."""
        mine = tf.constant(values, tf.float64) / self._local_replicas
        with _all_there():
            return self._here(self._add(mine)).numpy()

    def barrier(self) -> None:
        """Waits until all workers are here."""
        self.total([0])

    def fit(
        self,
        model: ContextModel,
        training: Sequence[CachedSlices],
        validation: Sequence[CachedSlices],
        options: FitOptions,
        *,
        first: int,
        callbacks: Sequence[keras.callbacks.Callback],
        verbose: int,
    ) -> None:
        """What ``model.fit`` does, from epoch ``first`` on, for a model made and compiled in the strategy's scope.

        Args:
            training, validation: of all workers; this one takes its part.

        Raises:
            InputError: another worker is gone, or resumes after another epoch.
        """
        if not np.array_equal(self.total([first, first**2]), [self.workers * first, self.workers * first**2]):
            raise InputError("the workers resume after different epochs; --out must be a folder that all of them share")
        steps = steps_in_epoch(training, options.batch, self.workers)
        each = options.batch // self.replicas
        parts = batches(
            patients_of(training, self.workers)[self.worker],
            each,
            options.seed,
            first_epoch=first,
            epochs=options.epochs,
            count=steps * self._local_replicas * each,
            worker=self.worker,
            workers=self.workers,
        )
        elements = iter(self.strategy.distribute_datasets_from_function(lambda context: parts))
        tested = self.share(validation)
        names = model.loss_names

        @tf.function
        def learn(data: Any) -> tf.Tensor:
            def on_replica(data: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
                losses = model.training_losses(data)
                return tf.distribute.get_replica_context().all_reduce(
                    tf.distribute.ReduceOp.MEAN, tf.stack([losses[name] for name in names])
                )

            return self.strategy.run(on_replica, args=(data,))

        @tf.function(reduce_retracing=True)
        def measure(data: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
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
        for epoch in range(first, options.epochs):
            progress.on_epoch_begin(epoch)
            seen = np.zeros(len(names))
            for number in range(steps):
                progress.on_train_batch_begin(number)
                with _all_there():
                    seen += self._here(learn(next(elements))).numpy()
                progress.on_train_batch_end(number, named(seen / (number + 1)))
            sums = np.zeros(len(names) + 1)
            for data in ordered_batches(tested, options.batch) if tested else ():
                count = len(data[0])
                sums += [*(measure(data).numpy() * count), count]
            of_all = self.total(sums)
            progress.on_epoch_end(epoch, named(seen / steps) | named(of_all[:-1] / of_all[-1], "val_"))
            if model.stop_training:
                break
        progress.on_train_end()

    @property
    def _local_replicas(self) -> int:
        return self.replicas // self.workers

    def _here(self, values: Any) -> tf.Tensor:
        """The first of this process' devices' values."""
        return self.strategy.experimental_local_results(values)[0]


def patients_of(cached: Sequence[CachedSlices], workers: int) -> list[list[CachedSlices]]:
    """Divides patients among workers so that each gets about as many slices; the same on every worker.

    Raises:
        InputError: fewer patients than workers.
    """
    if len(cached) < workers:
        raise InputError(f"{len(cached)} training patients cannot be divided among {workers} workers; use fewer")
    parts: list[list[CachedSlices]] = [[] for _ in range(workers)]
    for slices in sorted(cached, key=lambda one: (-one.healthy, one.patient)):
        min(parts, key=_slices).append(slices)
    return parts


def steps_in_epoch(training: Sequence[CachedSlices], batch: int, workers: int = 1) -> int:
    """Steps that show every slice of the worker with most slices, ``batch / workers`` at a time."""
    return max(-(-_slices(part) * workers // batch) for part in patients_of(training, workers))


def _slices(cached: Sequence[CachedSlices]) -> int:
    return sum(slices.healthy for slices in cached)


def _sum(values: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))


@contextmanager
def _all_there() -> Iterator[None]:
    """Turns the loss of another worker into one line."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError) as error:
        raise InputError(
            "another worker is gone; start all workers again with --resume, at most the epoch that was under way is "
            f"repeated ({_first_line(error)})"
        ) from None


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).splitlines()[0].split("}} ")[-1][:200]
