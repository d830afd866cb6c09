"""Loads the networks in other threads, while the first scan is read and resampled."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from brainseg_tf.reconstruction import Reconstruction, Reconstructor

Loaded = TypeVar("Loaded")


class Loading(Generic[Loaded]):
    """Loads a network in another thread, once; if loading failed, the next scan tries again."""

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._future: Future[Loaded] | None = None
        self._lock = Lock()

    def start(self) -> Future[Loaded]:
        """Starts loading unless that was done before."""
        with self._lock:
            if self._future is None or (self._future.done() and self._future.exception()):
                pool = ThreadPoolExecutor(1)
                self._future = pool.submit(self._load)
                pool.shutdown(wait=False)
        return self._future


class Lazy(Generic[Loaded]):
    """A network that is being loaded in another thread.

    Attributes:
        waited: seconds that were spent in waiting for it.
    """

    def __init__(self, loading: Loading[Loaded]) -> None:
        self._future = loading.start()
        self.waited = 0.0

    def check(self) -> None:
        """Raises the exception with which loading failed, if it did."""
        if self._future.done():
            self._future.result()

    def wait(self) -> Loaded:
        """The network as soon as it is loaded."""
        start = time.perf_counter()
        loaded = self._future.result()
        self.waited += time.perf_counter() - start
        return loaded


class LazyModel(Lazy[Reconstructor]):
    """A lesion model that is being loaded; ``reconstruct`` waits for it."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """Reconstructs slices as soon as the model is loaded."""
        return self.wait().reconstruct(images)
