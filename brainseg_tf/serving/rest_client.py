"""TensorFlow Serving's REST API."""

import json
import os
import socket
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError

from brainseg_tf.errors import InputError
from brainseg_tf.serving.endpoint import (
    MIXED_SIZES,
    Endpoint,
    RetryableError,
    Route,
    excerpt,
    is_loopback,
)

_RETRYABLE = (429, 502, 503, 504)
_NOT_FOUND = 404
# The longest text of a float32 that is written as a double has 24 characters; brackets, separators and indentation
# come on top of it.
_BYTES_PER_VALUE = 64
# A value is followed by a comma, and with one channel it has brackets of its own.
_TOKENS_PER_VALUE = 4
# For all that is not a value: names, other outputs of a few numbers, an error's text.
_OTHER_BYTES, _OTHER_TOKENS = 1_000_000, 20_000
_CHUNK_BYTES = 65_536
# Seconds by which the timeout of the socket is longer than that of the exchange, so that the latter always comes first.
_GRACE = 1.0


class RestClient:
    """See ``remote.Client``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        scheme, target = endpoint.address()
        self._url = f"{scheme}://{target}/v1/models/{endpoint.path}:predict"
        self._proxies = {} if is_loopback(endpoint.host) else get_environ_proxies(self._url, no_proxy=None)
        self._route = Route(endpoint, _variable(self._url, self._proxies))
        # The sessions do not read the environment, where .netrc would add a password to requests and proxies would
        # stand before loopback. So the variables for certificates are read here.
        environment = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        self._verify = str(endpoint.ca) if endpoint.ca else environment or True

    def predict(self, signature: str, images: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        body = json.dumps({"signature_name": signature, "inputs": {"images": images.tolist()}}).encode()
        # Reconstruction and residual have the images' size; a probability has one value per pixel.
        values = 2 * images.size + images[..., 0].size
        answer = self._exchange(body, _OTHER_BYTES + _BYTES_PER_VALUE * values)
        content = self._parsed(answer, _OTHER_TOKENS + _TOKENS_PER_VALUE * values)
        if not isinstance(content, dict) or "outputs" not in content:
            raise self._foreign()
        named = content["outputs"]
        # A signature's only output comes without its name.
        named = named if isinstance(named, dict) else {outputs[0]: named}
        return {name: self._array(name, named[name]) for name in outputs if name in named}

    def _array(self, name: str, values: Any) -> np.ndarray:
        """Nested lists as an array of Python objects, so that each value keeps its type."""
        try:
            return np.array(values, object)
        except ValueError as error:
            raise InputError(
                f"{self._endpoint}: gave {name} with rows of different lengths in it; serve what brainseg-tf export "
                "wrote"
            ) from error

    def _parsed(self, answer: "_Answer", most_tokens: int) -> Any:
        """The JSON of an answer that is no refusal."""
        if answer.is_redirect:
            raise InputError(
                self._route.failure(
                    f"redirects to {excerpt(answer.location)}, which is not followed because slices go to no other "
                    "address",
                    "give the address of TensorFlow Serving itself",
                )
            )
        if answer.status == requests.codes.ok:
            # Python's objects take much more memory than their text, so they are counted before they are made.
            tokens = sum(answer.content.count(mark) for mark in (b",", b"[", b"{"))
            if tokens > most_tokens:
                raise self._too_large(f"more than {most_tokens:,} values")
            return self._json(answer.content)
        reason, words = excerpt(answer.words), answer.words
        if answer.status in _RETRYABLE:
            raise self._silent(f"{answer.status}: {reason}")
        if MIXED_SIZES in words:
            raise RetryableError.of_mixed_sizes(self._endpoint)
        if answer.status == _NOT_FOUND or "version label" in words:
            remedy = "check --server-model, version and label"
            raise InputError(self._route.failure(f"is not served ({reason})", remedy, of_model=True))
        raise InputError(
            self._route.failure(
                f"refused the request ({answer.status}: {reason})", "serve what brainseg-tf export wrote", of_model=True
            )
        )

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._foreign() from error

    def _exchange(self, body: bytes, most_bytes: int) -> "_Answer":
        """One request and its answer, within the timeout.

        Requests' own timeout is for each operation of the socket, so a server that sends a byte now and then would
        keep it waiting for ever. Therefore the exchange runs in a thread, and its connection is ended in time.
        """
        connection, exchange = _Connection(), Future[_Answer]()

        def work() -> None:
            try:
                exchange.set_result(self._send(body, most_bytes, connection))
            except BaseException as error:
                exchange.set_exception(error)

        # A daemon, because a look-up of the host's name cannot be ended; it must not keep the process alive.
        threading.Thread(target=work, daemon=True, name="brainseg-tf-rest").start()
        try:
            wait([exchange], self._endpoint.timeout)
        finally:
            in_time = exchange.done()
            connection.end()
        if not in_time:
            raise self._silent(f"not complete after {self._endpoint.timeout:g} s")
        try:
            return exchange.result()
        except requests.exceptions.SSLError as error:
            raise InputError(
                self._route.failure(
                    f"no trusted connection ({_cause(error)})",
                    "give its authority's certificates with --server-ca, or leave the s of the scheme out if it has "
                    "none",
                )
            ) from error
        except requests.exceptions.InvalidHeader as error:
            raise self._foreign() from error
        # An address of the server or of a proxy that cannot be used. Some of these errors are an OSError too.
        except ValueError as error:
            raise InputError(
                self._route.failure(f"no request can be sent ({excerpt(error)})", "check the address")
            ) from error
        except (requests.exceptions.RequestException, HTTPError) as error:
            raise self._silent(_cause(error)) from error
        except OSError as error:
            raise InputError(
                self._route.failure(f"no request can be sent ({excerpt(error)})", "check REQUESTS_CA_BUNDLE")
            ) from error

    def _send(self, body: bytes, most_bytes: int, connection: "_Connection") -> "_Answer":
        # Compressed answers are not asked for: a few bytes could become gigabytes.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        with requests.Session() as session:
            session.trust_env = False
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter(connection))
            with session.post(
                self._url,
                data=body,
                headers=headers,
                timeout=self._endpoint.timeout + _GRACE,
                verify=self._verify,
                proxies=self._proxies,
                allow_redirects=False,
                stream=True,
            ) as answer:
                if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise self._foreign()
                # What is not a result is an error's text, or a page that nobody needs as a whole.
                ok = answer.status_code == requests.codes.ok
                content = bytearray()
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    content += chunk
                    if len(content) > (most_bytes if ok else _OTHER_BYTES):
                        if ok:
                            raise self._too_large(f"more than {most_bytes:,} bytes")
                        break
                location = answer.headers.get("Location", "")
                return _Answer(answer.status_code, str(answer.reason or ""), location, bytes(content))

    def _silent(self, how: str) -> RetryableError:
        return RetryableError(
            self._route.failure(
                f"no answer from TensorFlow Serving ({how})",
                "check that it runs and that this is its REST port, 8501 unless it was changed",
            )
        )

    def _foreign(self) -> InputError:
        return InputError(self._route.failure("does not speak TensorFlow Serving's REST API", "check host and port"))

    def _too_large(self, size: str) -> InputError:
        return InputError(
            self._route.failure(
                f"the answer has {size}, which a reconstruction of these slices cannot have",
                "check host and port, and serve what brainseg-tf export wrote",
                of_model=True,
            )
        )


@dataclass(frozen=True)
class _Answer:
    status: int
    phrase: str
    location: str
    content: bytes

    @property
    def is_redirect(self) -> bool:
        return 300 <= self.status < 400 and bool(self.location)

    @property
    def words(self) -> str:
        """The reason that TensorFlow Serving, or whatever else answered, gave for a refusal; as it is."""
        try:
            return str(json.loads(self.content)["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return self.phrase


class _Connection:
    """The connections of one exchange, which another thread can end."""

    def __init__(self) -> None:
        self._lock, self._sockets, self._ended = threading.Lock(), list[socket.socket](), False

    def watch(self, opened: socket.socket) -> None:
        """Takes note of a socket, by a duplicate: TLS takes the socket itself over."""
        with self._lock:
            if self._ended:
                opened.close()
                raise TimeoutError("the exchange was ended")
            self._sockets.append(opened.dup())

    def end(self) -> None:
        """Whatever waits for these sockets, in any thread, returns at once with an error."""
        with self._lock:
            self._ended = True
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._sockets.clear()


class _Adapter(HTTPAdapter):
    """Opens connections that can be ended from outside."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        super().__init__(max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        kind: Any = pool.ConnectionCls
        watch = self._connection.watch

        def opened(connection: Any) -> socket.socket:
            """The method in which urllib3's connections of all kinds open their socket."""
            sock = kind._new_conn(connection)
            watch(sock)
            return sock

        pool.ConnectionCls = type(kind.__name__, (kind,), {"_new_conn": opened})
        return pool


def _variable(url: str, proxies: dict[str, str]) -> str | None:
    """The variable that names the proxy of a URL, None if it has none."""
    if select_proxy(url, proxies) is None:
        return None
    scheme = url.partition(":")[0]
    for name in (f"{scheme}_proxy", "all_proxy"):
        for spelling in (name, name.upper()):
            if os.environ.get(spelling):
                return spelling
    # macOS and Windows have settings of their own.
    return "the system's setting"


def _cause(error: BaseException) -> str:
    """The system's or OpenSSL's words for a failure, else the kind of error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return excerpt(cause.verify_message)
        if isinstance(cause, OSError) and cause.strerror:
            return excerpt(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
