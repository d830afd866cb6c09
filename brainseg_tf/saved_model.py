"""Exported models: finding them by name or folder, checking their files, and loading them for predictions."""

import os
import re
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from brainseg_tf import c_api
from brainseg_tf.architectures import BRAIN
from brainseg_tf.errors import InputError
from brainseg_tf.files import is_folder, printable
from brainseg_tf.links import for_tensorflow
from brainseg_tf.model_card import CARD_KEY, BrainCard, ModelCard, checksums, digest_on_disk, is_extra, read_card
from brainseg_tf.options import HeadGridOptions
from brainseg_tf.reconstruction import Reconstruction, in_batches
from brainseg_tf.resources import Runtime

# Prefix of the name of a shipped model that distinguishes it from a folder of the same name.
SHIPPED = "shipped:"
_TENSORFLOW = Runtime()


@dataclass(frozen=True)
class ExportedModel:
    """An exported model on disk.

    Attributes:
        path: its version folder.
        card: its card.
    """

    path: Path
    card: ModelCard | BrainCard

    def check(self) -> None:
        """Compares the files of the model and its card with the checksums in the card.

        Cards of older versions have no checksums of the card itself and of the files in ``assets.extra``, or no
        checksums at all. Files without a checksum are not checked then.

        Raises:
            InputError: a file is damaged, missing, unknown or from another model, or the card was edited.
        """
        expected, found = self.card.checksums, checksums(self.path)
        if self.checks_card:
            found[CARD_KEY] = digest_on_disk(self.path)
        has_model = not all(map(is_extra, expected))
        for name in sorted({*expected, *found}):
            covered = self.checks_card if is_extra(name) else has_model
            if covered and expected.get(name) != found.get(name):
                raise InputError(
                    f"{printable(self.path / name)}: does not match the checksum in the model card; reinstall "
                    "brainseg-tf, or export the model again"
                )

    @property
    def checks_card(self) -> bool:
        """Whether the card contains its own checksum, which cards of older versions do not."""
        return CARD_KEY in self.card.checksums

    @property
    def reference(self) -> str:
        """An argument for ``find`` that is independent of the working directory.

        It is ``shipped:NAME/VERSION`` or an absolute path, and also valid on another machine with the same files.
        """
        home, path = _home().resolve(), self.path.resolve()
        return f"{SHIPPED}{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)

    @property
    def identity(self) -> str:
        """Name, version and checksum of the card, which contains the checksums of all other files."""
        return f"{self.card.name}/{self.card.version} {self.card.checksums.get(CARD_KEY, '')}".strip()

    @property
    def megabytes(self) -> float:
        """Size on disk in megabytes."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file()) / 1e6


@dataclass(frozen=True)
class ModelFolder(ExportedModel):
    """An exported lesion model on disk."""

    card: ModelCard

    def load(self, runtime: Runtime = _TENSORFLOW) -> "LocalModel":
        """Checks the model and loads it, without Keras.

        Args:
            runtime: what runs it.

        Raises:
            InputError: see ``check``; or the engine cannot load the model.
        """
        self.check()
        return LocalModel(_signature(self.path, runtime))


@dataclass(frozen=True)
class BrainModelFolder(ExportedModel):
    """An exported brain network on disk."""

    card: BrainCard

    def load(self, runtime: Runtime = _TENSORFLOW) -> "LocalBrainNetwork":
        """Checks the network and loads it, without Keras; as for ``ModelFolder``."""
        self.check()
        return LocalBrainNetwork(_signature(self.path, runtime), self.card.grid)


class LocalModel:
    """A SavedModel that is loaded in this process, as a ``Reconstructor``.

    Args:
        signature: the network's outputs by name for slices (N, H, W, C).
        batch: largest number of slices in a batch.
    """

    def __init__(self, signature: c_api.Signature, batch: int = 16) -> None:
        self._signature, self._batch = signature, batch

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return in_batches(images, self._batch, self._signature)


class LocalBrainNetwork:
    """A brain network that is loaded in this process, see ``brain.network.BrainNetwork``.

    Args:
        signature: the network's outputs by name.
        grid: how a scan is resampled for it.
    """

    def __init__(self, signature: c_api.Signature, grid: HeadGridOptions) -> None:
        self.grid, self._signature = grid, signature

    def probability(self, images: np.ndarray) -> np.ndarray:
        """The network's output for images (1, x, y, z, 1) uint8."""
        return self._signature(images)["brain"]


def _signature(path: Path, runtime: Runtime) -> c_api.Signature:
    """The signature ``serving_default`` of a SavedModel, run by an engine."""
    if runtime.engine == "c-api":
        return c_api.open_signature(path, runtime.threads)
    return signature_of_tensorflow(path)


def signature_of_tensorflow(path: Path) -> c_api.Signature:
    """The signature ``serving_default`` of a SavedModel, run by TensorFlow's Python package.

    Args:
        path: the version folder.

    Returns:
        A function from the input to the outputs by name.
    """
    import tensorflow as tf

    with for_tensorflow(path) as folder:
        model = tf.saved_model.load(str(folder))

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # The signature needs the model, which would be deleted otherwise.
        answers = model.signatures["serving_default"](images=tf.constant(images))
        return {name: np.asarray(values.numpy()) for name, values in answers.items()}

    return run


def shipped() -> list[ModelFolder]:
    """The newest version of every lesion model in the package, sorted by name.

    Raises:
        InputError: a card is damaged.
    """
    models = [open_any(folder) for folder in shipped_folders().values()]
    return [model for model in models if isinstance(model, ModelFolder)]


def shipped_brain_network() -> BrainModelFolder:
    """The newest version of the brain network in the package.

    Raises:
        InputError: the package contains none, or its card is damaged.
    """
    return find_brain_network(f"{SHIPPED}{BRAIN}")


def find_brain_network(name_or_folder: str) -> BrainModelFolder:
    """Finds a brain network: the shipped one by its name, or any exported one by its folder.

    Args:
        name_or_folder: as for ``find_any``.

    Raises:
        InputError: there is no such model, the name is ambiguous, or the model finds lesions.
    """
    found = find_any(name_or_folder)
    if isinstance(found, BrainModelFolder):
        return found
    raise InputError(
        f"{printable(found.path)}: finds lesions and not the brain; give {BRAIN}, or the folder of a run of "
        f"fit --model {BRAIN}"
    )


def shipped_folders() -> dict[str, Path]:
    """The folder of the newest version of every model in the package, by the model's name."""
    home = _home()
    folders = sorted(folder for folder in home.iterdir() if folder.is_dir()) if home.is_dir() else []
    newest = {folder.name: newest_version(folder) for folder in folders}
    return {name: version for name, version in newest.items() if version is not None}


def find(name_or_folder: str) -> ModelFolder:
    """Finds a lesion model: a shipped one by its name, or any exported one by its folder.

    Args:
        name_or_folder: as for ``find_any``.

    Raises:
        InputError: there is no such model, the name is ambiguous, or the model is a brain network.
    """
    return _lesion_model(find_any(name_or_folder))


def find_any(name_or_folder: str) -> ExportedModel:
    """Finds a shipped model by its name, or any exported model by its folder.

    Args:
        name_or_folder: text with a ``/``, or that begins with ``.`` or ``~``, is a folder: that of a version, or that
            of a model, of which the newest version is used. Other text is the name of a shipped model, or a folder in
            the working directory; it is refused if it is both. ``shipped:NAME`` and ``shipped:NAME/VERSION`` are always
            shipped models.

    Raises:
        InputError: there is no such model, or the name is ambiguous.
    """
    text = str(name_or_folder)
    if not text.strip():
        raise InputError(f"the model's name is empty; {_choices()}")
    if text.startswith(SHIPPED):
        return open_any(_find_shipped(text))
    if "/" in text or os.sep in text or text.startswith((".", "~")):
        path = _expanded(text)
        if not os.path.lexists(path):
            names = ", ".join(shipped_folders())
            raise InputError(
                f"{printable(text)}: no such folder; give an existing one, or the name of a shipped model without a "
                f"path ({names})"
            )
        return open_any(path)
    folder, shipped_one = Path(text), shipped_folders().get(text)
    if shipped_one is None:
        return open_any(folder)
    if is_folder(folder) and not folder.samefile(shipped_one.parent):
        raise InputError(
            f"{text}: is both a shipped model and a folder in the working directory; give {SHIPPED}{text} for the "
            f"shipped model, or ./{text} for the folder"
        )
    return open_any(shipped_one)


def open_folder(folder: Path) -> ModelFolder:
    """The lesion model in a version folder, or the newest version in a model folder.

    Raises:
        InputError: the folder contains no model or a brain network, or the model's card is missing or damaged.
    """
    return _lesion_model(open_any(folder))


def open_any(folder: Path) -> ExportedModel:
    """The exported model in a version folder, or the newest version in a model folder.

    Raises:
        InputError: the folder contains no model, or the model's card is missing or damaged.
    """
    name = printable(folder)
    try:
        if folder.is_file():
            raise InputError(f"{name}: is a file; give the folder of the model")
        if not folder.is_dir():
            raise InputError(f"{name}: no such model; {_choices()}")
        version = newest_version(folder)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); give a readable model folder") from error
    if version is None:
        raise InputError(
            f"{name}: contains no SavedModel; give a model folder, or a shipped model (see brainseg-tf models)"
        )
    card = read_card(version)
    return BrainModelFolder(version, card) if isinstance(card, BrainCard) else ModelFolder(version, card)


def best_for(modalities: Sequence[str]) -> ModelFolder:
    """The shipped model for some modalities that is used unless another one is named.

    A network with a lesion probability comes before those that only reconstruct: it missed fewer lesions in BraTS
    patients (docs/results.md). Otherwise the mean Dice in the card decides. It cannot decide alone, since the cards
    were measured on different cohorts.

    Args:
        modalities: all modalities of the model. The first one must be the model's first; the order of the others does
            not matter.

    Raises:
        InputError: there is no such model.
    """
    models = shipped()
    fitting = [
        model
        for model in models
        if model.card.modalities[0] == modalities[0] and set(model.card.modalities) == set(modalities)
    ]
    if not fitting:
        supported = ", ".join(sorted({" + ".join(model.card.modalities) for model in models})) or "nothing"
        raise InputError(
            f"no shipped model takes {' + '.join(modalities)}, only {supported}; omit --modality, or give --model"
        )
    return max(fitting, key=lambda model: (model.card.score == "probability", model.card.dice))


def version_folders(folder: Path) -> list[Path]:
    """The version folders in the folder of a model, the newest last."""
    # Only ASCII digits: TensorFlow Serving does not accept others, and int() does not accept all of them.
    numbered = [version for version in folder.iterdir() if re.fullmatch("[0-9]{1,18}", version.name)]
    models = [version for version in numbered if (version / "saved_model.pb").is_file()]
    return sorted(models, key=lambda version: int(version.name))


def newest_version(folder: Path) -> Path | None:
    """The folder itself if it is a SavedModel, else its newest version; None if it has no version."""
    if (folder / "saved_model.pb").is_file():
        return folder
    return next(reversed(version_folders(folder)), None)


def copy_model(model: ExportedModel, folder: Path) -> None:
    """Copies the files of a model to a new folder, in which they can be changed: the model's own can be read-only."""
    try:
        shutil.copytree(model.path, folder, copy_function=shutil.copyfile)
    except shutil.Error as error:
        raise OSError(error.args[0][0][2]) from error
    finally:
        # Otherwise an incomplete copy could not be deleted.
        for place in (one for one in (folder, *folder.rglob("*")) if one.is_dir()):
            place.chmod(place.stat().st_mode | stat.S_IRWXU)


def _lesion_model(model: ExportedModel) -> ModelFolder:
    if isinstance(model, ModelFolder):
        return model
    raise InputError(f"{printable(model.path)}: is a brain network, which finds the brain and no lesions; {_choices()}")


def _home() -> Path:
    return Path(str(resources.files("brainseg_tf_saved_models")))


def _choices() -> str:
    names = ", ".join(name for name in shipped_folders() if name != BRAIN)
    return f"give a shipped model ({names or 'none'}), or the folder of a trained model"


def _find_shipped(reference: str) -> Path:
    """The version folder for ``shipped:NAME`` or ``shipped:NAME/VERSION``."""
    name, slash, version = reference.removeprefix(SHIPPED).partition("/")
    newest = shipped_folders().get(name)
    if newest is None:
        raise InputError(f"{printable(reference)}: no such model; {_choices()}")
    versions = {folder.name: folder for folder in version_folders(newest.parent)}
    if slash and version not in versions:
        raise InputError(f"{printable(reference)}: no such version; choose from {', '.join(versions)}")
    return versions[version] if slash else newest


def _expanded(text: str) -> Path:
    """The path, with ``~`` expanded if the shell did not do it."""
    folder = Path(text)
    if text.startswith("~") and not os.path.lexists(folder):
        with suppress(RuntimeError, ValueError):  # There is no such user, or HOME is not set.
            return folder.expanduser()
    return folder
