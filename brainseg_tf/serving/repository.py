"""A folder of models as TensorFlow Serving reads it, NAME/VERSION/: adding a version, and seeing what is there."""

import shutil
from dataclasses import replace
from pathlib import Path

from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing
from brainseg_tf.saved_model import ModelFolder, version_folders
from brainseg_tf.serving.warmup import FILE as WARMUP


def publish(model: ModelFolder, repository: Path, version: int | None = None) -> Path:
    """Adds a model to a repository, in one step: a server that polls the folder sees all of it or nothing.

    Args:
        model: what to add.
        repository: the folder that holds a folder per model; created if it is not there.
        version: the new version's number; the model's own if None.

    Returns:
        ``repository/NAME/VERSION``.

    Raises:
        InputError: the version is there already, the model lacks what a server needs, or nothing can be written there.
    """
    if not (model.path / WARMUP).is_file():
        raise InputError(
            f"{model.path}: no {WARMUP} in it, an older brainseg-tf wrote it; export it again with fit --resume"
        )
    model.check()
    card = replace(model.card, version=model.card.version if version is None else version)
    place = repository / card.name / str(card.version)
    if place.exists():
        free = max((int(one.name) for one in version_folders(place.parent)), default=card.version) + 1
        raise InputError(f"{place}: exists already, and a server may be using it; give --version {free}")
    make_folder(place.parent)
    with replacing(place) as beside:
        shutil.copytree(model.path, beside)
        card.write(beside)
    return place


def versions_of_models(repository: Path) -> dict[str, list[int]]:
    """The versions of each model in a repository, in rising order.

    Raises:
        InputError: there is no model in it.
    """
    places = sorted(place for place in repository.iterdir() if place.is_dir()) if repository.is_dir() else []
    found = {place.name: [int(one.name) for one in version_folders(place)] for place in places}
    found = {name: versions for name, versions in found.items() if versions}
    if not found:
        raise InputError(f"{repository}: no NAME/VERSION/saved_model.pb in it; add one with brainseg-tf export")
    return found
