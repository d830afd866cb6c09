"""Server addresses, and loopback addresses."""

from pathlib import Path

import pytest
import trustme

from brainseg_tf.errors import InputError
from brainseg_tf.serving.endpoint import Endpoint, Route, excerpt, is_loopback


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grpc://localhost", ("grpc", "localhost:8500")),
        ("grpcs://tfs.example", ("grpcs", "tfs.example:8500")),
        ("http://localhost", ("http", "localhost:8501")),
        ("HTTPS://Tfs.example:443/", ("https", "tfs.example:443")),
        ("http://[::1]:9000", ("http", "[::1]:9000")),
        ("http://[fe80::1%eth0]", ("http", "[fe80::1%eth0]:8501")),
    ],
)
def test_addresses(url, address):
    assert Endpoint(url, "small").address() == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8500",
        "ftp://localhost:1",
        "grpc://",
        "grpc://a:b",
        "grpc://a:0",
        "grpc://a:70000",
        "http://a:1/v1/models",
        "http://a:1?x=1",
        "http://a:1#x",
        "http://[::1",
        "http://[zz]:1",
        "http://a b:1",
        "http://a\\b:1",
        "grpc://a\n:1",
        "grpc://a\udcff:1",
        "grpc://a\x1b[31m:1",
    ],
)
def test_an_invalid_address_is_refused(url):
    with pytest.raises(InputError, match="is not a server address; give grpc://host:8500 or http://host:8501") as error:
        Endpoint(url, "small").check()
    assert str(error.value).isprintable()


@pytest.mark.parametrize("url", ["https://me:secret@tfs.example:443", "grpc://me:secret@[::1", "http://secret@a:b"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="contains a user name, which is not supported") as error:
        Endpoint(url, "small").check()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "--server-model: '' is not a valid name"),
        ({"model": "a\nb"}, r"--server-model: .* is not a valid name"),
        ({"label": "a\udcff"}, r"--server-label: .*xff.* is not a valid name"),
        ({"timeout": float("nan")}, "--server-timeout: nan s is out of range"),
        ({"timeout": float("inf")}, "--server-timeout: inf s is out of range"),
        ({"timeout": 0.0}, "--server-timeout: 0.0 s is out of range"),
    ],
)
def test_invalid_names_and_timeouts_are_refused(changes, message):
    with pytest.raises(InputError, match=message) as error:
        Endpoint(**({"url": "grpc://localhost", "model": "small"} | changes)).check()
    assert str(error.value).isprintable()


def test_certificates_are_checked_before_a_connection(tmp_path):
    def check(file: Path) -> None:
        Endpoint("https://localhost", "small", ca=file).check()

    good, bad = tmp_path / "ca.pem", tmp_path / "bad.pem"
    trustme.CA().cert_pem.write_to_path(good)
    check(good)
    bad.write_text("no certificate")
    with pytest.raises(InputError, match="bad.pem: contains no PEM certificates"):
        check(bad)
    with pytest.raises(InputError, match="nowhere.pem: no such file"):
        check(tmp_path / "nowhere.pem")
    with pytest.raises(InputError, match="no such file"):
        check(tmp_path)


def test_names_are_quoted_in_the_path():
    assert Endpoint("http://a", "../x?y", label="a/b").path == "..%2Fx%3Fy/labels/a%2Fb"
    assert Endpoint("http://a", "small", version=3).path == "small/versions/3"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "tfs.localhost",
        "ip6-localhost",
        "127.0.0.1",
        "127.255.3.4",
        "127.1",
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::1%lo",
    ],
)
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "tfs", "localhost.example", "notlocalhost", "128.0.0.1", "10.0.0.1", "::2", "::ffff:10.0.0.1"]
)
def test_addresses_that_are_not_loopback(host):
    assert not is_loopback(host)


def test_text_from_a_server_is_shortened_and_escaped():
    assert excerpt("a\n b\t\x1b[31m") == "a b \\x1b[31m"
    assert excerpt("x" * 301) == "x" * 300 + "..."
    assert excerpt("\x00" * 1000) == ("\\x00" * 75) + "..."
    assert excerpt("\ud800") == "\\ud800"


def test_a_failure_names_the_proxy():
    endpoint = Endpoint("http://tfs.example:8501", "small")
    assert Route(endpoint).failure("p", "r", of_model=True) == "http://tfs.example:8501: model small: p; r"
    assert Route(endpoint, "http_proxy").failure("p", "r") == (
        "http://tfs.example:8501: p; r; the request was sent through the proxy in http_proxy: add tfs.example to "
        "no_proxy to connect directly"
    )
