"""SavedModels: exporting a network with its card, finding one by name or folder, and reconstructing slices with it."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import replacing
from brainseg_tf.model_card import ModelCard, read_card

if TYPE_CHECKING:
    from brainseg_tf.models.objective import ContextModel


class Reconstructor(Protocol):
    """Whatever turns slices into their healthy reconstructions: a model on this machine or behind a server."""

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) float32 in [0, 1] -> the same shape."""


@dataclass(frozen=True)
class ModelFolder:
    """An exported model that was found, not yet loaded."""

    path: Path
    card: ModelCard

    def load(self) -> "LocalModel":
        """Loads it with TensorFlow; Keras is not needed."""
        return LocalModel(self.path)

    @property
    def megabytes(self) -> float:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file()) / 1e6


class LocalModel:
    """A SavedModel in this process.

    Args:
        path: a version folder.
        batch: slices that go through the network at once.
    """

    def __init__(self, path: Path, batch: int = 16) -> None:
        import tensorflow as tf

        self._model = tf.saved_model.load(str(path))
        self._serve = self._model.signatures["serving_default"]
        self._batch = batch

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        parts = [
            self._serve(images=tf.constant(images[start : start + self._batch]))["reconstruction"].numpy()
            for start in range(0, len(images), self._batch)
        ]
        return np.concatenate(parts) if parts else np.zeros_like(images)


def export(model: "ContextModel", card: ModelCard, version_folder: Path) -> None:
    """Writes a SavedModel with named signatures and its card, in one step.

    Signatures: ``serving_default``, images (N, H, W, C) float32 in [0, 1] -> ``reconstruction`` and ``residual`` (input
    minus reconstruction); for variational models also ``encode`` -> ``mean`` and ``stddev`` of the posterior.
    """
    import keras
    import tensorflow as tf

    from brainseg_tf.models.layers import pad_to_multiple
    from brainseg_tf.models.objective import VariationalContextModel

    def reconstruct(images: tf.Tensor) -> dict[str, tf.Tensor]:
        reconstruction = model(images, training=False)
        return {"reconstruction": reconstruction, "residual": images - reconstruction}

    def encode(images: tf.Tensor) -> dict[str, tf.Tensor]:
        mean, stddev = model.encode(pad_to_multiple(images, model.stride), training=False)
        return {"mean": mean, "stddev": stddev}

    images = [tf.TensorSpec((None, None, None, model.channels), tf.float32, name="images")]
    # The archive follows the variables that its endpoints use; tracking the model as well would write each twice.
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serving_default", reconstruct, images)
    if isinstance(model, VariationalContextModel):
        archive.add_endpoint("encode", encode, images)
    with replacing(version_folder) as beside:
        archive.write_out(str(beside), verbose=False)
        card.write(beside)


def shipped() -> list[ModelFolder]:
    """The newest version of every model that came with the package, by name."""
    home = _home()
    folders = [newest_version(place) for place in sorted(home.iterdir()) if place.is_dir()] if home.is_dir() else []
    return [ModelFolder(folder, read_card(folder)) for folder in folders if folder is not None]


def find(name_or_folder: str) -> ModelFolder:
    """Finds a shipped model by name, or any exported model by its folder (the newest version in it).

    Raises:
        InputError: there is no such model.
    """
    folder = Path(name_or_folder)
    for place in (_home() / name_or_folder, folder):
        if place.is_dir():
            version = newest_version(place)
            if version is not None:
                return ModelFolder(version, read_card(version))
    if folder.is_dir():
        raise InputError(f"{folder}: no SavedModel in it; name a model folder, or a shipped model (brainseg-tf models)")
    names = ", ".join(model.card.name for model in shipped()) or "none"
    raise InputError(f"{name_or_folder}: no such model; shipped are {names}, or give a folder that fit made")


def newest_version(folder: Path) -> Path | None:
    """The folder itself if it is a SavedModel, else its subfolder with the highest number that is one, else None."""
    if (folder / "saved_model.pb").is_file():
        return folder
    numbered = [place for place in folder.iterdir() if place.name.isdigit() and (place / "saved_model.pb").is_file()]
    return max(numbered, key=lambda place: int(place.name), default=None)


def _home() -> Path:
    return Path(str(resources.files("brainseg_tf_saved_models")))
