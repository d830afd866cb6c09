"""The gRPC client with local servers that return arbitrary responses, and with proxies."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from brainseg_tf.errors import InputError
from brainseg_tf.saved_model import find
from brainseg_tf.serving import grpc_client, remote
from brainseg_tf.serving.endpoint import Endpoint
from brainseg_tf.serving.grpc_client import GrpcClient
from brainseg_tf.serving.identity import identity
from brainseg_tf.serving.remote import RemoteModel, connect

IMAGES = np.linspace(0, 1, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 1)
VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(scope="module")
def card():
    return find("cvae").card


@pytest.fixture(autouse=True)
def short_delays_and_no_proxies(monkeypatch):
    """Shortens the delays between attempts, and removes the machine's proxy settings."""
    monkeypatch.setattr(remote, "_FIRST_DELAYS", (0.01,))
    monkeypatch.setattr(remote, "_LATER_DELAYS", (0.01,) * 4)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def serving(answer: Callable[[PredictRequest, grpc.ServicerContext], bytes]) -> Iterator[str]:
    """Runs a server whose responses are the bytes that ``answer`` returns; yields its URL."""
    method = grpc.unary_unary_rpc_method_handler(answer, PredictRequest.FromString, lambda content: content)
    server = grpc.server(ThreadPoolExecutor(4))
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": method})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def response(**outputs: object) -> bytes:
    """A serialized response with tensors, or values that are converted to tensors."""
    message = PredictResponse()
    for name, values in outputs.items():
        tensor = values if isinstance(values, TensorProto) else tf.make_tensor_proto(values)
        message.outputs[name].CopyFrom(tensor)
    return message.SerializeToString()


def constant(*shape: int, dtype: int = 1) -> object:
    """A constant tensor of any shape, which stores a single value."""
    tensor = tf.make_tensor_proto(np.float32(0.5))
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def reconstructed(url: str, card: object, timeout: float = 5.0) -> np.ndarray:
    endpoint = Endpoint(url, "small", timeout=timeout)
    return RemoteModel(endpoint, card, GrpcClient(endpoint)).reconstruct(IMAGES).images


def one_line(error: pytest.ExceptionInfo[BaseException]) -> None:
    assert str(error.value).isprintable()
    assert str(error.value).startswith("grpc")
    assert len(str(error.value)) < 800


def test_a_valid_response(card):
    with serving(lambda request, context: response(reconstruction=IMAGES, other=constant(1 << 40))) as url:
        np.testing.assert_array_equal(reconstructed(url, card), IMAGES)
    with serving(lambda request, context: response(reconstruction=constant(2, 4, 4, 1))) as url:
        np.testing.assert_array_equal(reconstructed(url, card), np.full_like(IMAGES, 0.5))


def unknown_rank() -> object:
    tensor = constant()
    tensor.tensor_shape.unknown_rank = True
    return tensor


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"\xff\xff\xff\xff", "refused the request"),
        (b"", "returned no reconstruction"),
        (response(other=IMAGES), "returned no reconstruction"),
        (response(reconstruction=IMAGES[:1]), r"has shape \(1, 4, 4, 1\) for slices of shape \(2, 4, 4, 1\)"),
        (response(reconstruction=0.5), r"has shape \(\) for slices"),
        # Expanded, this tensor would have four terabytes.
        (response(reconstruction=constant(1 << 20, 1 << 20)), r"has shape \(1048576, 1048576\) for slices"),
        (response(reconstruction=constant(-1, 4, 4, 1)), r"has shape \(-1, 4, 4, 1\) for slices"),
        (response(reconstruction=unknown_rank()), r"has shape \(\) for slices"),
        (response(reconstruction=IMAGES.astype(str)), "contains (values of type object|JSON values other)"),
        (response(reconstruction=IMAGES > 0.5), "contains values of type bool"),
        (response(reconstruction=IMAGES.astype(np.complex64)), "contains values of type complex64"),
        (response(reconstruction=constant(2, 4, 4, 1, dtype=21)), "cannot be read as a tensor"),
        (response(reconstruction=constant(2, 4, 4, 1, dtype=999)), "cannot be read as a tensor"),
        (response(reconstruction=np.full_like(IMAGES, np.inf)), "contains NaN, infinity"),
        (response(reconstruction=IMAGES.astype(np.float64) * 1e39), "contains NaN, infinity"),
    ],
    ids=count(),
)
def test_an_answer_that_is_no_reconstruction(card, answer, message):
    with serving(lambda request, context: answer) as url, pytest.raises(InputError, match=message) as error:
        reconstructed(url, card)
    one_line(error)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (np.array([b"\xff"], object), "it is not UTF-8"),
        (np.array([b"[]"], object), "it is not a JSON object"),
        (np.array([5.0], np.float32), "it is not text"),
        (np.empty(0, np.float32), "it is missing"),
    ],
    ids=count(),
)
def test_an_invalid_description_is_refused(card, described, message):
    answer = response(card=described)
    with serving(lambda request, context: answer) as url, pytest.raises(InputError, match=message) as error:
        connect(Endpoint(url, "small"), card)
    one_line(error)
    with serving(lambda request, context: response(card=[identity(card)])) as url:
        connect(Endpoint(url, "small"), card)


def test_too_large_an_answer_is_refused_at_once(card, monkeypatch):
    monkeypatch.setattr(grpc_client, "_MOST_BYTES", 10_000)
    calls = []

    def answer(request, context):
        calls.append(request)
        return response(reconstruction=np.zeros(10_000, np.float32))

    with serving(answer) as url, pytest.raises(InputError, match="a message exceeds the size limit") as error:
        reconstructed(url, card)
    one_line(error)
    assert len(calls) == 1


def test_error_messages_are_shortened_and_escaped(card):
    def answer(request, context):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a\nb\x1b[31m" + "x" * 2000)

    with (
        serving(answer) as url,
        pytest.raises(InputError, match=r"refused the request \(INVALID_ARGUMENT: a b\\x1b\[31mx+\.\.\.\)") as error,
    ):
        reconstructed(url, card)
    one_line(error)


def test_a_server_that_hangs_costs_two_timeouts(card):
    stop, calls = threading.Event(), []

    def answer(request, context):
        calls.append(request)
        stop.wait(10)
        return b""

    with serving(answer) as url:
        start = time.monotonic()
        with pytest.raises(InputError, match="DEADLINE_EXCEEDED"):
            reconstructed(url, card, timeout=0.4)
        seconds = time.monotonic() - start
        stop.set()
    assert len(calls) == 2
    assert 0.7 < seconds < 2.5


@contextmanager
def proxying() -> Iterator[tuple[str, list[bytes]]]:
    """Runs a proxy that refuses every request; yields its address and the first line of each request."""
    lines: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                lines.append(connection.recv(4096).split(b"\r\n")[0])
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", lines
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_no_proxy_is_used_for_loopback(card, monkeypatch, variable):
    with proxying() as (proxy, lines), serving(lambda request, context: response(reconstruction=IMAGES)) as url:
        monkeypatch.setenv(variable, f"http://{proxy}")
        for host in ("127.0.0.1", "localhost"):
            np.testing.assert_array_equal(reconstructed(url.replace("127.0.0.1", host), card), IMAGES)
    assert lines == []


@pytest.mark.parametrize(
    ("scheme", "variable", "prefix"),
    [
        ("grpc", "grpc_proxy", "http://"),
        ("grpc", "https_proxy", "http://"),
        ("grpc", "http_proxy", ""),
        ("grpcs", "http_proxy", "http://me:secret@"),
    ],
)
def test_other_hosts_go_through_the_proxy_and_a_failure_names_it(card, monkeypatch, scheme, variable, prefix):
    with proxying() as (proxy, lines):
        monkeypatch.setenv(variable, prefix + proxy)
        with pytest.raises(InputError, match=f"through the proxy in {variable}: add tfs.invalid to no_") as error:
            connect(Endpoint(f"{scheme}://tfs.invalid:8500", "small", timeout=3), card)
    one_line(error)
    assert "secret" not in str(error.value)
    assert lines and lines[0] == b"CONNECT tfs.invalid:8500 HTTP/1.1"


@pytest.mark.parametrize("exception", ["no_grpc_proxy", "no_proxy"])
def test_no_proxy_is_respected(card, monkeypatch, exception):
    # A local server is used as a remote one.
    monkeypatch.setattr(grpc_client, "is_loopback", lambda host: False)
    with proxying() as (proxy, lines), serving(lambda request, context: response(reconstruction=IMAGES)) as url:
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        monkeypatch.setenv(exception, "10.0.0.0/8,127.0.0.0/8")
        np.testing.assert_array_equal(reconstructed(url, card), IMAGES)
    assert lines == []


@pytest.mark.parametrize("proxy", ["https://proxy.invalid:1", "socks5://proxy.invalid:1", "http://["])
def test_a_proxy_that_grpc_does_not_support(card, monkeypatch, proxy):
    monkeypatch.setenv("grpc_proxy", proxy)
    with pytest.raises(InputError, match="gRPC supports only http:// proxies; set grpc_proxy to such an") as error:
        connect(Endpoint("grpc://tfs.invalid:8500", "small", timeout=3), card)
    one_line(error)
