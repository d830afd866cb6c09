"""What a TensorFlow Serving installation is configured with, written for the models of a repository."""

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import quote

from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing
from brainseg_tf.serving.repository import versions_of_models
from brainseg_tf.serving.warmup import BATCH_SIZES

STABLE, CANARY = "stable", "canary"
CONFIGS = ("models.config", "batching.config", "monitoring.config")
FILES = (*CONFIGS, "docker-compose.yml", "kubernetes-models.yml", "kubernetes.yml")

_ARGUMENTS = (
    "--model_config_file=/config/models.config",
    "--model_config_file_poll_wait_seconds=60",
    # Without it a label could only be given to a version that is loaded already: never at the start.
    "--allow_version_labels_for_unavailable_models=true",
    "--enable_batching=true",
    "--batching_parameters_file=/config/batching.config",
    "--monitoring_config_file=/config/monitoring.config",
)


def write_configuration(repository: Path, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes the files ``FILES`` for all models of a repository.

    Args:
        repository: a folder that ``publish`` filled.
        out: the folder for the files; created if it is not there.

    Returns:
        The files.

    Raises:
        InputError: no model in the repository, a file is there already, or nothing can be written.
    """
    models = versions_of_models(repository)
    make_folder(out)
    for name in FILES:
        if (out / name).exists() and not overwrite:
            raise InputError(f"{out / name}: exists already; give --overwrite to replace it, or another --out")
    contents = {
        "models.config": models_config(models),
        "batching.config": _fill(
            "batching.config",
            largest=BATCH_SIZES[-1],
            allowed="\n".join(f"allowed_batch_sizes: {size}" for size in BATCH_SIZES),
        ),
        "monitoring.config": _fill("monitoring.config"),
    }
    probe = _probe(models)
    contents["docker-compose.yml"] = _fill(
        "docker-compose.yml",
        arguments=_listed(_ARGUMENTS, 6),
        models=json.dumps(_dollars_doubled(_relative(repository, out))),
        probe=json.dumps(_dollars_doubled(probe)),
    )
    contents["kubernetes-models.yml"] = _fill("kubernetes-models.yml")
    contents["kubernetes.yml"] = _fill(
        "kubernetes.yml",
        files="\n".join(f"  {name}: |\n{_indented(contents[name], 4)}" for name in CONFIGS),
        arguments=_listed(_ARGUMENTS, 12),
        probe=json.dumps(probe),
    )
    for name, content in contents.items():
        with replacing(out / name) as beside:
            beside.write_text(content, encoding="utf-8")
    return [out / name for name in FILES]


def models_config(models: Mapping[str, Sequence[int]]) -> str:
    """A ``ModelServerConfig`` in text format: the newest version is the canary, the one before it stable."""
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    config = ModelServerConfig()
    for name, versions in models.items():
        model = config.model_config_list.config.add(name=name, base_path=f"/models/{name}", model_platform="tensorflow")
        labels = {STABLE: versions[-2:][0], CANARY: versions[-1]}
        model.model_version_policy.specific.versions.extend(sorted(set(labels.values())))
        model.version_labels.update(labels)
    return text_format.MessageToString(config)


def _probe(models: Iterable[str]) -> str:
    """A line of bash that succeeds once every model is loaded; the official image has neither curl nor wget."""
    # The names are folders' names: they are quoted for the URL, then for the shell.
    names = " ".join(shlex.quote(quote(os.fsencode(name), safe="")) for name in models)
    return (
        f"for model in {names}; do exec 3<>/dev/tcp/127.0.0.1/8501 && "
        "printf 'GET /v1/models/%s HTTP/1.0\\r\\n\\r\\n' \"$model\" >&3 && grep -q AVAILABLE <&3 || exit 1; done"
    )


def _dollars_doubled(text: str) -> str:
    """Compose takes a single dollar for a variable of its own."""
    return text.replace("$", "$$")


def _fill(template: str, **values: object) -> str:
    text = (resources.files("brainseg_tf.serving") / "templates" / template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _listed(items: Iterable[str], indent: int) -> str:
    return "\n".join(f"{' ' * indent}- {item}" for item in items)


def _indented(text: str, indent: int) -> str:
    return "\n".join(f"{' ' * indent}{line}" for line in text.splitlines())


def _relative(repository: Path, out: Path) -> str:
    """Where Compose finds the repository from its file: relative, so that both can be moved together."""
    relative = Path(os.path.relpath(repository.resolve(), out.resolve()))
    return relative.as_posix() if relative.parts[:1] == ("..",) else f"./{relative.as_posix()}"
