"""TensorFlow Serving's PredictionService over gRPC."""

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
    Endpoint,
    RetryableError,
    Route,
    excerpt,
    is_loopback,
    wrong_shape,
)

# A request is made so that its answer stays under MESSAGE_BYTES, but one slice is the least that can be asked for:
# with four modalities and 1,024 pixels a side, reconstruction, residual and probability take 38 MB.
_MOST_BYTES = 16 * MESSAGE_BYTES
_RETRYABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)
# gRPC's words for a message over the limit; the code is RESOURCE_EXHAUSTED, but another try is as large.
_TOO_LARGE = "message larger than max"
# The variables that gRPC reads, in its order, in lower case only.
_PROXIES, _NO_PROXY = ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy")


class GrpcClient:
    """See ``remote.Client``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        scheme, target = endpoint.address()
        variable = _variable(endpoint.host, target)
        self._route = Route(endpoint, variable)
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", _MOST_BYTES),
            ("grpc.max_send_message_length", -1),
            # Reconnects as often as requests are tried again, instead of backing off to minutes.
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
        """The proxy's URL; gRPC itself does not take one without a scheme, and goes past one of another scheme."""
        try:
            proxy = prepend_scheme_if_needed(os.environ[variable], "http")
        except ValueError:
            proxy = ""
        if not proxy.startswith("http://"):
            raise InputError(
                self._route.failure("gRPC works with proxies of http:// only", f"give {variable} such an address")
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
            answer = self._stub.Predict(request, timeout=self._endpoint.timeout)
        except grpc.RpcError as error:
            raise self._explained(error) from error
        given = answer.outputs
        return {name: self._array(name, given[name], images) for name in outputs if name in given}

    def _array(self, name: str, values: Any, images: np.ndarray) -> np.ndarray:
        # A few bytes can claim any shape, since one value may stand for all that follow it.
        shape = tuple(int(one.size) for one in values.tensor_shape.dim)
        unknown = values.tensor_shape.unknown_rank or any(size < 0 for size in shape)
        if unknown or math.prod(shape) > images.size:
            raise wrong_shape(self._endpoint, name, shape, images.shape)
        try:
            return tf.make_ndarray(values)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise InputError(
                f"{self._endpoint}: gave {name} as a tensor that cannot be read ({excerpt(error)}); serve what "
                "brainseg-tf export wrote"
            ) from error

    def _explained(self, error: grpc.RpcError) -> Exception:
        code, words = error.code(), error.details() or ""
        details = excerpt(words)
        if code == grpc.StatusCode.UNAVAILABLE and ("SSL" in words or "certificate" in words.lower()):
            return InputError(
                self._route.failure(
                    "no trusted connection",
                    "give its authority's certificates with --server-ca, or leave the s of the scheme out if it has "
                    "none",
                )
            )
        if MIXED_SIZES in words:
            return RetryableError.of_mixed_sizes(self._endpoint)
        if _TOO_LARGE in words:
            problem = f"a message is larger than is allowed ({details})"
            remedy = "check host and port, and serve what brainseg-tf export wrote"
            return InputError(self._route.failure(problem, remedy, of_model=True))
        if code in _RETRYABLE:
            return RetryableError(
                self._route.failure(
                    f"no answer from TensorFlow Serving ({code.name}: {details})",
                    "check that it runs and that this is its gRPC port, 8500 unless it was changed",
                )
            )
        if code == grpc.StatusCode.NOT_FOUND or "version label" in words:
            remedy = "check --server-model, version and label"
            return InputError(self._route.failure(f"is not served ({details})", remedy, of_model=True))
        return InputError(
            self._route.failure(
                f"refused the request ({code.name}: {details})", "serve what brainseg-tf export wrote", of_model=True
            )
        )


def _variable(host: str, target: str) -> str | None:
    """The variable that names the proxy to a host, None if it is reached without one."""
    variable = _first_set(_PROXIES)
    if variable is None or is_loopback(host):
        return None
    exceptions = _first_set(_NO_PROXY)
    if exceptions and should_bypass_proxies(f"http://{target}", no_proxy=os.environ[exceptions]):
        return None
    return variable


def _first_set(names: Sequence[str]) -> str | None:
    return next((name for name in names if os.environ.get(name)), None)
