"""Model repositories, folders of models NAME/VERSION/ as TensorFlow Serving reads them: adding and listing versions."""

import warnings
from dataclasses import replace
from pathlib import Path

from brainseg_tf.errors import InputError, InputWarning
from brainseg_tf.files import make_folder, printable, replacing
from brainseg_tf.saved_model import ExportedModel, copy_model, version_folders
from brainseg_tf.serving.warmup import FILE as WARMUP


def publish(model: ExportedModel, repository: Path, version: int | None = None) -> Path:
    """Adds a model to a repository.

    The folder is written under a temporary name and renamed, so a server that polls the repository never reads an
    incomplete model.

    Args:
        model: the model.
        repository: folder with one folder per model; created if it does not exist.
        version: number of the new version; that of the model if None.

    Returns:
        The new folder, ``repository/NAME/VERSION``.

    Raises:
        InputError: the version exists already, the model has no warmup requests, or the folder cannot be written.
    """
    if not (model.path / WARMUP).is_file():
        raise InputError(
            f"{model.path}: contains no {WARMUP}, because an older brainseg-tf exported it; export it again with "
            "fit --resume"
        )
    model.check()
    card = replace(model.card, version=model.card.version if version is None else version)
    target = repository / card.name / str(card.version)
    if target.exists():
        unused = max((int(one.name) for one in version_folders(target.parent)), default=card.version) + 1
        raise InputError(f"{target}: exists already, and a server may be using it; give --version {unused}")
    make_folder(target.parent)
    # Another export may add the version at the same time.
    with replacing(target, new=True) as temporary:
        copy_model(model, temporary)
        card.write(temporary)
    return target


def versions_of_models(repository: Path) -> dict[str, list[int]]:
    """The versions of each model in a repository, in ascending order.

    A folder that cannot be read gives a warning.

    Raises:
        InputError: the repository contains no model.
    """
    folders = sorted(folder for folder in repository.iterdir() if folder.is_dir()) if repository.is_dir() else []
    found: dict[str, list[int]] = {}
    for folder in folders:
        try:
            versions = [int(one.name) for one in version_folders(folder)]
        except OSError as error:
            reason = error.strerror or str(error)
            warnings.warn(InputWarning(f"{printable(folder)}: left out, cannot be read ({reason})"), stacklevel=2)
            continue
        if versions:
            found[folder.name] = versions
    if not found:
        raise InputError(f"{repository}: contains no NAME/VERSION/saved_model.pb; add a model with brainseg-tf export")
    return found
