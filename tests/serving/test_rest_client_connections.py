"""Redirects, passwords, proxies and certificates of the REST client."""

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.saved_model import find
from brainseg_tf.serving import rest_client
from brainseg_tf.serving.endpoint import Endpoint
from brainseg_tf.serving.remote import connect
from raw_server import IMAGES, one_line, outputs, page, reconstructed, serving


@pytest.fixture(scope="module")
def card():
    return find("cvae").card


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
