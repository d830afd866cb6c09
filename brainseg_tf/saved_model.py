"""Exported models: finding one by name or folder, checking its files, and reconstructing slices with it."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.model_card import CARD_KEY, ModelCard, checksums, digest_on_disk, is_extra, read_card
from brainseg_tf.reconstruction import Reconstruction, in_batches

if TYPE_CHECKING:
    import tensorflow as tf


# Before a shipped model's name it says that no folder is meant.
SHIPPED = "shipped:"


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
        """Refuses a model whose files are not those that its card was written for, or whose card was edited.

        Cards of older versions have no checksums of themselves and of what a server needs, or none at all; what they
        do not have is not checked.

        Raises:
            InputError: a file is damaged, missing, new or another model's.
        """
        expected, found = self.card.checksums, checksums(self.path)
        if self.checks_card:
            found[CARD_KEY] = digest_on_disk(self.path)
        has_model = not all(map(is_extra, expected))
        for name in sorted({*expected, *found}):
            covered = self.checks_card if is_extra(name) else has_model
            if covered and expected.get(name) != found.get(name):
                raise InputError(
                    f"{printable(self.path / name)}: is not the file that the model card was written for; install "
                    "brainseg-tf or export the model again"
                )

    @property
    def checks_card(self) -> bool:
        """Whether the card has a checksum of itself; if not, it was exported before cards had one."""
        return CARD_KEY in self.card.checksums

    @property
    def reference(self) -> str:
        """What ``find`` takes for this very model, in any folder and on a machine with the same files.

        ``shipped:NAME/VERSION``, or an absolute path.
        """
        home, path = _home().resolve(), self.path.resolve()
        return f"{SHIPPED}{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)

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


def shipped() -> list[ModelFolder]:
    """The newest version of every model that came with the package, by name.

    Raises:
        InputError: a card is damaged.
    """
    return [open_folder(folder) for folder in shipped_folders().values()]


def shipped_folders() -> dict[str, Path]:
    """The folder of the newest version of every model that came with the package, by the model's name."""
    home = _home()
    places = sorted(place for place in home.iterdir() if place.is_dir()) if home.is_dir() else []
    newest = {place.name: newest_version(place) for place in places}
    return {name: folder for name, folder in newest.items() if folder is not None}


def find(name_or_folder: str) -> ModelFolder:
    """Finds a shipped model by name, or any exported model by its folder (the newest version in it).

    Args:
        name_or_folder: What has a ``/``, or begins with ``.`` or ``~``, is a folder and nothing else. A bare word is a
            shipped model's name, or else a folder here; one that is both is refused. ``shipped:NAME`` is a shipped
            model and nothing else, ``shipped:NAME/VERSION`` one of its versions.

    Raises:
        InputError: there is no such model, or two are meant.
    """
    text = str(name_or_folder)
    if not text.strip():
        raise InputError(f"the model's name is empty; {_choices()}")
    if text.startswith(SHIPPED):
        return open_folder(_shipped_place(text))
    if "/" in text or os.sep in text or text.startswith((".", "~")):
        place = _expanded(text)
        if not os.path.lexists(place):
            names = ", ".join(shipped_folders())
            raise InputError(f"{printable(text)}: no such folder; a shipped model is named without a path ({names})")
        return open_folder(place)
    folder, shipped_one = Path(text), shipped_folders().get(text)
    if shipped_one is None:
        return open_folder(folder)
    if _is_folder(folder) and not folder.samefile(shipped_one.parent):
        raise InputError(
            f"{text}: is a shipped model and a folder here; give {SHIPPED}{text} for the shipped model, or ./{text} "
            "for the folder"
        )
    return open_folder(shipped_one)


def open_folder(folder: Path) -> ModelFolder:
    """The exported model in a folder, or its newest version.

    Raises:
        InputError: there is none, or it has no sound card.
    """
    shown = printable(folder)
    try:
        if folder.is_file():
            raise InputError(f"{shown}: is a file; name the folder of the model")
        if not folder.is_dir():
            raise InputError(f"{shown}: no such model; {_choices()}")
        version = newest_version(folder)
    except OSError as error:
        raise InputError(f"{shown}: cannot be read ({error.strerror}); name a model folder that can") from error
    if version is None:
        raise InputError(f"{shown}: no SavedModel in it; name a model folder, or a shipped model (brainseg-tf models)")
    return ModelFolder(version, read_card(version))


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
    # Other digits than ASCII's are no number to a server, and some are none to int.
    numbered = [place for place in folder.iterdir() if re.fullmatch("[0-9]{1,18}", place.name)]
    models = [place for place in numbered if (place / "saved_model.pb").is_file()]
    return sorted(models, key=lambda place: int(place.name))


def newest_version(folder: Path) -> Path | None:
    """The folder itself if it is a SavedModel, else its subfolder with the highest number that is one, else None."""
    if (folder / "saved_model.pb").is_file():
        return folder
    return next(reversed(version_folders(folder)), None)


def _home() -> Path:
    return Path(str(resources.files("brainseg_tf_saved_models")))


def _choices() -> str:
    return f"shipped are {', '.join(shipped_folders()) or 'none'}, or give a folder that fit made"


def _shipped_place(reference: str) -> Path:
    name, slash, version = reference.removeprefix(SHIPPED).partition("/")
    newest = shipped_folders().get(name)
    if newest is None:
        raise InputError(f"{printable(reference)}: no such model; {_choices()}")
    versions = {place.name: place for place in version_folders(newest.parent)}
    if slash and version not in versions:
        raise InputError(f"{printable(reference)}: no such version of it; there are {', '.join(versions)}")
    return versions[version] if slash else newest


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _expanded(text: str) -> Path:
    """A path whose ``~`` the shell has left alone."""
    folder = Path(text)
    if text.startswith("~") and not os.path.lexists(folder):
        with suppress(RuntimeError, ValueError):  # There is no such user, or no HOME.
            return folder.expanduser()
    return folder
