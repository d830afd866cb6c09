"""Servers that are slow, send nothing or do not stop sending: limits of time and size of the REST client."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import trustme

from brainseg_tf.errors import InputError
from brainseg_tf.saved_model import find
from brainseg_tf.serving.endpoint import Endpoint, RetryableError
from brainseg_tf.serving.rest_client import RestClient
from raw_server import IMAGES, OK, SLACK, one_line, reconstructed, serving


@pytest.fixture(scope="module")
def card():
    return find("cvae").card


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
