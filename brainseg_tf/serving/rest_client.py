"""Client for TensorFlow Serving's REST API."""

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
    SERVE_EXPORTED,
    Endpoint,
    NotServedError,
    RetryableError,
    Route,
    excerpt,
    is_loopback,
)

_RETRYABLE = (429, 502, 503, 504)
_NOT_FOUND = 404
# Limits for the size of a response. A float32 that is written as a double has up to 24 characters, plus brackets,
# separators and indentation.
_BYTES_PER_VALUE = 64
# Commas and brackets are counted: each value has a comma, and with one channel also its own pair of brackets.
_TOKENS_PER_VALUE = 4
# For everything but the values: names, small other outputs, error messages.
_OTHER_BYTES, _OTHER_TOKENS = 1_000_000, 20_000
_CHUNK_BYTES = 65_536
# Seconds by which the socket's timeout exceeds that of the exchange, so that the exchange always times out first.
_GRACE = 1.0


class RestClient:
    """Implements ``remote.Client``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        scheme, target = endpoint.address()
        self._url = f"{scheme}://{target}/v1/models/{endpoint.path}:predict"
        self._proxies = {} if is_loopback(endpoint.host) else get_environ_proxies(self._url, no_proxy=None)
        self._route = Route(endpoint, _proxy_variable(self._url, self._proxies))
        # The sessions do not use the environment, because then .netrc would add passwords to requests and proxies would
        # be used for loopback addresses. So the variables for certificates are read here.
        ca_bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        self._verify = str(endpoint.ca) if endpoint.ca else ca_bundle or True

    def predict(self, signature: str, images: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        body = json.dumps({"signature_name": signature, "inputs": {"images": images.tolist()}}).encode()
        # Reconstruction and residual have the size of the images; a probability has one value per pixel.
        values = 2 * images.size + images[..., 0].size
        response = self._exchange(body, _OTHER_BYTES + _BYTES_PER_VALUE * values)
        content = self._parse(response, _OTHER_TOKENS + _TOKENS_PER_VALUE * values)
        if not isinstance(content, dict) or "outputs" not in content:
            raise self._not_serving()
        returned = content["outputs"]
        # If a signature has a single output, the response does not contain its name.
        returned = returned if isinstance(returned, dict) else {outputs[0]: returned}
        return {name: self._array(name, returned[name]) for name in outputs if name in returned}

    def _array(self, name: str, values: Any) -> np.ndarray:
        """Nested lists as an array of Python objects, so that each value keeps its type."""
        try:
            return np.array(values, object)
        except ValueError as error:
            raise InputError(
                f"{self._endpoint}: the output {name} contains rows of different lengths; {SERVE_EXPORTED}"
            ) from error

    def _parse(self, response: "_Response", most_tokens: int) -> Any:
        """The JSON content of a successful response.

        Raises:
            InputError: the response has another status, is too large, or is not JSON.
            RetryableError: the response has a status that can be temporary.
        """
        if response.is_redirect:
            raise InputError(
                self._route.failure(
                    f"redirects to {excerpt(response.location)}, but redirects are not followed, so that slices are "
                    "sent to no other address",
                    "give the address of TensorFlow Serving itself",
                )
            )
        if response.status == requests.codes.ok:
            # Python objects need much more memory than their JSON text, so they are counted before parsing.
            tokens = sum(response.content.count(mark) for mark in (b",", b"[", b"{"))
            if tokens > most_tokens:
                raise self._too_large(f"more than {most_tokens:,} values")
            return self._json(response.content)
        text = response.error_text
        reason = excerpt(text)
        if response.status in _RETRYABLE:
            raise self._no_response(f"{response.status}: {reason}")
        if MIXED_SIZES in text:
            raise RetryableError.of_mixed_sizes(self._endpoint)
        if response.status == _NOT_FOUND or "version label" in text:
            remedy = "check --server-model, --server-version and --server-label"
            raise NotServedError(self._route.failure(f"is not served ({reason})", remedy, of_model=True))
        raise InputError(
            self._route.failure(f"refused the request ({response.status}: {reason})", SERVE_EXPORTED, of_model=True)
        )

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._not_serving() from error

    def _exchange(self, body: bytes, most_bytes: int) -> "_Response":
        """Sends a request and receives its response within the endpoint's timeout.

        The timeout of the package requests applies to each socket operation, so a server that sends a byte from time to
        time could keep it waiting forever. Therefore the exchange runs in a thread, and its connection is closed when
        the timeout has passed.
        """
        connection, exchange = _Connection(), Future[_Response]()

        def work() -> None:
            try:
                exchange.set_result(self._send(body, most_bytes, connection))
            except BaseException as error:
                exchange.set_exception(error)

        # A daemon thread does not keep the process alive. A DNS lookup in it cannot be interrupted.
        threading.Thread(target=work, daemon=True, name="brainseg-tf-rest").start()
        try:
            wait([exchange], self._endpoint.timeout)
        finally:
            in_time = exchange.done()
            connection.close()
        if not in_time:
            raise self._no_response(f"not complete after {self._endpoint.timeout:g} s")
        try:
            return exchange.result()
        except requests.exceptions.SSLError as error:
            raise InputError(
                self._route.failure(
                    f"no trusted TLS connection ({_cause(error)})",
                    "give the certificates of the server's authority with --server-ca, or use http:// if the server "
                    "has no TLS",
                )
            ) from error
        except requests.exceptions.InvalidHeader as error:
            raise self._not_serving() from error
        # The address of the server or of a proxy is invalid. This clause precedes that for OSError, because some of
        # these errors belong to both classes.
        except ValueError as error:
            raise InputError(
                self._route.failure(f"the request cannot be sent ({excerpt(error)})", "check the address")
            ) from error
        except (requests.exceptions.RequestException, HTTPError) as error:
            raise self._no_response(_cause(error)) from error
        except OSError as error:
            raise InputError(
                self._route.failure(f"the request cannot be sent ({excerpt(error)})", "check REQUESTS_CA_BUNDLE")
            ) from error

    def _send(self, body: bytes, most_bytes: int, connection: "_Connection") -> "_Response":
        # Compression is not accepted, since a few compressed bytes can expand to gigabytes.
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
            ) as response:
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise self._not_serving()
                # Of a response with an error status only the beginning is read, for the error message.
                ok = response.status_code == requests.codes.ok
                content = bytearray()
                for chunk in response.iter_content(_CHUNK_BYTES):
                    content += chunk
                    if len(content) > (most_bytes if ok else _OTHER_BYTES):
                        if ok:
                            raise self._too_large(f"more than {most_bytes:,} bytes")
                        break
                location = response.headers.get("Location", "")
                return _Response(response.status_code, str(response.reason or ""), location, bytes(content))

    def _no_response(self, reason: str) -> RetryableError:
        return RetryableError(
            self._route.failure(
                f"no response from TensorFlow Serving ({reason})",
                "check that it runs and that this is its REST port, by default 8501",
            )
        )

    def _not_serving(self) -> InputError:
        return InputError(
            self._route.failure("the response is not from TensorFlow Serving's REST API", "check host and port")
        )

    def _too_large(self, size: str) -> InputError:
        return InputError(
            self._route.failure(
                f"the response has {size}, which is too large for a reconstruction of these slices",
                f"check host and port, and {SERVE_EXPORTED}",
                of_model=True,
            )
        )


@dataclass(frozen=True)
class _Response:
    status: int
    phrase: str
    location: str
    content: bytes

    @property
    def is_redirect(self) -> bool:
        return 300 <= self.status < 400 and bool(self.location)

    @property
    def error_text(self) -> str:
        """The error message in the response, else its HTTP reason phrase; not escaped."""
        try:
            return str(json.loads(self.content)["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return self.phrase


class _Connection:
    """The sockets of one exchange, which another thread can close."""

    def __init__(self) -> None:
        self._lock, self._sockets, self._closed = threading.Lock(), list[socket.socket](), False

    def register(self, opened: socket.socket) -> None:
        """Registers a socket. A duplicate is stored, because a TLS connection takes over the socket itself."""
        with self._lock:
            if self._closed:
                opened.close()
                raise TimeoutError("the exchange was ended")
            self._sockets.append(opened.dup())

    def close(self) -> None:
        """Shuts the sockets down, so that every operation that waits for them, in any thread, fails at once."""
        with self._lock:
            self._closed = True
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._sockets.clear()


class _Adapter(HTTPAdapter):
    """An adapter that registers its sockets with a ``_Connection``."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        super().__init__(max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        base: Any = pool.ConnectionCls
        register = self._connection.register

        def new_connection(connection: Any) -> socket.socket:
            """Replaces ``_new_conn``, which opens the socket in all connection classes of urllib3."""
            sock = base._new_conn(connection)
            register(sock)
            return sock

        pool.ConnectionCls = type(base.__name__, (base,), {"_new_conn": new_connection})
        return pool


def _proxy_variable(url: str, proxies: dict[str, str]) -> str | None:
    """The environment variable with the address of the proxy for a URL; None if no proxy is used."""
    if select_proxy(url, proxies) is None:
        return None
    scheme = url.partition(":")[0]
    for name in (f"{scheme}_proxy", "all_proxy"):
        for spelling in (name, name.upper()):
            if os.environ.get(spelling):
                return spelling
    # macOS and Windows also have proxy settings outside the environment.
    return "the system's settings"


def _cause(error: BaseException) -> str:
    """The message of the system or of OpenSSL for a failure, else the class of the error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return excerpt(cause.verify_message)
        if isinstance(cause, OSError) and cause.strerror:
            return excerpt(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
