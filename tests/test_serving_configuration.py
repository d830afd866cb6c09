"""Each file, read by what reads it: TensorFlow Serving's protos, a YAML reader, Kubernetes' own schemas."""

import shutil
import socketserver
import subprocess
import threading
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from brainseg_tf.errors import InputError
from brainseg_tf.serving.configuration import CONFIGS, FILES, models_config, write_configuration
from brainseg_tf.serving.warmup import BATCH_SIZES

_TYPES = {
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}


@pytest.fixture(scope="module")
def files(repository, tmp_path_factory):
    out = tmp_path_factory.mktemp("serving") / "configuration"
    assert write_configuration(repository, out) == [out / name for name in FILES]
    return out


def message(name, **fields):
    """A message class; a field is (number, type, repeated). tensorflow-serving-api lacks these two protos."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
    for message_name, message_fields in fields.items():
        described = file.message_type.add(name=message_name)
        for field, (number, kind, repeated) in message_fields.items():
            one = described.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in _TYPES:
                one.type = _TYPES[kind]
            else:
                one.type, one.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, f".{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def test_the_models_and_their_labels(files, repository):
    config = text_format.Parse((files / "models.config").read_text(), ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("small", "/models/small", "tensorflow")
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


def test_a_single_version_is_stable_and_canary():
    config = text_format.Parse(models_config({"a": [3], "b": [1, 5, 9]}), ModelServerConfig())
    one, three = config.model_config_list.config
    assert dict(one.version_labels) == {"stable": 3, "canary": 3}
    assert dict(three.version_labels) == {"stable": 5, "canary": 9}
    assert list(three.model_version_policy.specific.versions) == [5, 9]


def test_batching(files):
    """The fields of tensorflow_serving/servables/tensorflow/session_bundle_config.proto."""
    parameters = message(
        "BatchingParameters",
        Int64Value={"value": (1, "int64", False)},
        BatchingParameters={
            "max_batch_size": (1, "Int64Value", False),
            "batch_timeout_micros": (2, "Int64Value", False),
            "max_enqueued_batches": (3, "Int64Value", False),
            "num_batch_threads": (4, "Int64Value", False),
            "allowed_batch_sizes": (6, "int64", True),
            "pad_variable_length_inputs": (7, "bool", False),
        },
    )
    parsed = text_format.Parse((files / "batching.config").read_text(), parameters())
    assert tuple(parsed.allowed_batch_sizes) == BATCH_SIZES
    # The server refuses to start otherwise.
    assert parsed.max_batch_size.value == BATCH_SIZES[-1]
    assert not parsed.pad_variable_length_inputs


def test_monitoring(files):
    """The fields of tensorflow_serving/config/monitoring_config.proto."""
    config = message(
        "MonitoringConfig",
        PrometheusConfig={"enable": (1, "bool", False), "path": (2, "string", False)},
        MonitoringConfig={"prometheus_config": (1, "PrometheusConfig", False)},
    )
    parsed = text_format.Parse((files / "monitoring.config").read_text(), config())
    assert parsed.prometheus_config.enable
    assert parsed.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_compose(files, repository):
    (service,) = yaml.safe_load((files / "docker-compose.yml").read_text())["services"].values()
    assert "tensorflow/serving:" in service["image"]
    assert service["ports"] == ["8500:8500", "8501:8501"]
    models, config = (volume.split(":") for volume in service["volumes"])
    assert (models[1:], config) == (["/models", "ro"], [".", "/config", "ro"])
    assert (files / models[0]).resolve() == repository.resolve()
    given = dict(argument.removeprefix("--").split("=") for argument in service["command"])
    for name in CONFIGS:
        assert f"/config/{name}" in given.values()
    assert service["healthcheck"]["test"][:3] == ["CMD", "bash", "-c"]
    assert service["read_only"]


@pytest.mark.skipif(
    subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    if shutil.which("docker")
    else True,
    reason="no docker compose here",
)
def test_compose_by_its_own_check(files):
    subprocess.run(["docker", "compose", "--file", files / "docker-compose.yml", "config", "--quiet"], check=True)


def test_kubernetes_by_its_own_schemas(files):
    documents = list(yaml.safe_load_all((files / "kubernetes.yml").read_text()))
    assert [document["kind"] for document in documents] == ["ConfigMap", "Deployment", "Service"]
    for document in documents:
        kubernetes_validate.validate(document, "1.31", strict=True)
    for name in CONFIGS:
        assert documents[0]["data"][name] == (files / name).read_text()
    (container,) = documents[1]["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["exec"]["command"][:2] == ["bash", "-c"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert all(mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] != "scratch")


def test_a_wrong_manifest_would_be_noticed(files):
    deployment = list(yaml.safe_load_all((files / "kubernetes.yml").read_text()))[1]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


@pytest.mark.parametrize("state", ["AVAILABLE", "LOADING"])
def test_the_probe_asks_for_every_model(files, state):
    """The line of bash itself, against a server that answers as the status API does."""
    asked = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline().decode().split()[1])
            self.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n{"state": "' + state.encode() + b'"}')

    deployment = list(yaml.safe_load_all((files / "kubernetes.yml").read_text()))[1]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    *shell, line = container["readinessProbe"]["exec"]["command"]
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        done = subprocess.run([*shell, line.replace("/8501", f"/{server.server_address[1]}")], timeout=20, check=False)
        server.shutdown()
        thread.join()
    assert done.returncode == (state != "AVAILABLE")
    assert asked == ["/v1/models/small"]


def test_nothing_is_replaced_unasked(files, repository):
    (files / "models.config").write_text("mine")
    with pytest.raises(InputError, match=r"models.config: exists already; give --overwrite"):
        write_configuration(repository, files)
    assert (files / "models.config").read_text() == "mine"
    write_configuration(repository, files, overwrite=True)
    assert "small" in (files / "models.config").read_text()


def test_a_folder_without_models_leaves_no_files(tmp_path):
    with pytest.raises(InputError, match="add one with brainseg-tf export"):
        write_configuration(Path(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
