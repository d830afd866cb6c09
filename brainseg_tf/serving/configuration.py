"""Configuration files for serving the models of a repository: TensorFlow Serving, Docker Compose and Kubernetes."""

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import quote

from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, printable, replacing
from brainseg_tf.serving.repository import versions_of_models
from brainseg_tf.serving.warmup import BATCH_SIZES

STABLE, CANARY = "stable", "canary"
CONFIGS = ("models.config", "batching.config", "monitoring.config")
FILES = (*CONFIGS, "docker-compose.yml", "kubernetes-models.yml", "kubernetes.yml")

_ARGUMENTS = (
    "--model_config_file=/config/models.config",
    "--model_config_file_poll_wait_seconds=60",
    # By default a label can only be assigned to a version that is loaded already, which no version is at start-up.
    "--allow_version_labels_for_unavailable_models=true",
    "--enable_batching=true",
    "--batching_parameters_file=/config/batching.config",
    "--monitoring_config_file=/config/monitoring.config",
)


def write_configuration(repository: Path, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes the files ``FILES`` for all models of a repository.

    Args:
        repository: a folder with models that ``publish`` added.
        out: the folder for the files; created if it does not exist.
        overwrite: whether existing files are replaced.

    Returns:
        The paths of the files.

    Raises:
        InputError: the repository contains no model, a file exists already, or a file cannot be written.
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
        models=json.dumps(_escape_dollars(_relative_path(repository, out))),
        probe=json.dumps(_escape_dollars(probe)),
    )
    contents["kubernetes-models.yml"] = _fill("kubernetes-models.yml")
    contents["kubernetes.yml"] = _fill(
        "kubernetes.yml",
        files="\n".join(f"  {name}: |\n{_indented(contents[name], 4)}" for name in CONFIGS),
        arguments=_listed(_ARGUMENTS, 12),
        probe=json.dumps(probe),
    )
    for name, content in contents.items():
        with replacing(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [out / name for name in FILES]


def models_config(models: Mapping[str, Sequence[int]]) -> str:
    """A ``ModelServerConfig`` in text format.

    Each model's newest version gets the label ``canary``, the previous one the label ``stable``. A single version gets
    both labels.

    Args:
        models: the versions of each model, in ascending order.

    Raises:
        InputError: a name is not UTF-8.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    config = ModelServerConfig()
    for name, versions in models.items():
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{printable(name)}: the name of a model must be UTF-8; rename the folder") from error
        model = config.model_config_list.config.add(name=name, base_path=f"/models/{name}", model_platform="tensorflow")
        labels = {STABLE: versions[-2:][0], CANARY: versions[-1]}
        model.model_version_policy.specific.versions.extend(sorted(set(labels.values())))
        model.version_labels.update(labels)
    return text_format.MessageToString(config)


def _probe(models: Iterable[str]) -> str:
    """A bash command that succeeds when every model is loaded. It uses /dev/tcp, as the image has no curl or wget."""
    # A folder name can contain any character, so it is quoted for the URL and then for the shell.
    names = " ".join(shlex.quote(quote(os.fsencode(name), safe="")) for name in models)
    return (
        f"for model in {names}; do exec 3<>/dev/tcp/127.0.0.1/8501 && "
        "printf 'GET /v1/models/%s HTTP/1.0\\r\\n\\r\\n' \"$model\" >&3 && grep -q AVAILABLE <&3 || exit 1; done"
    )


def _escape_dollars(text: str) -> str:
    """Docker Compose would replace ``$NAME`` by a variable; ``$$`` is a literal dollar sign."""
    return text.replace("$", "$$")


def _fill(template: str, **values: object) -> str:
    text = (resources.files("brainseg_tf.serving") / "templates" / template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _listed(items: Iterable[str], indent: int) -> str:
    return "\n".join(f"{' ' * indent}- {item}" for item in items)


def _indented(text: str, indent: int) -> str:
    return "\n".join(f"{' ' * indent}{line}" for line in text.splitlines())


def _relative_path(repository: Path, out: Path) -> str:
    """The path of the repository relative to the Compose file, so that both can be moved together."""
    relative = Path(os.path.relpath(repository.resolve(), out.resolve()))
    return relative.as_posix() if relative.parts[:1] == ("..",) else f"./{relative.as_posix()}"
