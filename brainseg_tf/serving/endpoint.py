"""Where a model is served, and what the clients for gRPC and for REST share."""

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable

# gRPC's default limit for a message; a server or a proxy may hold to it.
MESSAGE_BYTES = 4_000_000
# TensorFlow Serving's words when it cannot join requests into a batch because their slices differ in size.
MIXED_SIZES = "different shapes and padding is turned off"
_PORTS = {"grpc": 8500, "grpcs": 8500, "http": 8501, "https": 8501}
_SHORTEST_TIMEOUT, _LONGEST_TIMEOUT = 0.1, 86_400.0
# Names that /etc/hosts gives to loopback on common systems, beside "localhost" and its subdomains (RFC 6761).
_LOOPBACK_NAMES = {"localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}


@dataclass(frozen=True)
class Endpoint:
    """A served model.

    Attributes:
        url: ``grpc[s]://host:port`` or ``http[s]://host:port``.
        model: its name on the server.
        version, label: of the model; at most one of them, the server's newest version if neither.
        ca: certificates (PEM) that the server's is checked with; the system's if None.
        timeout: seconds that one request may take in total, from the connection to the last byte of the answer.
    """

    url: str
    model: str
    version: int | None = None
    label: str | None = None
    ca: Path | None = None
    timeout: float = 60.0

    def check(self) -> None:
        """Checks all that can be checked without the server.

        Raises:
            InputError: the address, a name, the certificates or the timeout cannot be used.
        """
        self.address()
        for option, name in (("--server-model", self.model), ("--server-label", self.label)):
            if name is not None and not (name and name.isprintable()):
                raise InputError(f"{option}: {printable(name)!r} cannot be a name on a server; give it as it is served")
        if not _SHORTEST_TIMEOUT <= self.timeout <= _LONGEST_TIMEOUT:
            raise InputError(
                f"--server-timeout: {self.timeout} s is out of range; give {_SHORTEST_TIMEOUT} to "
                f"{_LONGEST_TIMEOUT:.0f}"
            )
        if self.ca is None:
            return
        shown = printable(self.ca)
        if not self.ca.is_file():
            raise InputError(f"{shown}: no such file; give the certificates that the server's is checked with")
        try:
            ssl.create_default_context(cafile=str(self.ca))
        except ssl.SSLError as error:
            raise InputError(f"{shown}: holds no PEM certificates; give those of the server's authority") from error
        except OSError as error:
            raise InputError(f"{shown}: cannot be read ({error.strerror}); check its permissions") from error

    def address(self) -> tuple[str, str]:
        """The scheme and ``host:port`` of the URL.

        Raises:
            InputError: the URL has none, or has more than these.
        """
        if "@" in self.url:
            # The URL is not repeated here: a password must not reach a log.
            raise InputError("--server: the address holds a user name, which is not supported; give host and port only")
        try:
            parts = urlsplit(self.url)
            port = _PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
        except ValueError:
            parts, port = urlsplit(""), 0
        whole = parts.scheme in _PORTS and port and _is_host(parts.hostname or "")
        if not whole or parts.path.strip("/") or parts.query or parts.fragment or not self.url.isprintable():
            raise InputError(
                f"{printable(self.url)}: is no server's address; give grpc://host:8500 or http://host:8501"
            )
        host = f"[{self.host}]" if ":" in self.host else self.host
        return parts.scheme, f"{host}:{port}"

    @property
    def host(self) -> str:
        """The host's name or number, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def path(self) -> str:
        """The model and its version as a path of the REST API."""
        model = quote(self.model, safe="")
        if self.version is not None:
            return f"{model}/versions/{self.version}"
        return model if self.label is None else f"{model}/labels/{quote(self.label, safe='')}"

    def __str__(self) -> str:
        which = f" version {self.version}" if self.version else f" label {self.label}" if self.label else ""
        return f"{self.url}: model {self.model}{which}"


class RetryableError(Exception):
    """A request failed in a way that may pass: no answer, a busy server, or a batch that could not be joined."""

    @classmethod
    def of_mixed_sizes(cls, endpoint: Endpoint) -> "RetryableError":
        """The server could not join the request with another client's."""
        return cls(
            f"{endpoint}: batches these slices with another client's of another size, which fails; try again later, or "
            "serve the model without batching.config"
        )


@dataclass(frozen=True)
class Route:
    """How requests reach an endpoint: straight, or through a proxy that the environment names.

    Attributes:
        endpoint: where they go.
        variable: the environment variable that names the proxy; None without one.
    """

    endpoint: Endpoint
    variable: str | None = None

    def failure(self, problem: str, remedy: str, *, of_model: bool = False) -> str:
        """One line about a failed request; it names the variable if a proxy is in use.

        Args:
            problem: what happened.
            remedy: what the user can do.
            of_model: names the model too, not only the server.
        """
        subject = str(self.endpoint) if of_model else self.endpoint.url
        if self.variable is None:
            return f"{subject}: {problem}; {remedy}"
        return (
            f"{subject}: {problem}; {remedy}; the request went through the proxy that {self.variable} names: add "
            f"{self.endpoint.host} to no_proxy if it needs none"
        )


def is_loopback(host: str) -> bool:
    """Whether a host's name or number is this machine's own, so that no proxy can reach it."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name in _LOOPBACK_NAMES:
        return True
    try:
        # Accepts what the system's resolver accepts, also 127.1.
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv4Address(socket.inet_aton(name))
    except OSError:
        try:
            address = ipaddress.IPv6Address(name)
        except ValueError:
            return False
        address = address.ipv4_mapped or address
    # A connection to 0.0.0.0 or :: reaches this machine.
    return address.is_loopback or address.is_unspecified


def excerpt(text: object, most: int = 300) -> str:
    """What a server said, for a message: one line, no control characters, at most ``most`` characters and dots."""
    # Cut twice: escapes are longer than what they stand for.
    line = printable(" ".join(str(text)[: 10 * most].split()))
    return line if len(line) <= most else f"{line[:most]}..."


def wrong_shape(endpoint: Endpoint, name: str, shape: tuple[int, ...], images: tuple[int, ...]) -> InputError:
    """An output has not the shape that an answer to ``images`` has."""
    return InputError(
        f"{endpoint}: gave {name} of shape {excerpt(shape)} for slices of {images}; serve what brainseg-tf export wrote"
    )


def _is_host(host: str) -> bool:
    return bool(host) and not any(character.isspace() or character in "\\\"'<>^`{|}" for character in host)
