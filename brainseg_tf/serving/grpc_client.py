"""TensorFlow Serving's PredictionService over gRPC."""

from collections.abc import Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from brainseg_tf.errors import InputError
from brainseg_tf.serving.remote import MIXED_SIZES, MayPassError, Served

_MAY_PASS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)


class GrpcClient:
    """See ``remote.Client``."""

    def __init__(self, served: Served) -> None:
        self._served = served
        scheme, target = served.address()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        # Reconnects as often as requests are tried again, instead of backing off to minutes.
        options.append(("grpc.max_reconnect_backoff_ms", 1000))
        if scheme == "grpcs":
            certificates = served.ca.read_bytes() if served.ca else None
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(certificates), options)
        else:
            channel = grpc.insecure_channel(target, options)
        self._stub = PredictionServiceStub(channel)

    def predict(self, signature: str, images: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        request = PredictRequest(output_filter=outputs)
        request.model_spec.name = self._served.model
        request.model_spec.signature_name = signature
        if self._served.version is not None:
            request.model_spec.version.value = self._served.version
        elif self._served.label is not None:
            request.model_spec.version_label = self._served.label
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
        try:
            answer = self._stub.Predict(request, timeout=self._served.timeout)
        except grpc.RpcError as error:
            raise self._explained(error) from error
        return {name: tf.make_ndarray(values) for name, values in answer.outputs.items()}

    def _explained(self, error: grpc.RpcError) -> Exception:
        code, details = error.code(), " ".join((error.details() or "").split())
        if code == grpc.StatusCode.UNAVAILABLE and ("SSL" in details or "certificate" in details.lower()):
            return InputError(
                f"{self._served.url}: no trusted connection; give its authority's certificates with --server-ca, or "
                "leave the s of the scheme out if it has none"
            )
        if MIXED_SIZES in details:
            return MayPassError.of_mixed_sizes(self._served)
        if code in _MAY_PASS:
            return MayPassError(
                f"{self._served.url}: no answer from TensorFlow Serving ({code.name}: {details}); check that it runs "
                "and that this is its gRPC port, 8500 unless it was changed"
            )
        if code == grpc.StatusCode.NOT_FOUND or "version label" in details:
            return InputError(f"{self._served}: is not served ({details}); check --server-model, version and label")
        return InputError(
            f"{self._served}: refused the request ({code.name}: {details}); serve what brainseg-tf export laid out"
        )
