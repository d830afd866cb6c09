"""A model behind a server. To ``segmentation`` it is the same as a model on this machine."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import Protocol, TypeVar

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.model_card import ModelCard
from brainseg_tf.reconstruction import Reconstruction, joined
from brainseg_tf.serving.endpoint import MESSAGE_BYTES, Endpoint, RetryableError, excerpt, wrong_shape
from brainseg_tf.serving.identity import TRAINING, differences

_SLICES_PER_REQUEST, _REQUESTS_IN_FLIGHT = 16, 4
# Seconds between tries. A server that never answered is given up soon; one that did has time to restart.
_FIRST_DELAYS, _LATER_DELAYS = (0.5, 1.0), (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
# Delays are longer or shorter by this share, so that clients that were refused together do not return together.
_SPREAD = 0.5
# Characters of a model's option in a message.
_SHOWN = 60

Answer = TypeVar("Answer")


class Client(Protocol):
    """Sends one request. There is one for gRPC and one for REST."""

    def predict(self, signature: str, images: np.ndarray, outputs: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Asks for outputs of a signature, and waits for them for ``Endpoint.timeout`` seconds at most.

        Returns:
            The outputs that the server gave, unchecked: of any shape and type. Objects where the protocol has no types.

        Raises:
            RetryableError: another try may succeed.
            InputError: it cannot.
        """


def connect(endpoint: Endpoint, card: ModelCard) -> "RemoteModel":
    """Finds a served model and compares its description with the card.

    Takes at most twice the endpoint's timeout and four seconds.

    Raises:
        InputError: the endpoint cannot be used, nobody answers, there is no such model, or it is another one than the
            card's.
    """
    endpoint.check()
    client: Client
    if endpoint.address()[0].startswith("grpc"):
        from brainseg_tf.serving.grpc_client import GrpcClient

        client = GrpcClient(endpoint)
    else:
        from brainseg_tf.serving.rest_client import RestClient

        client = RestClient(endpoint)
    blank = np.zeros((1, 16, 16, len(card.modalities)), np.float32)
    answer = _retried(lambda: client.predict("describe", blank, ["card"]), _FIRST_DELAYS, endpoint.timeout, Event())
    try:
        found = differences(_description(answer), card)
    except ValueError as error:
        raise InputError(
            f"{endpoint}: gave no description of its model ({error}); serve what brainseg-tf export wrote"
        ) from error
    if found:
        # Models of two kinds come from two runs as well, and the kind says more.
        kind = [
            f"its {excerpt(name, _SHOWN)} is {excerpt(theirs, _SHOWN)}, that of {card.name} is {excerpt(ours, _SHOWN)}"
            for name, theirs, ours in found
            if name != TRAINING
        ]
        what = ", ".join(kind[:4]) or f"it is of the same kind as {card.name}, but of another training run"
        raise InputError(f"{endpoint}: {what}; give the served model's own card with --model")
    return RemoteModel(endpoint, card, client)


class RemoteModel:
    """A served model.

    Args:
        endpoint: where it is served.
        card: of the model.
        client: sends the requests.
    """

    def __init__(self, endpoint: Endpoint, card: ModelCard, client: Client) -> None:
        self._endpoint, self._client = endpoint, client
        self._outputs = ["reconstruction", *(["probability"] if "probability" in card.healthy_levels else [])]

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """Sends slices (N, H, W, C), several requests at once, each with as many slices as its answer can hold.

        A request that fails in a way that may pass is sent again. A request and its repetitions take at most twice the
        endpoint's timeout and 47 seconds: a server that hangs costs two timeouts, not seven. After the first request
        that failed for good no other is sent; those under way are waited for, one timeout at most.

        Raises:
            InputError: the server does not answer, refuses, or answers with something else than a reconstruction.
        """
        largest = MESSAGE_BYTES // (images[0].nbytes + images[0, ..., 0].nbytes)
        size = max(1, min(_SLICES_PER_REQUEST, largest))
        stop = Event()
        pool = ThreadPoolExecutor(_REQUESTS_IN_FLIGHT)
        try:
            answers = [
                pool.submit(self._ask, images[start : start + size], stop) for start in range(0, len(images), size)
            ]
            # Results in order would wait for all before a failure; the others end early once one has failed.
            for answer in wait(answers, return_when=FIRST_EXCEPTION).done:
                answer.result()
            return joined([answer.result() for answer in answers])
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def _ask(self, images: np.ndarray, stop: Event) -> Mapping[str, np.ndarray]:
        answer = _retried(
            lambda: self._client.predict("serving_default", images, self._outputs),
            _LATER_DELAYS,
            self._endpoint.timeout,
            stop,
        )
        shapes = {"reconstruction": images.shape, "probability": images.shape[:3]}
        return {name: self._checked(answer, name, shapes[name], images.shape) for name in self._outputs}

    def _checked(
        self, answer: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], images: tuple[int, ...]
    ) -> np.ndarray:
        """An output as float32."""
        if name not in answer:
            raise InputError(f"{self._endpoint}: gives no {name}; export the model anew with brainseg-tf export")
        values = answer[name]
        wrong = _wrong_type(values)
        if wrong is not None:
            raise InputError(f"{self._endpoint}: gave {name} with {wrong} in it; serve what brainseg-tf export wrote")
        if values.shape != shape:
            raise wrong_shape(self._endpoint, name, values.shape, images)
        try:
            with np.errstate(over="ignore"):
                numbers = values.astype(np.float64).astype(np.float32)
        except OverflowError:
            # A whole number of JSON can be larger than any float.
            numbers = np.full(shape, np.inf, np.float32)
        if not np.isfinite(numbers).all():
            raise InputError(
                f"{self._endpoint}: gave {name} with NaN or infinity in it, or numbers beyond float32; check the "
                "served model"
            )
        return numbers


def _wrong_type(values: np.ndarray) -> str | None:
    """What stands in the place of numbers, in words; None if there are only numbers."""
    if values.dtype != object:
        return None if values.dtype.kind in "fiu" else f"values of type {values.dtype}"
    others = set(map(type, values.ravel())) - {int, float}
    if not others:
        return None
    if list in others:
        return "rows of different lengths"
    return f"JSON values other than numbers ({', '.join(sorted(one.__name__ for one in others))})"


def _description(answer: Mapping[str, np.ndarray]) -> str:
    """The text that ``describe`` answers with.

    Raises:
        ValueError: there is none.
    """
    values = answer["card"].ravel() if "card" in answer else np.empty(0)
    if not values.size:
        raise ValueError("it is missing")
    first = values[0]
    try:
        text = first.decode() if isinstance(first, bytes) else first
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    if not isinstance(text, str):
        raise ValueError("it is not a text")
    return text


def _retried(ask: Callable[[], Answer], delays: Sequence[float], timeout: float, stop: Event) -> Answer:
    """Asks, and asks again after each delay (seconds) as long as the failure may pass.

    No try begins later than ``timeout`` and all delays after the first one, plus one delay. Failures that come at once
    leave time for all tries; those that take the whole timeout leave time for two.

    Args:
        ask: one try, which takes at most ``timeout`` seconds.
        delays: between the tries.
        timeout: of one try.
        stop: no other try begins once it is set.

    Raises:
        InputError: the last try failed, or one failed for good.
    """
    longest = 1 + _SPREAD
    last_start = time.monotonic() + timeout + longest * sum(delays)
    for delay in (*delays, None):
        try:
            return ask()
        except RetryableError as error:
            if delay is None or time.monotonic() >= last_start or stop.wait(delay * random.uniform(0.5, longest)):
                raise InputError(str(error)) from error
    raise AssertionError("the last try returns or raises")
