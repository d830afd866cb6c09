"""Client for TensorFlow Serving's PredictionService over gRPC."""

import math
import os
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from requests.utils import prepend_scheme_if_needed, should_bypass_proxies
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from brainseg_tf.errors import InputError
from brainseg_tf.serving.endpoint import (
    MESSAGE_BYTES,
    MIXED_SIZES,
    SERVE_EXPORTED,
    Endpoint,
    NotServedError,
    RetryableError,
    Route,
    excerpt,
    is_loopback,
    wrong_shape,
)

# Largest response. Requests are divided so that responses stay below MESSAGE_BYTES, but a single large slice can exceed
# it: with four modalities and 1,024 x 1,024 pixels, reconstruction, residual and probability have 38 MB.
_MOST_BYTES = 16 * MESSAGE_BYTES
_RETRYABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)
# Part of gRPC's error message if a message exceeds the limit. The code is RESOURCE_EXHAUSTED, but a retry is useless.
_TOO_LARGE = "message larger than max"
# The environment variables that gRPC reads, in its order, only in lower case.
_PROXIES, _NO_PROXY = ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy")


class GrpcClient:
    """Implements ``remote.Client``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        scheme, target = endpoint.address()
        variable = _proxy_variable(endpoint.host, target)
        self._route = Route(endpoint, variable)
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", _MOST_BYTES),
            ("grpc.max_send_message_length", -1),
            # By default gRPC waits up to minutes before it reconnects, which is longer than all retries.
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", int(variable is not None)),
        ]
        if variable is not None:
            options.append(("grpc.http_proxy", self._proxy(variable)))
        if scheme == "grpcs":
            certificates = endpoint.ca.read_bytes() if endpoint.ca else None
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(certificates), options)
        else:
            channel = grpc.insecure_channel(target, options)
        self._stub = PredictionServiceStub(channel)

    def _proxy(self, variable: str) -> str:
        """The URL of the proxy.

        gRPC does not accept a proxy address without a scheme, and silently ignores a proxy with another scheme than
        http.

        Raises:
            InputError: the variable does not contain an http:// address.
        """
        try:
            proxy = prepend_scheme_if_needed(os.environ[variable], "http")
        except ValueError:
            proxy = ""
        if not proxy.startswith("http://"):
            raise InputError(
                self._route.failure("gRPC supports only http:// proxies", f"set {variable} to such an address")
            )
        return proxy

    def predict(self, signature: str, images: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        request = PredictRequest(output_filter=outputs)
        request.model_spec.name = self._endpoint.model
        request.model_spec.signature_name = signature
        if self._endpoint.version is not None:
            request.model_spec.version.value = self._endpoint.version
        elif self._endpoint.label is not None:
            request.model_spec.version_label = self._endpoint.label
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
        try:
            response = self._stub.Predict(request, timeout=self._endpoint.timeout)
        except grpc.RpcError as error:
            raise self._explain(error) from error
        returned = response.outputs
        return {name: self._array(name, returned[name], images) for name in outputs if name in returned}

    def _array(self, name: str, values: Any, images: np.ndarray) -> np.ndarray:
        # The shape is checked first: a constant tensor of a few bytes can have a shape that exceeds the memory.
        shape = tuple(int(one.size) for one in values.tensor_shape.dim)
        unknown = values.tensor_shape.unknown_rank or any(size < 0 for size in shape)
        if unknown or math.prod(shape) > images.size:
            raise wrong_shape(self._endpoint, name, shape, images.shape)
        try:
            return tf.make_ndarray(values)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise InputError(
                f"{self._endpoint}: the output {name} cannot be read as a tensor ({excerpt(error)}); {SERVE_EXPORTED}"
            ) from error

    def _explain(self, error: grpc.RpcError) -> Exception:
        """The exception to raise for an error of gRPC or of the server."""
        code, text = error.code(), error.details() or ""
        details = excerpt(text)
        if code == grpc.StatusCode.UNAVAILABLE and ("SSL" in text or "certificate" in text.lower()):
            return InputError(
                self._route.failure(
                    "no trusted TLS connection",
                    "give the certificates of the server's authority with --server-ca, or use grpc:// if the server "
                    "has no TLS",
                )
            )
        if MIXED_SIZES in text:
            return RetryableError.of_mixed_sizes(self._endpoint)
        if _TOO_LARGE in text:
            problem = f"a message exceeds the size limit ({details})"
            return InputError(self._route.failure(problem, f"check host and port, and {SERVE_EXPORTED}", of_model=True))
        if code in _RETRYABLE:
            return RetryableError(
                self._route.failure(
                    f"no response from TensorFlow Serving ({code.name}: {details})",
                    "check that it runs and that this is its gRPC port, by default 8500",
                )
            )
        if code == grpc.StatusCode.NOT_FOUND or "version label" in text:
            remedy = "check --server-model, --server-version and --server-label"
            return NotServedError(self._route.failure(f"is not served ({details})", remedy, of_model=True))
        return InputError(
            self._route.failure(f"refused the request ({code.name}: {details})", SERVE_EXPORTED, of_model=True)
        )


def _proxy_variable(host: str, target: str) -> str | None:
    """The environment variable with the address of the proxy for a host; None if no proxy is used."""
    variable = _first_defined(_PROXIES)
    if variable is None or is_loopback(host):
        return None
    exceptions = _first_defined(_NO_PROXY)
    if exceptions and should_bypass_proxies(f"http://{target}", no_proxy=os.environ[exceptions]):
        return None
    return variable


def _first_defined(names: Sequence[str]) -> str | None:
    return next((name for name in names if os.environ.get(name)), None)
