"""A model behind a server, which ``segmentation`` cannot tell from one on this machine."""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.model_card import ModelCard
from brainseg_tf.saved_model import Reconstruction, joined
from brainseg_tf.serving.identity import identity

# gRPC's default limit for a message; a server or a proxy may hold to it.
MESSAGE_BYTES = 4_000_000
_SLICES, _IN_FLIGHT = 16, 4
# Seconds between tries. A server that never answered is given up soon, one that did is given time to restart.
_AT_FIRST, _LATER = (0.5, 1.0), (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
# What a server that joins requests says when it cannot: slices of another size were under way at the same time.
MIXED_SIZES = "different shapes and padding is turned off"
_PORTS = {"grpc": 8500, "grpcs": 8500, "http": 8501, "https": 8501}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Served:
    """Where a model is served.

    Attributes:
        url: ``grpc[s]://host:port`` or ``http[s]://host:port``.
        model: its name on the server.
        version, label: of the model; at most one of them, the server's newest version if neither.
        ca: certificates (PEM) that the server's is checked with; the system's if None.
        timeout: seconds that one request may take.
    """

    url: str
    model: str
    version: int | None = None
    label: str | None = None
    ca: Path | None = None
    timeout: float = 60.0

    def address(self) -> tuple[str, str]:
        """The URL's scheme, and its ``host:port``.

        Raises:
            InputError: it has no such.
        """
        parts = urlsplit(self.url)
        try:
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            port = None
        if parts.scheme not in _PORTS or port is None or not parts.hostname or parts.path.strip("/"):
            raise InputError(f"{self.url}: is no server's address; give grpc://host:8500 or http://host:8501")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return parts.scheme, f"{host}:{port}"

    @property
    def path(self) -> str:
        """The model's, as the REST API names it."""
        if self.version is not None:
            return f"{self.model}/versions/{self.version}"
        return self.model if self.label is None else f"{self.model}/labels/{self.label}"

    def __str__(self) -> str:
        which = f" version {self.version}" if self.version else f" label {self.label}" if self.label else ""
        return f"{self.url}: model {self.model}{which}"


class MayPassError(Exception):
    """A request failed in a way that another try may not: nobody answers, too slow, too busy, joined with others."""

    @classmethod
    def of_mixed_sizes(cls, served: Served) -> "MayPassError":
        """The server could not join a request with somebody else's."""
        return cls(
            f"{served}: joins these slices with somebody's of another size and cannot; try again later, or serve the "
            "model without batching.config"
        )


class Client(Protocol):
    """Sends one request; gRPC and REST each have theirs."""

    def predict(self, signature: str, images: np.ndarray, outputs: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Asks for outputs of a signature.

        Raises:
            MayPassError: worth another try.
            InputError: it is not.
        """


def connect(served: Served, card: ModelCard) -> "RemoteModel":
    """Finds a served model and makes sure that it is of the card's kind.

    Raises:
        InputError: the address is none, nobody answers, there is no such model, or it takes other slices than the
            card says.
    """
    scheme, _ = served.address()
    if served.ca and not served.ca.is_file():
        raise InputError(f"{served.ca}: no such file; give the certificates that the server's is checked with")
    client: Client
    if scheme.startswith("grpc"):
        from brainseg_tf.serving.grpc_client import GrpcClient

        client = GrpcClient(served)
    else:
        from brainseg_tf.serving.rest_client import RestClient

        client = RestClient(served)
    blank = np.zeros((1, 16, 16, len(card.modalities)), np.float32)
    answer = _patiently(lambda: client.predict("describe", blank, ["card"]), _AT_FIRST)
    theirs, ours = json.loads(_text(answer["card"].ravel()[0])), json.loads(identity(card))
    for key, value in ours.items():
        if theirs.get(key) != value:
            raise InputError(
                f"{served}: its {key} is {theirs.get(key)}, that of {card.name} is {value}; "
                "give the served model's own card with --model"
            )
    return RemoteModel(served, card, client)


class RemoteModel:
    """A served model.

    Args:
        served: where.
        card: of the model.
        client: sends the requests.
    """

    def __init__(self, served: Served, card: ModelCard, client: Client) -> None:
        self._served, self._client = served, client
        self._outputs = ["reconstruction", *(["probability"] if "probability" in card.healthy_levels else [])]

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """Several requests are in flight at once; each holds as many slices as its answer can.

        Raises:
            InputError: the server stays away, refuses, or answers with what cannot be a reconstruction.
        """
        largest = MESSAGE_BYTES // (images[0].nbytes + images[0, ..., 0].nbytes)
        size = max(1, min(_SLICES, largest))
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        pool = ThreadPoolExecutor(_IN_FLIGHT)
        try:
            return joined(list(pool.map(self._ask, parts)))
        finally:
            # After a failure nothing more is sent.
            pool.shutdown(cancel_futures=True)

    def _ask(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        answer = _patiently(lambda: self._client.predict("serving_default", images, self._outputs), _LATER)
        shapes = {"reconstruction": images.shape, "probability": images.shape[:3]}
        for name in self._outputs:
            if name not in answer:
                raise InputError(f"{self._served}: gives no {name}; export the model anew with brainseg-tf export")
            if answer[name].shape != shapes[name]:
                raise InputError(
                    f"{self._served}: gave {name} of shape {answer[name].shape} for slices of {images.shape}; "
                    "serve what brainseg-tf export laid out"
                )
            if not np.isfinite(answer[name]).all():
                raise InputError(f"{self._served}: gave {name} with NaN or infinity in it; check the served model")
        return answer


def _patiently(ask: Callable[[], Answer], delays: Sequence[float]) -> Answer:
    """Asks again, after each delay (seconds), as long as the failure may pass."""
    for delay in delays:
        try:
            return ask()
        except MayPassError:
            # Those who were refused together must not come again together.
            time.sleep(delay * random.uniform(0.5, 1.5))
    try:
        return ask()
    except MayPassError as error:
        raise InputError(str(error)) from error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
