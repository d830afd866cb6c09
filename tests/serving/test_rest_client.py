"""The REST client with local servers that return arbitrary, slow or endless responses. TensorFlow is not used."""

import gc
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.saved_model import find
from brainseg_tf.serving import remote
from brainseg_tf.serving.endpoint import Endpoint, RetryableError
from brainseg_tf.serving.identity import identity
from brainseg_tf.serving.remote import RemoteModel, connect
from raw_server import IMAGES, SLACK, one_line, outputs, page, reconstructed, serving


@pytest.fixture(scope="module")
def card():
    return find("cvae").card


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
