"""SavedModels: exporting a network with its card, finding one by name or folder, and reconstructing slices with it."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import replacing
from brainseg_tf.model_card import ModelCard, read_card

if TYPE_CHECKING:
    import tensorflow as tf

    from brainseg_tf.models.objective import ContextModel


@dataclass(frozen=True)
class Reconstruction:
    """What a network makes of slices (N, H, W, C).

    Attributes:
        images: (N, H, W, C) float32, what healthy slices would have looked like.
        probability: (N, H, W) float32, of a lesion; None if the network gives none.
    """

    images: np.ndarray
    probability: np.ndarray | None = None


class Reconstructor(Protocol):
    """Whatever turns slices into their healthy reconstructions: a model on this machine or behind a server."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """Takes (N, H, W, C) float32 in [0, 1]."""


def in_batches(
    images: np.ndarray, batch: int, outputs: Callable[[np.ndarray], Mapping[str, np.ndarray]]
) -> Reconstruction:
    """Reconstructs ``batch`` slices at once; ``outputs`` gives a network's outputs by name."""
    return joined([outputs(images[start : start + batch]) for start in range(0, len(images), batch)])


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> Reconstruction:
    """The reconstruction that a network's outputs, by name, make up for batch after batch."""
    named = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Reconstruction(named["reconstruction"], named.get("probability"))


@dataclass(frozen=True)
class ModelFolder:
    """An exported model that was found, not yet loaded."""

    path: Path
    card: ModelCard

    def load(self) -> "LocalModel":
        """Loads it with TensorFlow; Keras is not needed.

        Raises:
            InputError: see ``check``.
        """
        self.check()
        return LocalModel(self.path)

    def check(self) -> None:
        """Refuses a model whose files are not those that its card was written for.

        Raises:
            InputError: a file is damaged, missing, new or another model's.
        """
        if not self.card.checksums:
            return  # Exported before cards had them.
        expected, found = self.card.checksums, checksums(self.path)
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                raise InputError(
                    f"{self.path / name}: is not the file that the model card was written for; install brainseg-tf or "
                    "export the model again"
                )

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

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        import tensorflow as tf

        return in_batches(images, self._batch, lambda part: self._numbers(tf.constant(part)))

    def _numbers(self, images: "tf.Tensor") -> dict[str, np.ndarray]:
        return {name: values.numpy() for name, values in self._serve(images=images).items()}


def checksums(version_folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a SavedModel but those in ``assets.extra``, by its path in the folder."""
    files = sorted(file for file in version_folder.rglob("*") if file.is_file())
    names = {file.relative_to(version_folder).as_posix(): file for file in files}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in names.items()
        if not name.startswith("assets.extra/")
    }


def export(model: "ContextModel", card: ModelCard, version_folder: Path) -> None:
    """Writes a SavedModel with its signatures, card and warmup requests, in one step."""
    import keras
    import tensorflow as tf

    from brainseg_tf.serving.signatures import signatures
    from brainseg_tf.serving.warmup import write_warmup

    images = [tf.TensorSpec((None, None, None, model.channels), tf.float32, name="images")]
    # The archive follows the variables that its endpoints use; tracking the model as well would write each twice.
    archive = keras.export.ExportArchive()
    named = signatures(model, card)
    for name, signature in named.items():
        archive.add_endpoint(name, signature, images)
    with replacing(version_folder) as beside, written(version_folder):
        archive.write_out(str(beside), verbose=False)
        replace(card, checksums=checksums(beside)).write(beside)
        write_warmup(beside, card, named)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What TensorFlow's own writers raise, as one line.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0]
        raise InputError(f"{path}: cannot be written ({reason}); make room, then go on with --resume") from error


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


def best_for(modalities: Sequence[str]) -> ModelFolder:
    """The shipped model for these modalities, the first of them first, whose card has the best Dice by patient.

    Raises:
        InputError: there is none.
    """
    models = shipped()
    fitting = [
        model
        for model in models
        if model.card.modalities[0] == modalities[0] and set(model.card.modalities) == set(modalities)
    ]
    if not fitting:
        known = ", ".join(sorted({" + ".join(model.card.modalities) for model in models})) or "nothing"
        raise InputError(
            f"no shipped model takes {' + '.join(modalities)}, only {known}; leave --modality out, or give --model"
        )
    return max(fitting, key=lambda model: model.card.dice)


def version_folders(folder: Path) -> list[Path]:
    """The subfolders that are versions of one model, the newest last."""
    numbered = [place for place in folder.iterdir() if place.name.isdigit() and (place / "saved_model.pb").is_file()]
    return sorted(numbered, key=lambda place: int(place.name))


def newest_version(folder: Path) -> Path | None:
    """The folder itself if it is a SavedModel, else its subfolder with the highest number that is one, else None."""
    if (folder / "saved_model.pb").is_file():
        return folder
    return next(reversed(version_folders(folder)), None)


def _home() -> Path:
    return Path(str(resources.files("brainseg_tf_saved_models")))
