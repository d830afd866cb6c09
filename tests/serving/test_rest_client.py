"""The REST client with local servers that return arbitrary, slow or endless responses. TensorFlow is not used."""

import gc
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import trustme

from brainseg_tf.errors import InputError
from brainseg_tf.saved_model import find
from brainseg_tf.serving import remote, rest_client
from brainseg_tf.serving.endpoint import Endpoint, RetryableError
from brainseg_tf.serving.identity import identity
from brainseg_tf.serving.remote import RemoteModel, connect
from brainseg_tf.serving.rest_client import RestClient

IMAGES = np.linspace(0, 1, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 1)
# Seconds by which a busy machine may exceed the timeout.
SLACK = 1.5


@pytest.fixture(scope="module")
def card():
    return find("cvae").card


@pytest.fixture
def short_delays(monkeypatch):
    """Shortens the delays between attempts."""
    monkeypatch.setattr(remote, "_FIRST_DELAYS", (0.01,))
    monkeypatch.setattr(remote, "_LATER_DELAYS", (0.01, 0.01))


class Server:
    """Port and requests of a local server, and the number of bytes that it sent."""

    def __init__(self, port: int) -> None:
        self.requests: list[bytes] = []
        self.sent = 0
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return received
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def serving(*parts: bytes | float | Iterator[bytes], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Runs a server that answers each request with these parts in order.

    Args:
        parts: bytes or an iterator of bytes are sent; a number is a pause in seconds.
        tls: TLS context; None for plain HTTP.
    """
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1])
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), tls.wrap_socket(connection, server_side=True) if tls else connection as connection:
            server.requests.append(read_request(connection))
            for part in parts:
                if isinstance(part, float):
                    stop.wait(part)
                    continue
                for piece in [part] if isinstance(part, bytes) else part:
                    if stop.is_set():
                        return
                    connection.sendall(piece)
                    server.sent += len(piece)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield server
    finally:
        stop.set()
        # close() alone does not interrupt accept().
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


def page(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def outputs(values: object) -> bytes:
    return json.dumps({"outputs": values}).encode()


def one_line(error: pytest.ExceptionInfo[BaseException], server: Server) -> None:
    assert str(error.value).isprintable()
    assert str(error.value).startswith(server.url)
    assert len(str(error.value)) < 800


def reconstructed(server: Server, card: object, timeout: float = 5.0) -> np.ndarray:
    endpoint = Endpoint(server.url, "small", timeout=timeout)
    return RemoteModel(endpoint, card, RestClient(endpoint)).reconstruct(IMAGES).images


def test_a_valid_response(card):
    with serving(page(outputs({"residual": (0 * IMAGES).tolist(), "reconstruction": IMAGES.tolist()}))) as server:
        np.testing.assert_array_equal(reconstructed(server, card), IMAGES)
    with serving(page(outputs(np.zeros(IMAGES.shape, int).tolist()))) as server:
        answer = reconstructed(server, card)
    assert answer.dtype == np.float32 and not answer.any()
    head = server.requests[0].split(b"\r\n")
    assert head[0] == b"POST /v1/models/small:predict HTTP/1.1"
    assert b"Accept-Encoding: identity" in head


NOT_REST = "the response is not from TensorFlow Serving's REST API; check host and port"
ROWS, OTHERS, NUMBERS = "rows of different lengths", "JSON values other than numbers", "contains NaN, infinity"


def changed(position: tuple[int, ...], value: object) -> bytes:
    """A valid response with one value replaced."""
    values = IMAGES.tolist()
    target = values
    for index in position[:-1]:
        target = target[index]
    target[position[-1]] = value
    return outputs(values)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", NOT_REST),
        (b"<html>hello</html>", NOT_REST),
        (b"\xff\xfe\xfa{", NOT_REST),
        (b'{"outputs": [[[[0.1', NOT_REST),
        (b"[1, 2]", NOT_REST),
        (b"5", NOT_REST),
        (b"null", NOT_REST),
        (b'"outputs"', NOT_REST),
        (b"{}", NOT_REST),
        (b'{"predictions": [1]}', NOT_REST),
        (b"[" * 15_000, NOT_REST),
        (b'{"outputs": 1' + b"0" * 10_000 + b"}", NOT_REST),
        (b'{"outputs": {}}', "returned no reconstruction"),
        (b'{"outputs": {"x": 1, "residual": 2}}', "returned no reconstruction"),
        (b'{"outputs": null}', OTHERS),
        (b'{"outputs": "x"}', OTHERS),
        (b'{"outputs": {"reconstruction": {"a": 1}}}', OTHERS),
        (b'{"outputs": 5}', r"has shape \(\) for slices of shape \(2, 4, 4, 1\)"),
        (b'{"outputs": []}', r"has shape \(0,\) for slices"),
        (outputs(IMAGES[:1].tolist()), r"has shape \(1, 4, 4, 1\) for slices"),
        (outputs(IMAGES[..., 0].tolist()), r"has shape \(2, 4, 4\) for slices"),
        (outputs([[0.5] * 4, [0.5] * 3]), ROWS),
        (outputs([[[0.5], [0.5]], [[0.5, 0.5], [0.5]]]), ROWS),
        (changed((1, 2), [[0.5]] * 3), ROWS),
        (changed((1, 2, 3), [0.5, 0.5]), ROWS),
        (changed((1, 2, 3, 0), [0.5]), ROWS),
        (changed((1, 2, 3, 0), "0.5"), OTHERS),
        (changed((1, 2, 3, 0), None), OTHERS),
        (changed((1, 2, 3, 0), True), OTHERS),
        (changed((1, 2, 3, 0), {}), OTHERS),
        (changed((1, 2, 3, 0), float("nan")), NUMBERS),
        (changed((1, 2, 3, 0), float("-inf")), NUMBERS),
        (changed((1, 2, 3, 0), 0).replace(b" 0]", b" 1e400]").replace(b"[0]", b"[1e999999]"), NUMBERS),
        (changed((1, 2, 3, 0), 1e39), NUMBERS),
        (changed((1, 2, 3, 0), 10**400), NUMBERS),
    ],
    ids=count(),
)
def test_an_answer_that_is_no_reconstruction(card, body, message):
    with serving(page(body)) as server, pytest.raises(InputError, match=message) as error:
        reconstructed(server, card)
    one_line(error, server)
    assert len(server.requests) == 1


def test_a_response_with_too_many_values_is_refused_before_it_is_parsed(card, monkeypatch):
    body = b'{"outputs": [' + b"[]," * 30_000 + b"[]]}"
    monkeypatch.setattr(json, "loads", None)
    with serving(page(body)) as server, pytest.raises(InputError, match="response has more than 20,384 val") as error:
        reconstructed(server, card)
    one_line(error, server)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (["no JSON"], "it is not JSON"),
        (["[]"], "it is not a JSON object"),
        (['{"architecture": "cvae"}'], "it lacks modalities, slices"),
        ([5], "it is not text"),
        ([None], "it is not text"),
        ([["x"]], "it is not JSON"),
        ([], "it is missing"),
        ({"other": ["x"]}, "it is missing"),
        ({"card": {}}, "it is not text"),
        ([["x"], "y"], "it is not text"),
        (["\ud800"], "it is not JSON"),
    ],
    ids=count(),
)
def test_an_invalid_description_is_refused(card, described, message):
    with serving(page(outputs(described))) as server, pytest.raises(InputError, match=message) as error:
        connect(Endpoint(server.url, "small"), card)
    one_line(error, server)


def test_a_model_of_another_kind(card):
    described = json.loads(identity(card)) | {"architecture": "dae\x1b[31m" + "x" * 5000, "training_sha256": "other"}
    described["slices"] |= {f"\x1b{number}": "y" * 5000 for number in range(10)}
    with serving(page(outputs([json.dumps(described)]))) as server:
        with pytest.raises(InputError, match=r"its architecture is dae.*\.\.\., that of cvae is cvae, its sl") as error:
            connect(Endpoint(server.url, "small"), card)
        one_line(error, server)
    retrained = replace(card, losses={name: value + 0.1 for name, value in card.losses.items()})
    message = "it has the options of cvae, but is from another training run; give .* --model"
    with serving(page(outputs([identity(retrained)]))) as server, pytest.raises(InputError, match=message):
        connect(Endpoint(server.url, "small"), card)
    with serving(page(outputs([identity(card)]))) as server:
        connect(Endpoint(server.url, "small"), card)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (page(b'{"error": "a\\nb\\u001b[31m\\ud800"}', "400 Bad Request"), r"\(400: a b\\x1b\[31m\\ud800\); serve"),
        (page(b'{"error": "' + b"x" * 5000 + b'"}', "400 Bad Request"), r"\(400: x{300}\.\.\.\); serve"),
        (page(b'{"error": {"a": [1]}}', "500 Oops"), r"\(500: {'a': \[1\]}\); serve"),
        (page(b"[" * 100_000, "500 Oops"), r"\(500: Oops\); serve"),
        (page(b"\xff\xfe", "500 Oops\x7f"), r"\(500: Oops\\x7f\); serve"),
        (page(b"x" * 2_000_000, "403 Forbidden"), r"refused the request \(403: Forbidden\)"),
        (page(b"", "204 No Content"), r"refused the request \(204"),
        (page(b"gone", "404 Not Found"), r"is not served \(404|is not served \(Not Found\)"),
        (page(b"{}", "200 OK", "Content-Encoding: gzip"), NOT_REST),
    ],
    ids=count(),
)
def test_error_messages_are_shortened_and_escaped(card, answer, message):
    with serving(answer) as server, pytest.raises(InputError, match=message) as error:
        reconstructed(server, card)
    one_line(error, server)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 9999999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        page(b"busy", "503 Service Unavailable"),
        page(b"busy", "429 Too Many Requests"),
    ],
    ids=count(),
)
def test_broken_responses_are_retried_and_give_a_message_of_one_line(card, short_delays, answer):
    with serving(answer) as server, pytest.raises(InputError, match="no response from TensorFlow Serving") as error:
        reconstructed(server, card)
    one_line(error, server)
    assert len(server.requests) == 3


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_invalid_content_length(card):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello"
    with serving(answer) as server, pytest.raises(InputError, match=NOT_REST) as error:
        reconstructed(server, card)
    one_line(error, server)
    # urllib3 does not close the socket of such a response. Its ResourceWarning must occur here, not in a later test.
    del error
    gc.collect()


OK = b"HTTP/1.1 200 OK\r\n"


def drip(text: bytes) -> list[bytes | float]:
    """Parts that send one byte every 50 ms, so that no single socket operation times out."""
    return [part for byte in text for part in (bytes([byte]), 0.05)]


@pytest.mark.parametrize(
    "parts",
    [
        [60.0],
        drip(b"HTTP/1.1 200 OK" + b" " * 100),
        [OK, *drip(b"X: " + b"y" * 100)],
        [OK, b"Content-Length: 100\r\n\r\n", *drip(b" " * 100)],
        [OK, b"\r\n", *drip(b" " * 100)],
        [OK, b"Transfer-Encoding: chunked\r\n\r\n", *drip(b"1\r\n \r\n" * 50)],
        [OK, b"Transfer-Encoding: chunked\r\n\r\n", *drip(b"1;" + b"x" * 100)],
        drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 10),
        [b"HTTP/1.1 500 x\r\nContent-Length: 100\r\n\r\n", *drip(b" " * 100)],
    ],
    ids=["silence", "status", "header", "body", "body without length", "chunks", "chunk size", "100s", "refusal"],
)
def test_a_server_that_drips_is_given_up_in_time(parts):
    with serving(*parts) as server:
        client = RestClient(Endpoint(server.url, "small", timeout=0.4))
        start = time.monotonic()
        with pytest.raises(RetryableError, match=r"not complete after 0\.4 s") as error:
            client.predict("serving_default", IMAGES, ["reconstruction"])
        assert 0.35 < time.monotonic() - start < 0.4 + SLACK
    one_line(error, server)


def test_a_server_that_does_not_read_times_out():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = RestClient(Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", "small", timeout=0.4))
        start = time.monotonic()
        with pytest.raises(RetryableError, match="not complete"):
            client.predict("serving_default", np.full((16, 160, 160, 1), 1 / 3, np.float32), ["reconstruction"])
        assert time.monotonic() - start < 2.0 + SLACK


def test_a_tls_handshake_without_end_times_out():
    with serving(60.0) as server:
        client = RestClient(Endpoint(server.url.replace("http", "https"), "small", timeout=0.4))
        start = time.monotonic()
        with pytest.raises(RetryableError, match="not complete"):
            client.predict("serving_default", IMAGES, ["reconstruction"])
        assert time.monotonic() - start < 0.4 + SLACK


def test_a_slow_response_over_tls_times_out(tmp_path):
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with serving(OK, b"\r\n", *drip(b" " * 100), tls=context) as server:
        url = server.url.replace("http", "https")
        client = RestClient(Endpoint(url, "small", ca=tmp_path / "ca.pem", timeout=0.4))
        start = time.monotonic()
        with pytest.raises(RetryableError, match="not complete"):
            client.predict("serving_default", IMAGES, ["reconstruction"])
        assert time.monotonic() - start < 0.4 + SLACK
    assert server.requests


def test_the_thread_of_a_request_ends_after_the_timeout():
    with serving(OK, b"\r\n", *drip(b" " * 400)) as server:
        client = RestClient(Endpoint(server.url, "small", timeout=0.2))
        with pytest.raises(RetryableError, match="not complete"):
            client.predict("serving_default", IMAGES, ["reconstruction"])
        deadline = time.monotonic() + SLACK
        while any(thread.name == "brainseg-tf-rest" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"\r\n", b"0" * 65536),
        (b"Content-Length: 999999999999\r\n\r\n", b"[" * 65536),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"),
    ],
    ids=count(),
)
def test_an_endless_answer_is_cut_off(card, head, piece):
    message = "the response has more than 1,006,144 bytes"
    with serving(OK, head, endless(piece)) as server, pytest.raises(InputError, match=message) as error:
        reconstructed(server, card)
    one_line(error, server)
    # The client reads 1 MB; more is sent because of the buffers between server and client.
    assert server.sent < 20_000_000


def test_an_endless_error_message_is_cut_off(card):
    message = r"refused the request \(400: No\)"
    with (
        serving(b"HTTP/1.1 400 No\r\n\r\n", endless(b"0" * 65536)) as server,
        pytest.raises(InputError, match=message),
    ):
        reconstructed(server, card)
    assert server.sent < 20_000_000


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_not_followed(card, status):
    with serving(page(outputs(IMAGES.tolist()))) as other:
        location = f"Location: {other.url}/v1/models/small:predict"
        message = f"redirects to {other.url}/v1/models/small:predict, but"
        with serving(page(b"", status, location)) as server, pytest.raises(InputError, match=message) as error:
            reconstructed(server, card)
        one_line(error, server)
    assert other.requests == []
    assert len(server.requests) == 1


def test_no_password_from_netrc(card, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(page(outputs(IMAGES.tolist()))) as server:
        reconstructed(server, card)
    assert b"authorization" not in server.requests[0].lower()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_no_proxy_is_used_for_loopback(card, monkeypatch, variable):
    with serving(page(b"", "502 Bad Gateway")) as proxy, serving(page(outputs(IMAGES.tolist()))) as server:
        monkeypatch.setenv(variable, proxy.url)
        np.testing.assert_array_equal(reconstructed(server, card), IMAGES)
    assert proxy.requests == []


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [("http", "http_proxy"), ("http", "HTTP_PROXY"), ("http", "all_proxy"), ("https", "https_proxy")],
)
def test_other_hosts_go_through_the_proxy_and_a_failure_names_it(
    card, short_delays, no_proxies, monkeypatch, scheme, variable
):
    with serving(page(b"", "502 Bad Gateway")) as proxy:
        monkeypatch.setenv(variable, proxy.url.replace("//", "//me:secret@"))
        with pytest.raises(InputError, match=f"through the proxy in {variable}: add tfs.invalid to no_proxy") as e:
            connect(Endpoint(f"{scheme}://tfs.invalid:8501", "small", timeout=5), card)
    first_line = (
        b"POST http://tfs.invalid:8501/v1/models/small:predict" if scheme == "http" else b"CONNECT tfs.invalid:8501"
    )
    assert proxy.requests[0].startswith(first_line)
    assert "secret" not in str(e.value) and str(e.value).isprintable()


def test_the_message_about_a_refusal_names_the_proxy(card, no_proxies, monkeypatch):
    with serving(page(b"", "407 Proxy Authentication Required")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(InputError, match=r"\(407: Proxy Authentication Required\).* in http_proxy"):
            connect(Endpoint("http://tfs.invalid:8501", "small", timeout=5), card)


def test_no_proxy_is_respected(card, no_proxies, monkeypatch):
    # A local server is used as a remote one.
    monkeypatch.setattr(rest_client, "is_loopback", lambda host: False)
    with serving(page(b"", "502 Bad Gateway")) as proxy, serving(page(outputs(IMAGES.tolist()))) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "10.0.0.0/8,127.0.0.0/8")
        np.testing.assert_array_equal(reconstructed(server, card), IMAGES)
    assert proxy.requests == []


@pytest.mark.parametrize("proxy", ["http://[", "socks5://127.0.0.1:1", "http://a b:1", "http://"])
def test_an_invalid_proxy_address(card, short_delays, no_proxies, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(InputError, match="the proxy in http_proxy") as error:
        connect(Endpoint("http://tfs.invalid:8501", "small", timeout=5), card)
    assert str(error.value).isprintable()


def test_a_missing_certificate_file_in_the_environment(card, no_proxies, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with serving() as server, pytest.raises(InputError, match="the request cannot be sent .*check REQUESTS_CA_BUNDLE"):
        connect(Endpoint(server.url.replace("http", "https"), "small", timeout=5), card)


class CountingClient:
    """A client that counts its requests and calls ``act`` with the number of each, which can wait or raise an error."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self.act, self.calls, self.lock = act, 0, threading.Lock()

    def predict(self, signature: str, images: np.ndarray, names: object) -> dict[str, np.ndarray]:
        with self.lock:
            self.calls += 1
            number = self.calls
        self.act(number)
        return {"reconstruction": images}


def test_number_of_attempts_if_requests_time_out_or_fail_at_once(card, monkeypatch):
    monkeypatch.setattr(remote, "_LATER_DELAYS", (0.01,) * 6)
    for seconds, tries in ((0.3, 2), (0.0, 7)):

        def act(number: int, seconds: float = seconds) -> None:
            time.sleep(seconds)
            raise RetryableError("a: b; c")

        client = CountingClient(act)
        with pytest.raises(InputError, match="a: b; c"):
            RemoteModel(Endpoint("http://x", "small", timeout=0.3), card, client).reconstruct(IMAGES)
        assert client.calls == tries


def test_after_the_first_failure_no_other_request_is_sent(card):
    never_set = threading.Event()

    def act(number: int) -> None:
        if number == 3:
            raise InputError("third")
        never_set.wait(0.3)
        raise RetryableError("others")

    client = CountingClient(act)
    start = time.monotonic()
    with pytest.raises(InputError, match="third"):
        RemoteModel(Endpoint("http://x", "small"), card, client).reconstruct(np.zeros((1600, 4, 4, 1), np.float32))
    # Four requests run in parallel. The thread of the failed one may start another request before all are stopped.
    assert client.calls <= 6
    assert time.monotonic() - start < 0.3 + SLACK
