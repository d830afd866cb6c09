"""Parts of TensorFlow Serving's API in the stand-in that the client does not use, but for instance curl does."""

import grpc
import numpy as np
import pytest
import requests
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from brainseg_tf.saved_model import find
from stand_in import Faults


def test_rows_and_columns(urls, trained):
    slices = np.random.default_rng(0).random((2, 48, 48, 1)).astype(np.float32)
    url = f"{urls['http']}/v1/models/small:predict"
    expected = find(str(trained)).load().reconstruct(slices).images
    for rows in (slices.tolist(), [{"images": one.tolist()} for one in slices]):
        answer = requests.post(url, json={"instances": rows}, timeout=10).json()["predictions"]
        np.testing.assert_array_equal(np.array([row["reconstruction"] for row in answer], np.float32), expected)
    answer = requests.post(url, json={"inputs": {"images": slices.tolist()}}, timeout=10).json()["outputs"]
    np.testing.assert_array_equal(np.array(answer["reconstruction"], np.float32), expected)
    only = {"signature_name": "anomaly_score", "instances": slices.tolist()}
    assert np.array(requests.post(url, json=only, timeout=10).json()["predictions"]).shape == (2, 48, 48)


def test_status_and_metadata(urls):
    base = f"{urls['http']}/v1/models/small"
    status = requests.get(base, timeout=10).json()["model_version_status"]
    assert [(one["version"], one["state"]) for one in status] == [("2", "AVAILABLE"), ("1", "AVAILABLE")]
    (one,) = requests.get(f"{base}/versions/1", timeout=10).json()["model_version_status"]
    assert one["version"] == "1"
    metadata = requests.get(f"{base}/labels/stable/metadata", timeout=10).json()
    assert metadata["model_spec"]["version"] == "1"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) >= {"serving_default", "encode", "anomaly_score", "describe"}
    assert set(signatures["serving_default"]["outputs"]) == {"reconstruction", "residual"}


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        ("nonsense:predict", b'{"instances": [1]}', 404, "Servable not found"),
        ("small:predict", b"{", 400, "JSON Parse error"),
        ("small:predict", b'{"instances": [[1, 2]]}', 400, "does not fit"),
        ("small:predict", b'{"signature_name": "x", "instances": [1]}', 412, "not found"),
        ("small:nonsense", b'{"instances": [1]}', 400, "Malformed request"),
    ],
)
def test_error_codes(urls, path, body, code, message):
    answer = requests.post(f"{urls['http']}/v1/models/{path}", data=body, timeout=10)
    assert answer.status_code == code
    assert message in answer.json()["error"]


def test_status_and_metadata_over_grpc(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name, request.model_spec.version_label = "small", "stable"
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert answer.metadata["signature_def"].Unpack(signatures)
        images = signatures.signature_def["serving_default"].inputs["images"]
        assert [one.size for one in images.tensor_shape.dim] == [-1, -1, -1, 1]
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "small"
        versions = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status).model_version_status
        assert [(one.version, one.state) for one in versions] == [(1, 30), (2, 30)]


def test_faults_are_off_by_default():
    faults = Faults()
    faults.apply()
    assert faults.spoil({"a": 1}) == {"a": 1}
