"""Prediction with the stand-in server (tests/stand_in.py), and with a real server if BRAINSEG_TFS is its address."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from brainseg_tf.errors import InputError
from brainseg_tf.saved_model import find
from brainseg_tf.serving import remote
from brainseg_tf.serving.endpoint import Endpoint
from brainseg_tf.serving.remote import connect
from stand_in import RefusalError, StandIn

SCHEMES = ("grpc", "http")


def images(count=20, size=48, seed=0):
    return np.random.default_rng(seed).random((count, size, size, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def card(trained):
    return find(str(trained)).card


@pytest.fixture(scope="module")
def local(trained):
    return find(str(trained)).load()


@pytest.fixture
def short_delays(monkeypatch):
    """Shortens the delays between attempts."""
    monkeypatch.setattr(remote, "_FIRST_DELAYS", (0.01,))
    monkeypatch.setattr(remote, "_LATER_DELAYS", (0.01, 0.01, 0.01))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("selection", [{}, {"version": 1}, {"label": "stable"}, {"label": "canary"}])
def test_a_served_model_equals_the_local_model(urls, card, local, scheme, selection):
    slices = images()
    result = connect(Endpoint(urls[scheme], "small", **selection), card).reconstruct(slices)
    np.testing.assert_array_equal(result.images, local.reconstruct(slices).images)
    assert result.images.dtype == np.float32
    assert result.probability is None


def test_a_model_on_a_real_server_equals_the_local_model(card, local):
    """The server must serve the model BRAINSEG_TFS_MODEL, exported with brainseg-tf export; see docs/serving.md."""
    url, model = os.environ.get("BRAINSEG_TFS"), os.environ.get("BRAINSEG_TFS_MODEL", "cvae")
    if not url:
        pytest.skip("no real TensorFlow Serving: set BRAINSEG_TFS to its address")
    found = find(model)
    slices = images(size=128)
    result = connect(Endpoint(url, found.card.name), found.card).reconstruct(slices)
    np.testing.assert_allclose(result.images, found.load().reconstruct(slices).images, atol=1e-5)


def test_requests_and_responses_stay_below_the_message_limit(card, monkeypatch):
    sent = []

    class Client:
        def predict(self, signature, part, outputs):
            sent.append(part.nbytes * 2)
            return {"reconstruction": part, "probability": part[..., 0]}

    with_probability = replace(card, healthy_levels=card.healthy_levels | {"probability": 0.5})
    for size, slices in ((512, 5), (128, 50), (64, 50)):
        sent.clear()
        part = images(slices, size)
        result = remote.RemoteModel(Endpoint("grpc://x", "small"), with_probability, Client()).reconstruct(part)
        np.testing.assert_array_equal(result.images, part)
        np.testing.assert_array_equal(result.probability, part[..., 0])
        assert max(sent) <= remote.MESSAGE_BYTES
        assert len(sent) == {512: 5, 128: 4, 64: 4}[size]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "nonsense"},
            r"model nonsense: is not served \(Servable not found for request: Latest\(nonsense\)\)",
        ),
        ({"version": 9}, r"model small version 9: is not served \(Servable not found .*Specific\(small, 9\)\)"),
        ({"label": "best"}, r"model small label best: is not served \(Unrecognized servable version label: best\)"),
    ],
)
def test_a_model_that_is_not_served_is_reported_without_retries(urls, card, scheme, changes, message):
    start = time.perf_counter()
    with pytest.raises(InputError, match=message):
        connect(Endpoint(**({"url": urls[scheme], "model": "small"} | changes)), card)
    assert time.perf_counter() - start < 0.4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_served_model_with_other_options_is_refused(urls, card, scheme):
    other = replace(card, slices=replace(card.slices, normalisation="volume"))
    with pytest.raises(
        InputError, match=r"its slices\.normalisation is robust, that of small is volume; give .* --model"
    ):
        connect(Endpoint(urls[scheme], "small"), other)
    with pytest.raises(InputError, match=r"refused the request \(.*does not fit"):
        connect(Endpoint(urls[scheme], "small"), replace(card, modalities=("flair", "t2")))
    with pytest.raises(InputError, match=r"its architecture is cvae, that of small is dae"):
        connect(Endpoint(urls[scheme], "small"), replace(card, architecture="dae"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_that_brainseg_tf_did_not_export_is_refused(tmp_path, card, scheme):
    import tensorflow as tf

    from stand_in import Models

    foreign = tf.Module()
    foreign.serve = tf.function(lambda images: {"reconstruction": images})
    signature = foreign.serve.get_concrete_function(tf.TensorSpec((None, None, None, 1), tf.float32, name="images"))
    tf.saved_model.save(foreign, str(tmp_path / "small" / "1"), {"serving_default": signature})
    with StandIn(Models(tmp_path)) as server:
        url = dict(zip(SCHEMES, server.urls(), strict=True))[scheme]
        message = "refused the request .*describe.*; serve a model that brainseg-tf export wrote"
        with pytest.raises(InputError, match=message):
            connect(Endpoint(url, "small"), card)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_closed_port(card, short_delays, scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=r"no response from TensorFlow Serving \(.*\); check that it runs"):
        connect(Endpoint(url, "small"), card)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_port_of_the_other_protocol(urls, card, short_delays, scheme):
    other = urls["http" if scheme == "grpc" else "grpc"].partition(":")[2]
    with pytest.raises(InputError, match=r"no response from .*port, by default 850[01]"):
        connect(Endpoint(f"{scheme}:{other}", "small", timeout=5), card)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (RefusalError(grpc.StatusCode.UNAVAILABLE, "on purpose"), "no response from TensorFlow Serving"),
        # The message in TensorFlow Serving's batching_session.cc.
        (
            RefusalError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "Tensors with name 'images:0' from different tasks have different shapes and padding is turned off.",
            ),
            "cannot batch these slices with those of another client",
        ),
    ],
    ids=["unavailable", "mixed sizes"],
)
def test_temporary_failures_are_retried(urls, server, card, local, short_delays, scheme, refusal, message):
    model = connect(Endpoint(urls[scheme], "small"), card)
    server.faults.refused, server.faults.refusal = 3, refusal
    slices = images(16)
    np.testing.assert_array_equal(model.reconstruct(slices).images, local.reconstruct(slices).images)
    assert server.faults.refused == 0
    server.faults.refused = 100
    with pytest.raises(InputError, match=message):
        model.reconstruct(slices)
    # The slices fit into one request, with one attempt plus one after each of three delays.
    assert server.faults.refused == 96


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_response_after_the_timeout(urls, server, card, short_delays, scheme):
    model = connect(Endpoint(urls[scheme], "small", timeout=0.3), card)
    server.faults.delay = 1.0
    with pytest.raises(
        InputError, match=r"no response from TensorFlow Serving \((DEADLINE_EXCEEDED|not complete after 0\.3 s)"
    ):
        model.reconstruct(images(2))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda outputs: {k: v * np.float32(np.nan) for k, v in outputs.items()}, "contains NaN, infinity"),
        (lambda outputs: {k: v[:, 1:] for k, v in outputs.items()}, r"has shape \(2, 47, 48, 1\) for slices of"),
        (
            lambda outputs: {"residual": outputs.get("residual", np.zeros((2, 1), np.float32))},
            "returned no reconstruction",
        ),
    ],
)
def test_an_answer_that_is_no_reconstruction(urls, server, card, scheme, spoil, message):
    model = connect(Endpoint(urls[scheme], "small"), card)
    # REST omits the name of a single output, so the third case needs a second output there.
    server.faults.spoil = (lambda o: spoil(o) | {"x": o["residual"]}) if scheme == "http" else spoil
    with pytest.raises(InputError, match=message):
        model.reconstruct(images(2))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tls(served_models, card, local, tmp_path, short_delays, scheme):
    authority, other_authority = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    trusted, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    authority.cert_pem.write_to_path(trusted)
    other_authority.cert_pem.write_to_path(other)
    with StandIn(served_models, tls=(key, chain)) as server:
        url = dict(zip(SCHEMES, server.urls(secure=True), strict=True))[scheme]
        slices = images(3)
        result = connect(Endpoint(url, "small", ca=trusted), card).reconstruct(slices)
        np.testing.assert_array_equal(result.images, local.reconstruct(slices).images)
        for ca in (other, None):
            with pytest.raises(InputError, match=r"no trusted TLS connection.*; give the certificates .* --server-ca"):
                connect(Endpoint(url, "small", ca=ca), card)


@pytest.mark.slow
def test_32_clients_at_once(urls, card, local):
    """1,000 requests with slices of different sizes each get their own response."""
    model = connect(Endpoint(urls["grpc"], "small"), card)
    random = np.random.default_rng(0)
    shapes = [(int(random.integers(1, 5)), int(random.choice([24, 40, 48]))) for _ in range(1000)]

    def largest_difference(number):
        slices = images(*shapes[number], seed=number)
        return float(np.abs(model.reconstruct(slices).images - local.reconstruct(slices).images).max())

    with ThreadPoolExecutor(32) as clients:
        differences = list(clients.map(largest_difference, range(1000)))
    assert len(differences) == 1000
    assert max(differences) < 1e-5


@contextmanager
def server_process(repository, port, *arguments):
    command = [sys.executable, Path(__file__).parents[1] / "stand_in.py", repository, "--port", port, "--rest-port", 0]
    process = subprocess.Popen(
        [str(part) for part in (*command, *arguments)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert "stand-in" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_a_server_that_is_killed_and_restarted(repository, card, local, monkeypatch):
    # More delays, because on a slow machine the import of TensorFlow takes longer than all default delays.
    monkeypatch.setattr(remote, "_LATER_DELAYS", (*remote._LATER_DELAYS, *[8.0] * 6))
    port, slices = free_port(), images(400)
    with ThreadPoolExecutor(1) as pool:
        with server_process(repository, port, "--delay", "0.3") as process:
            model = connect(Endpoint(f"grpc://127.0.0.1:{port}", "small"), card)
            result = pool.submit(model.reconstruct, slices)
            # There are 25 requests, four at a time, of 0.3 s each.
            time.sleep(0.8)
            assert not result.done()
            process.send_signal(signal.SIGKILL)
            process.wait()
        with server_process(repository, port):
            np.testing.assert_allclose(result.result(120).images, local.reconstruct(slices).images, atol=1e-5)


@pytest.mark.slow
def test_a_server_that_is_killed_and_not_restarted(repository, card, monkeypatch):
    monkeypatch.setattr(remote, "_LATER_DELAYS", (0.1, 0.1))
    port = free_port()
    with server_process(repository, port, "--delay", "0.3") as process, ThreadPoolExecutor(1) as pool:
        model = connect(Endpoint(f"grpc://127.0.0.1:{port}", "small"), card)
        result = pool.submit(model.reconstruct, images(400))
        time.sleep(0.8)
        process.send_signal(signal.SIGKILL)
        with pytest.raises(InputError, match="no response from TensorFlow Serving"):
            result.result(60)
