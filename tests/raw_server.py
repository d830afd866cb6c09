"""A local server that answers with given bytes, for the tests of the REST client."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from brainseg_tf.serving.endpoint import Endpoint
from brainseg_tf.serving.remote import RemoteModel
from brainseg_tf.serving.rest_client import RestClient

IMAGES = np.linspace(0, 1, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 1)
# Seconds by which a busy machine may exceed the timeout.
SLACK = 1.5


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


OK = b"HTTP/1.1 200 OK\r\n"
