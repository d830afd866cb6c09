"""Configuration files, checked with TensorFlow Serving's protos, a YAML parser and the Kubernetes schemas."""

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
def repository(tmp_path_factory) -> Path:
    """A repository with two versions of ``small``. The files are empty: only the folders' names are used."""
    folder = tmp_path_factory.mktemp("models")
    for version in ("1", "2"):
        (folder / "small" / version).mkdir(parents=True)
        (folder / "small" / version / "saved_model.pb").touch()
    return folder


@pytest.fixture(scope="module")
def files(repository, tmp_path_factory):
    out = tmp_path_factory.mktemp("serving") / "configuration"
    assert write_configuration(repository, out) == [out / name for name in FILES]
    return out


def message(name, **fields):
    """A message class, for protos that tensorflow-serving-api does not contain; a field is (number, type, repeated)."""
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
    # The server requires that the largest allowed size equals max_batch_size.
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
    text = (files / "docker-compose.yml").read_text()
    assert "no authentication" in text
    (service,) = yaml.safe_load(text)["services"].values()
    assert "tensorflow/serving:" in service["image"]
    # Without an address Docker publishes a port on all addresses and bypasses the firewall.
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    models, config = service["volumes"]
    assert (models["target"], models["read_only"]) == ("/models", True)
    assert (config["source"], config["target"], config["read_only"]) == (".", "/config", True)
    assert (files / models["source"]).resolve() == repository.resolve()
    given = dict(argument.removeprefix("--").split("=") for argument in service["command"])
    for name in CONFIGS:
        assert f"/config/{name}" in given.values()
    assert service["healthcheck"]["test"][:3] == ["CMD", "bash", "-c"]
    assert service["read_only"]


def test_names_of_folders_are_no_part_of_the_syntax(repository, tmp_path):
    odd = tmp_path / 'it\'s $HOME: "models" #1'
    shutil.copytree(repository / "small", odd / "a b$(exit 3)'?")
    write_configuration(odd, tmp_path / "out")
    (service,) = yaml.safe_load((tmp_path / "out" / "docker-compose.yml").read_text())["services"].values()
    # Docker Compose replaces two dollar signs by one.
    assert (tmp_path / "out" / service["volumes"][0]["source"].replace("$$", "$")).resolve() == odd.resolve()
    paths, code = run_probe(tmp_path / "out", "AVAILABLE")
    assert (paths, code) == (["/v1/models/a%20b%24%28exit%203%29%27%3F"], 0)


@pytest.mark.skipif(
    subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    if shutil.which("docker")
    else True,
    reason="no docker compose here",
)
def test_compose_with_docker_compose_config(files):
    subprocess.run(["docker", "compose", "--file", files / "docker-compose.yml", "config", "--quiet"], check=True)


def manifests(files, name="kubernetes.yml"):
    """The documents of a manifest by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all((files / name).read_text())}


def test_kubernetes_by_its_own_schemas(files):
    documents = manifests(files)
    assert list(documents) == ["ConfigMap", "Deployment", "Service"]
    for document in documents.values():
        kubernetes_validate.validate(document, "1.31", strict=True)
    for name in CONFIGS:
        assert documents["ConfigMap"]["data"][name] == (files / name).read_text()
    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert all(mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] != "scratch")
    assert documents["Service"]["spec"]["type"] == "ClusterIP"
    assert "no authentication" in (files / "kubernetes.yml").read_text()


def test_the_liveness_probe_waits_until_the_models_are_loaded(files):
    (container,) = manifests(files)["Deployment"]["spec"]["template"]["spec"]["containers"]
    startup, readiness, liveness = (container[f"{name}Probe"] for name in ("startup", "readiness", "liveness"))
    assert startup["exec"]["command"][:2] == ["bash", "-c"]
    assert startup["exec"] == readiness["exec"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    assert "initialDelaySeconds" not in liveness


def test_the_claim_is_filled_before_the_server_starts(files):
    documents = manifests(files, "kubernetes-models.yml")
    assert list(documents) == ["PersistentVolumeClaim", "Pod"]
    for document in documents.values():
        kubernetes_validate.validate(document, "1.31", strict=True)
    name = documents["PersistentVolumeClaim"]["metadata"]["name"]
    loader, server = documents["Pod"]["spec"], manifests(files)["Deployment"]["spec"]["template"]["spec"]
    claims = [
        one["persistentVolumeClaim"] for spec in (loader, server) for one in spec["volumes"] if one["name"] == "models"
    ]
    assert claims == [{"claimName": name}, {"claimName": name, "readOnly": True}]
    # Models are copied to the folder that the server reads, by the same user.
    mounts = [
        one["mountPath"]
        for spec in (loader, server)
        for one in spec["containers"][0]["volumeMounts"]
        if one["name"] == "models"
    ]
    assert mounts == ["/models", "/models"]
    assert loader["securityContext"] == server["securityContext"]
    # The commands in the comment name the pod and delete it at the end. It also has a time limit.
    pod = documents["Pod"]["metadata"]["name"]
    commands = [
        line[2:].strip()
        for line in (files / "kubernetes-models.yml").read_text().splitlines()
        if "kubectl" in line[:70]
    ]
    assert [line.split()[1] for line in commands if line.startswith("kubectl")] == ["apply", "wait", "delete", "apply"]
    assert sum(pod in line for line in commands) == 3
    assert loader["activeDeadlineSeconds"] <= 3600
    assert loader["restartPolicy"] == "Never"


def test_the_pods_meet_the_restricted_pod_security_standard(files):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pods = (
        manifests(files)["Deployment"]["spec"]["template"]["spec"],
        manifests(files, "kubernetes-models.yml")["Pod"]["spec"],
    )
    for pod in pods:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert min(context["runAsUser"], context["runAsGroup"], context["fsGroup"]) > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod["volumes"])


def test_the_schemas_detect_an_invalid_manifest(files):
    deployment = manifests(files)["Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


def run_probe(files, state):
    """Runs the bash command of the probe with a server that reports a state; returns requested paths and exit code."""
    paths = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            paths.append(self.rfile.readline().decode().split()[1])
            self.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n{"state": "' + state.encode() + b'"}')

    (container,) = manifests(files)["Deployment"]["spec"]["template"]["spec"]["containers"]
    *shell, line = container["startupProbe"]["exec"]["command"]
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        done = subprocess.run([*shell, line.replace("/8501", f"/{server.server_address[1]}")], timeout=20, check=False)
        server.shutdown()
        thread.join()
    return paths, done.returncode


@pytest.mark.parametrize("state", ["AVAILABLE", "LOADING"])
def test_the_probe_requests_the_status_of_every_model(files, state):
    assert run_probe(files, state) == (["/v1/models/small"], int(state != "AVAILABLE"))


def test_existing_files_are_replaced_only_with_overwrite(files, repository):
    (files / "models.config").write_text("mine")
    with pytest.raises(InputError, match=r"models.config: exists already; give --overwrite"):
        write_configuration(repository, files)
    assert (files / "models.config").read_text() == "mine"
    write_configuration(repository, files, overwrite=True)
    assert "small" in (files / "models.config").read_text()


def test_a_folder_without_models_leaves_no_files(tmp_path):
    with pytest.raises(InputError, match="add a model with brainseg-tf export"):
        write_configuration(Path(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
