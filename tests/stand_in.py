"""A stand-in for TensorFlow Serving. It is NOT TensorFlow Serving, so it does not prove how the real server behaves.

No package registry has a TensorFlow Serving binary that could be installed. The stand-in implements its protocols:
PredictionService and ModelService over gRPC with the original protos, and the REST API over HTTP. It runs SavedModels
with TensorFlow's Python runtime. It does not batch, poll for new versions, or replay warmup requests. Its error codes
and messages follow the source code of the real server as far as the tests need them. With
BRAINSEG_TFS=grpc://host:8500 a test also uses a real server.

    python tests/stand_in.py MODELS --port 8500 --rest-port 8501
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
}
Outputs = dict[str, np.ndarray]


class RefusalError(Exception):
    """A response with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass
class Faults:
    """Simulated faults of the server.

    Attributes:
        refused: number of predictions that are refused before the others are accepted.
        refusal: the error with which they are refused.
        delay: seconds before each response.
        spoil: changes the outputs of ``serving_default``.
    """

    refused: int = 0
    refusal: RefusalError = field(default_factory=lambda: RefusalError(grpc.StatusCode.UNAVAILABLE, "on purpose"))
    delay: float = 0.0
    spoil: Callable[[Outputs], Outputs] = lambda outputs: outputs
    lock: threading.Lock = field(default_factory=threading.Lock)

    def apply(self) -> None:
        time.sleep(self.delay)
        with self.lock:
            if self.refused:
                self.refused -= 1
                raise self.refusal


class Models:
    """The SavedModels of a repository with folders NAME/VERSION/.

    Args:
        repository: the folder.
        labels: version labels, ``{name: {label: version}}``.
    """

    def __init__(self, repository: Path, labels: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self.labels = labels or {}
        self.folders = {
            (folder.parent.name, int(folder.name)): folder
            for folder in sorted(repository.glob("*/*"))
            if folder.name.isdigit()
        }
        self.loaded = {key: tf.saved_model.load(str(folder)) for key, folder in self.folders.items()}

    def versions(self, name: str) -> list[int]:
        return sorted(version for known, version in self.folders if known == name)

    def find(self, name: str, version: int | None, label: str) -> tuple[str, int]:
        if label:
            if label not in self.labels.get(name, {}):
                raise RefusalError(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            version = self.labels[name][label]
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        versions = self.versions(name)
        version = versions[-1] if version is None and versions else version
        if version not in versions:
            raise RefusalError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")
        return name, version

    def definitions(self, key: tuple[str, int]) -> dict:
        saved = SavedModel.FromString((self.folders[key] / "saved_model.pb").read_bytes())
        return dict(saved.meta_graphs[0].signature_def)

    def predict(self, key: tuple[str, int], signature: str, inputs: Outputs, wanted: list[str]) -> Outputs:
        signatures = self.loaded[key].signatures
        if signature not in signatures:
            raise RefusalError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.')
        function = signatures[signature]
        expected = function.structured_input_signature[1]
        if set(inputs) != set(expected):
            raise RefusalError(
                grpc.StatusCode.INVALID_ARGUMENT, f"input size does not match signature: {sorted(inputs)}"
            )
        for name, values in list(inputs.items()):
            if values.dtype == np.float64:  # From JSON, which has no types.
                values = inputs[name] = values.astype(expected[name].dtype.as_numpy_dtype)
            if not expected[name].shape.is_compatible_with(values.shape) or values.dtype != expected[name].dtype:
                raise RefusalError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Input {name}: {values.dtype} {values.shape} does not fit {expected[name]}",
                )
        outputs = {
            name: value.numpy() for name, value in function(**{k: tf.constant(v) for k, v in inputs.items()}).items()
        }
        for name in wanted:
            if name not in outputs:
                raise RefusalError(
                    grpc.StatusCode.INVALID_ARGUMENT, f"output tensor alias not found in signature: {name}"
                )
        return {name: outputs[name] for name in wanted or outputs}


class _Grpc(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: Models, faults: Faults) -> None:
        self.models, self.faults = models, faults

    def _find(self, spec: object) -> tuple[str, int]:
        version = spec.version.value if spec.HasField("version") else None
        return self.models.find(spec.name, version, spec.version_label)

    def Predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> object:  # noqa: N802
        try:
            self.faults.apply()
            key = self._find(request.model_spec)
            signature = request.model_spec.signature_name or "serving_default"
            inputs = {name: tf.make_ndarray(values) for name, values in request.inputs.items()}
            outputs = self.models.predict(key, signature, inputs, list(request.output_filter))
            outputs = self.faults.spoil(outputs) if signature == "serving_default" else outputs
        except RefusalError as refusal:
            context.abort(refusal.code, refusal.text)
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.version.value = key
        response.model_spec.signature_name = signature
        for name, values in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
        return response

    def GetModelMetadata(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802
        try:
            key = self._find(request.model_spec)
        except RefusalError as refusal:
            context.abort(refusal.code, refusal.text)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name, response.model_spec.version.value = key
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in self.models.definitions(key).items():
            signatures.signature_def[name].CopyFrom(definition)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self.models.versions(request.model_spec.name):
            response.model_version_status.add(version=version, state="AVAILABLE")
        if not response.model_version_status:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        return response


class _Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: Models
    faults: Faults

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, work: Callable[[], object]) -> None:
        try:
            status, content = 200, work()
        except RefusalError as refusal:
            status, content = _HTTP[refusal.code], {"error": refusal.text}
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _key(self) -> tuple[str, int]:
        path = self.path.partition(":")[0].removesuffix("/metadata").split("/")
        if path[:3] != ["", "v1", "models"] or len(path) not in (4, 6):
            raise RefusalError(grpc.StatusCode.INVALID_ARGUMENT, f"Malformed request: {self.command} {self.path}")
        which = dict([path[4:6]]) if len(path) == 6 else {}
        version = int(which["versions"]) if "versions" in which else None
        return self.models.find(path[3], version, which.get("labels", ""))

    def do_GET(self) -> None:
        self._answer(self._metadata if self.path.endswith("/metadata") else self._status)

    def _status(self) -> object:
        name, version = self._key()
        versions = [version] if "/versions/" in self.path else reversed(self.models.versions(name))
        fine = {"error_code": "OK", "error_message": ""}
        return {
            "model_version_status": [{"version": str(one), "state": "AVAILABLE", "status": fine} for one in versions]
        }

    def _metadata(self) -> object:
        name, version = self._key()
        definitions = self.models.definitions((name, version)).items()
        named = {key: json_format.MessageToDict(one, preserving_proto_field_name=True) for key, one in definitions}
        return {
            "model_spec": {"name": name, "signature_name": "", "version": str(version)},
            "metadata": {"signature_def": {"signature_def": named}},
        }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(lambda: self._predict(body))

    def _predict(self, body: bytes) -> object:
        self.faults.apply()
        if not self.path.endswith(":predict"):
            raise RefusalError(grpc.StatusCode.INVALID_ARGUMENT, f"Malformed request: POST {self.path}")
        key = self._key()
        try:
            request = json.loads(body)
            rows = "instances" in request
            given = request["instances"] if rows else request["inputs"]
        except (ValueError, KeyError, TypeError) as error:
            raise RefusalError(grpc.StatusCode.INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
        signature = request.get("signature_name", "serving_default")
        if rows and isinstance(given[0], dict):
            given = {name: [row[name] for row in given] for name in given[0]}
        named = given if isinstance(given, dict) else {"images": given}
        inputs = {name: np.asarray(values, np.float64) for name, values in named.items()}
        outputs = self.models.predict(key, signature, inputs, [])
        outputs = self.faults.spoil(outputs) if signature == "serving_default" else outputs
        plain = {name: _plain(values) for name, values in outputs.items()}
        if rows:
            columns = [[{name: value} for value in values] for name, values in plain.items()]
            merged = [{k: v for one in row for k, v in one.items()} for row in zip(*columns, strict=True)]
            return {"predictions": merged if len(plain) > 1 else next(iter(plain.values()))}
        return {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}


def _plain(values: np.ndarray) -> list:
    return [one.decode() for one in values] if values.dtype == object else values.tolist()


class StandIn:
    """The gRPC and the REST server, as a context manager.

    Args:
        models: the served models.
        faults: simulated faults.
        port, rest_port: ports for gRPC and REST; 0 takes free ports.
        tls: files of the private key and of the certificate chain; no TLS if None.
    """

    def __init__(
        self,
        models: Models,
        faults: Faults | None = None,
        port: int = 0,
        rest_port: int = 0,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.faults = faults or Faults()
        self._grpc = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
        servicer = _Grpc(models, self.faults)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, self._grpc)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, self._grpc)
        handler = type("Handler", (_Rest,), {"models": models, "faults": self.faults})
        self._rest = ThreadingHTTPServer(("127.0.0.1", rest_port), handler)
        self._rest.daemon_threads = True
        address = f"127.0.0.1:{port}"
        if tls:
            key, chain = (file.read_bytes() for file in tls)
            self.port = self._grpc.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
            context = SSLContext(PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls[1], tls[0])
            self._rest.socket = context.wrap_socket(self._rest.socket, server_side=True)
        else:
            self.port = self._grpc.add_insecure_port(address)
        self.rest_port = self._rest.server_address[1]

    def __enter__(self) -> "StandIn":
        self._grpc.start()
        threading.Thread(target=self._rest.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()

    def urls(self, secure: bool = False) -> Iterator[str]:
        s = "s" if secure else ""
        yield f"grpc{s}://localhost:{self.port}"
        yield f"http{s}://localhost:{self.rest_port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--rest-port", type=int, default=8501)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each response")
    given = parser.parse_args()
    models = Models(given.models)
    with StandIn(models, Faults(delay=given.delay), given.port, given.rest_port) as server:
        print(f"stand-in for TensorFlow Serving: {', '.join(server.urls())}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
