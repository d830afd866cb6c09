"""A model on a server as a ``Reconstructor``, so that ``segmentation`` uses it like a local model."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import Protocol, TypeVar

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.model_card import BrainCard, ModelCard
from brainseg_tf.reconstruction import Reconstruction, joined
from brainseg_tf.serving.endpoint import (
    MESSAGE_BYTES,
    SERVE_EXPORTED,
    Endpoint,
    NotServedError,
    RetryableError,
    excerpt,
    wrong_shape,
)
from brainseg_tf.serving.identity import TRAINING, differences

_SLICES_PER_REQUEST, _REQUESTS_IN_FLIGHT = 16, 4
# Seconds between attempts: of the first request, and of later ones, which give the server time to restart.
_FIRST_DELAYS, _LATER_DELAYS = (0.5, 1.0), (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
# Delays vary at random by this share, so that clients whose requests failed together do not all retry together.
_JITTER = 0.5
# Largest number of characters of an option in a message.
_EXCERPT_CHARACTERS = 60

Response = TypeVar("Response")


class Client(Protocol):
    """Sends requests over a protocol, gRPC or REST."""

    def predict(self, signature: str, images: np.ndarray, outputs: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Sends one request, and waits at most ``Endpoint.timeout`` seconds for the response.

        Args:
            signature: name of the signature.
            images: (N, H, W, C) float32, or (1, x, y, z, 1) uint8 for a brain network.
            outputs: names of the requested outputs.

        Returns:
            Those of the requested outputs that the response contains. Their shape and type are not checked. The type is
            object if the protocol has no types.

        Raises:
            RetryableError: the request failed, but another attempt may succeed.
            InputError: the request failed, and another attempt would fail too.
        """


def connect(endpoint: Endpoint, card: ModelCard) -> "RemoteModel":
    """Connects to a served lesion model, see ``_client``."""
    black = np.zeros((1, 16, 16, len(card.modalities)), np.float32)
    return RemoteModel(endpoint, card, _client(endpoint, card, black, "give the served model with --model"))


def connect_brain_network(endpoint: Endpoint, card: BrainCard) -> "RemoteBrainNetwork | None":
    """Connects to a served brain network, see ``_client``; None if the server does not have it."""
    black = np.zeros((1, 16, 16, 16, 1), np.uint8)
    try:
        client = _client(endpoint, card, black, f"add {card.name} to the server again with brainseg-tf export")
    except NotServedError:
        return None
    return RemoteBrainNetwork(endpoint, card, client)


def _client(endpoint: Endpoint, card: ModelCard | BrainCard, black: np.ndarray, remedy: str) -> Client:
    """Connects to a served model and compares its description with a card.

    It takes at most twice the endpoint's timeout plus four seconds.

    Args:
        endpoint: address of the model.
        card: of the expected model.
        black: images for the request.
        remedy: what the user can do if it is another model.

    Raises:
        InputError: the endpoint is invalid, the server does not respond or does not serve the model, or the served
            model is not that of the card.
    """
    endpoint.check()
    client: Client
    if endpoint.address()[0].startswith("grpc"):
        from brainseg_tf.serving.grpc_client import GrpcClient

        client = GrpcClient(endpoint)
    else:
        from brainseg_tf.serving.rest_client import RestClient

        client = RestClient(endpoint)
    response = _with_retries(
        lambda: client.predict("describe", black, ["card"]), _FIRST_DELAYS, endpoint.timeout, Event()
    )
    try:
        found = differences(_description(response), card)
    except ValueError as error:
        raise InputError(
            f"{endpoint}: returned no valid description of its model ({error}); {SERVE_EXPORTED}"
        ) from error
    if found:
        # If options differ, the training run always differs too, so it is only mentioned if nothing else differs.
        options = [
            f"its {excerpt(name, _EXCERPT_CHARACTERS)} is {excerpt(served, _EXCERPT_CHARACTERS)}, that of {card.name} "
            f"is {excerpt(expected, _EXCERPT_CHARACTERS)}"
            for name, served, expected in found
            if name != TRAINING
        ]
        problem = ", ".join(options[:4]) or f"it has the options of {card.name}, but is from another training run"
        raise InputError(f"{endpoint}: {problem}; {remedy}")
    return client


class RemoteModel:
    """A served model as a ``Reconstructor``.

    Args:
        endpoint: its address.
        card: its card.
        client: sends the requests.
    """

    def __init__(self, endpoint: Endpoint, card: ModelCard, client: Client) -> None:
        self._endpoint, self._client = endpoint, client
        self._outputs = ["reconstruction", *(["probability"] if "probability" in card.healthy_levels else [])]

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """Reconstructs slices (N, H, W, C).

        The slices are divided into requests whose responses do not exceed ``MESSAGE_BYTES``, and several requests are
        sent in parallel. A request that fails temporarily is sent again. All attempts of a request take at most twice
        the endpoint's timeout plus 47 seconds, because an attempt that times out is repeated only once. After a request
        has finally failed no others are sent, and those in progress are waited for, at most one timeout.

        Raises:
            InputError: the server does not respond, refuses a request, or its response is not a reconstruction.
        """
        most_slices = MESSAGE_BYTES // (images[0].nbytes + images[0, ..., 0].nbytes)
        size = max(1, min(_SLICES_PER_REQUEST, most_slices))
        stop = Event()
        pool = ThreadPoolExecutor(_REQUESTS_IN_FLIGHT)
        try:
            responses = [
                pool.submit(self._request, images[start : start + size], stop) for start in range(0, len(images), size)
            ]
            # An error is raised as soon as one request fails, and not only when all requests before it are complete.
            for response in wait(responses, return_when=FIRST_EXCEPTION).done:
                response.result()
            return joined([response.result() for response in responses])
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def _request(self, images: np.ndarray, stop: Event) -> Mapping[str, np.ndarray]:
        response = _with_retries(
            lambda: self._client.predict("serving_default", images, self._outputs),
            _LATER_DELAYS,
            self._endpoint.timeout,
            stop,
        )
        shapes = {"reconstruction": images.shape, "probability": images.shape[:3]}
        return {name: _checked(self._endpoint, response, name, shapes[name], images.shape) for name in self._outputs}


class RemoteBrainNetwork:
    """A served brain network, see ``brain.network.BrainNetwork``.

    Args:
        endpoint: its address.
        card: its card.
        client: sends the requests.
    """

    def __init__(self, endpoint: Endpoint, card: BrainCard, client: Client) -> None:
        self.grid = card.grid
        self._endpoint, self._client = endpoint, client

    def probability(self, images: np.ndarray) -> np.ndarray:
        """The network's output for images (1, x, y, z, 1) uint8; a request that fails temporarily is sent again.

        Raises:
            InputError: the server does not respond, refuses the request, or its response is not such an output.
        """
        response = _with_retries(
            lambda: self._client.predict("serving_default", images, ["brain"]),
            _LATER_DELAYS,
            self._endpoint.timeout,
            Event(),
        )
        values = _checked(self._endpoint, response, "brain", images.shape[:-1], images.shape)
        return np.clip(values, 0, 255).astype(np.uint8)


def _checked(
    endpoint: Endpoint,
    response: Mapping[str, np.ndarray],
    name: str,
    shape: tuple[int, ...],
    images: tuple[int, ...],
) -> np.ndarray:
    """An output as float32, after a check of its type, shape and values."""
    if name not in response:
        raise InputError(f"{endpoint}: returned no {name}; export the model again with brainseg-tf export")
    values = response[name]
    problem = _wrong_type(values)
    if problem is not None:
        raise InputError(f"{endpoint}: the output {name} contains {problem}; {SERVE_EXPORTED}")
    if values.shape != shape:
        raise wrong_shape(endpoint, name, values.shape, images)
    try:
        with np.errstate(over="ignore"):
            numbers = values.astype(np.float64).astype(np.float32)
    except OverflowError:
        # An integer in JSON can be larger than any float.
        numbers = np.full(shape, np.inf, np.float32)
    if not np.isfinite(numbers).all():
        raise InputError(
            f"{endpoint}: the output {name} contains NaN, infinity or numbers too large for float32; check the served "
            "model"
        )
    return numbers


def _wrong_type(values: np.ndarray) -> str | None:
    """A phrase about values that are not numbers; None if all are numbers."""
    if values.dtype != object:
        return None if values.dtype.kind in "fiu" else f"values of type {values.dtype}"
    others = set(map(type, values.ravel())) - {int, float}
    if not others:
        return None
    if list in others:
        return "rows of different lengths"
    return f"JSON values other than numbers ({', '.join(sorted(one.__name__ for one in others))})"


def _description(response: Mapping[str, np.ndarray]) -> str:
    """The text in the response of the signature ``describe``.

    Raises:
        ValueError: the response contains no text.
    """
    values = response["card"].ravel() if "card" in response else np.empty(0)
    if not values.size:
        raise ValueError("it is missing")
    first = values[0]
    try:
        text = first.decode() if isinstance(first, bytes) else first
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    if not isinstance(text, str):
        raise ValueError("it is not text")
    return text


def _with_retries(request: Callable[[], Response], delays: Sequence[float], timeout: float, stop: Event) -> Response:
    """Sends a request, and sends it again after each delay as long as it fails temporarily.

    The last attempt starts at most ``timeout`` plus all delays plus one delay after the first. Attempts that fail at
    once leave time for all attempts; attempts that time out leave time for two.

    Args:
        request: one attempt, which takes at most ``timeout`` seconds.
        delays: seconds between the attempts.
        timeout: of an attempt, in seconds.
        stop: no further attempt starts after this is set.

    Raises:
        InputError: the last attempt failed, or an attempt failed permanently.
    """
    longest = 1 + _JITTER
    last_start = time.monotonic() + timeout + longest * sum(delays)
    for delay in (*delays, None):
        try:
            return request()
        except RetryableError as error:
            if delay is None or time.monotonic() >= last_start or stop.wait(delay * random.uniform(0.5, longest)):
                raise InputError(str(error)) from error
    raise AssertionError("the last attempt returns or raises")
