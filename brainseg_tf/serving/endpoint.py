"""The address of a served model, and the parts that the gRPC and the REST client share."""

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable

# gRPC's default limit for the size of a message, which a server or a proxy may apply.
MESSAGE_BYTES = 4_000_000
# Part of TensorFlow Serving's error message if it cannot batch requests because their slices differ in size.
MIXED_SIZES = "different shapes and padding is turned off"
# Remedy in messages about a model with other signatures or outputs than those of an exported one.
SERVE_EXPORTED = "serve a model that brainseg-tf export wrote"
_PORTS = {"grpc": 8500, "grpcs": 8500, "http": 8501, "https": 8501}
_SHORTEST_TIMEOUT, _LONGEST_TIMEOUT = 0.1, 86_400.0
# Names of the loopback address in /etc/hosts of common systems, besides "localhost" and its subdomains (RFC 6761).
_LOOPBACK_NAMES = {"localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}


@dataclass(frozen=True)
class Endpoint:
    """The address of a served model.

    Attributes:
        url: ``grpc[s]://host:port`` or ``http[s]://host:port``.
        model: name of the model on the server.
        version, label: of the model; at most one of them. If both are None, the server uses the newest version.
        ca: PEM file with the certificates of the authority that signed the server's certificate; the system's
            certificates if None.
        timeout: time limit of a request in seconds, from opening the connection to the last byte of the response.
    """

    url: str
    model: str
    version: int | None = None
    label: str | None = None
    ca: Path | None = None
    timeout: float = 60.0

    def check(self) -> None:
        """Checks the attributes, without connecting to the server.

        Raises:
            InputError: the address, a name, the certificates or the timeout are invalid.
        """
        self.address()
        for option, name in (("--server-model", self.model), ("--server-label", self.label)):
            if name is not None and not (name and name.isprintable()):
                raise InputError(
                    f"{option}: {printable(name)!r} is not a valid name; give the name that the server uses"
                )
        if not _SHORTEST_TIMEOUT <= self.timeout <= _LONGEST_TIMEOUT:
            raise InputError(
                f"--server-timeout: {self.timeout} s is out of range; give {_SHORTEST_TIMEOUT} to "
                f"{_LONGEST_TIMEOUT:.0f}"
            )
        if self.ca is None:
            return
        file = printable(self.ca)
        if not self.ca.is_file():
            raise InputError(f"{file}: no such file; give the certificates of the server's authority")
        try:
            ssl.create_default_context(cafile=str(self.ca))
        except ssl.SSLError as error:
            raise InputError(
                f"{file}: contains no PEM certificates; give the certificates of the server's authority"
            ) from error
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error

    def address(self) -> tuple[str, str]:
        """The scheme and ``host:port`` of the URL.

        Raises:
            InputError: the URL is invalid, or has other parts than these.
        """
        if "@" in self.url:
            # The message does not contain the URL, so that a password in it does not get into a log.
            raise InputError(
                "--server: the address contains a user name, which is not supported; give only host and port"
            )
        try:
            parts = urlsplit(self.url)
            port = _PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
        except ValueError:
            parts, port = urlsplit(""), 0
        valid = parts.scheme in _PORTS and port and _is_host(parts.hostname or "")
        if not valid or parts.path.strip("/") or parts.query or parts.fragment or not self.url.isprintable():
            raise InputError(
                f"{printable(self.url)}: is not a server address; give grpc://host:8500 or http://host:8501"
            )
        host = f"[{self.host}]" if ":" in self.host else self.host
        return parts.scheme, f"{host}:{port}"

    @property
    def host(self) -> str:
        """The host's name or IP address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def path(self) -> str:
        """Model and version as a path in the REST API."""
        model = quote(self.model, safe="")
        if self.version is not None:
            return f"{model}/versions/{self.version}"
        return model if self.label is None else f"{model}/labels/{quote(self.label, safe='')}"

    def __str__(self) -> str:
        version = f" version {self.version}" if self.version else f" label {self.label}" if self.label else ""
        return f"{self.url}: model {self.model}{version}"


class NotServedError(InputError):
    """The server does not have the model, or not this version of it."""


class RetryableError(Exception):
    """A temporary failure: no response, a busy server, or a batch that the server could not form."""

    @classmethod
    def of_mixed_sizes(cls, endpoint: Endpoint) -> "RetryableError":
        """The error if the server could not batch the request with that of another client."""
        return cls(
            f"{endpoint}: cannot batch these slices with those of another client, which differ in size; try again "
            "later, or serve the model without batching.config"
        )


@dataclass(frozen=True)
class Route:
    """How requests reach an endpoint: directly, or through a proxy from an environment variable.

    Attributes:
        endpoint: the endpoint.
        variable: the environment variable with the proxy's address; None for a direct connection.
    """

    endpoint: Endpoint
    variable: str | None = None

    def failure(self, problem: str, remedy: str, *, of_model: bool = False) -> str:
        """A message of one line about a failed request. It names the variable if a proxy is used.

        Args:
            problem: what went wrong.
            remedy: what the user can do.
            of_model: whether the message names the model and not only the server.
        """
        subject = str(self.endpoint) if of_model else self.endpoint.url
        if self.variable is None:
            return f"{subject}: {problem}; {remedy}"
        return (
            f"{subject}: {problem}; {remedy}; the request was sent through the proxy in {self.variable}: add "
            f"{self.endpoint.host} to no_proxy to connect directly"
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address means this machine, so that requests must not go through a proxy."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name in _LOOPBACK_NAMES:
        return True
    try:
        # inet_aton accepts all forms that the system's resolver accepts, such as 127.1.
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
    """A server's text as one line without control characters, shortened to ``most`` characters, for a message."""
    # The text is cut before and after escaping: escaping can make it longer.
    line = printable(" ".join(str(text)[: 10 * most].split()))
    return line if len(line) <= most else f"{line[:most]}..."


def wrong_shape(endpoint: Endpoint, name: str, shape: tuple[int, ...], images: tuple[int, ...]) -> InputError:
    """The error if the shape of an output does not fit the slices.

    Args:
        endpoint: the served model.
        name: of the output.
        shape: of the output.
        images: shape of the slices.
    """
    return InputError(
        f"{endpoint}: the output {name} has shape {excerpt(shape)} for slices of shape {images}; {SERVE_EXPORTED}"
    )


def _is_host(host: str) -> bool:
    return bool(host) and not any(character.isspace() or character in "\\\"'<>^`{|}" for character in host)
