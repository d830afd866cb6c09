"""Export of a network as a SavedModel with signatures, model card and warmup requests."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing
from brainseg_tf.keras_backend import keras
from brainseg_tf.links import for_tensorflow
from brainseg_tf.model_card import CARD_KEY, BrainCard, ModelCard, checksums
from brainseg_tf.models.brain import BrainNetwork
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.serving.signatures import Signature, brain_signatures, signatures
from brainseg_tf.serving.warmup import BATCH_SIZES, write_warmup

# Voxels of a whole head of average size, for the warmup request of a brain network.
_WARMUP_HEAD = (96, 112, 96)


def export(model: ContextModel, card: ModelCard, version_folder: Path) -> None:
    """Writes a SavedModel with its signatures, card and warmup requests.

    The folder is written under a temporary name and renamed at the end, so it is never incomplete.

    Args:
        model: the network.
        card: its card; checksums are added to it.
        version_folder: the folder to write, for instance ``cvae/1``.

    Raises:
        InputError: the folder cannot be written.
    """
    images = tf.TensorSpec((None, None, None, model.channels), tf.float32, name="images")
    shape = (card.slices.size, card.slices.size, model.channels)
    _write(signatures(model, card), images, [(batch, *shape) for batch in BATCH_SIZES], card, version_folder)


def export_brain_network(model: BrainNetwork, card: BrainCard, version_folder: Path) -> None:
    """The same for a brain network, whose images are (N, x, y, z, 1) uint8."""
    images = tf.TensorSpec((None, None, None, None, 1), tf.uint8, name="images")
    _write(brain_signatures(model, card), images, [(1, *_WARMUP_HEAD, 1)], card, version_folder)


def _write(
    by_name: Mapping[str, Signature],
    images: tf.TensorSpec,
    warmup: Sequence[tuple[int, ...]],
    card: ModelCard | BrainCard,
    version_folder: Path,
) -> None:
    """Writes a SavedModel; ``warmup`` are the shapes of its warmup requests."""
    # The archive tracks the variables that its endpoints use. Tracking the model too would write each variable twice.
    archive = keras.export.ExportArchive()
    for name, signature in by_name.items():
        archive.add_endpoint(name, signature, [images])
    with (
        replacing(version_folder) as folder,
        for_tensorflow(folder.parent) as place,
        explain_write_errors(version_folder),
    ):
        temporary = place / folder.name
        archive.write_out(str(temporary), verbose=False)
        make_folder((temporary / CARD_KEY).parent)
        write_warmup(temporary, card.name, sorted(by_name), warmup, images.dtype)
        # The card is written last, because it contains the checksums of all other files.
        replace(card, checksums=checksums(temporary)).write(temporary)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Raises ``InputError`` instead of the errors of TensorFlow's writers.

    Raises:
        InputError: ``path`` cannot be written, for instance because the disk is full.
    """
    try:
        yield
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0]
        raise InputError(
            f"{path}: cannot be written ({reason}); free disk space, then continue with --resume"
        ) from error
