"""Writing a SavedModel: signatures, model card and warmup requests, in one step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing
from brainseg_tf.keras_backend import keras
from brainseg_tf.model_card import CARD_KEY, ModelCard, checksums
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.serving.signatures import signatures
from brainseg_tf.serving.warmup import write_warmup


def export(model: ContextModel, card: ModelCard, version_folder: Path) -> None:
    """Writes a SavedModel with its signatures, card and warmup requests, in one step."""
    images = [tf.TensorSpec((None, None, None, model.channels), tf.float32, name="images")]
    # The archive follows the variables that its endpoints use; tracking the model as well would write each twice.
    archive = keras.export.ExportArchive()
    named = signatures(model, card)
    for name, signature in named.items():
        archive.add_endpoint(name, signature, images)
    with replacing(version_folder) as beside, written(version_folder):
        archive.write_out(str(beside), verbose=False)
        make_folder((beside / CARD_KEY).parent)
        write_warmup(beside, card, named)
        # Last, since its checksums are those of all other files.
        replace(card, checksums=checksums(beside)).write(beside)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What TensorFlow's own writers raise, as one line.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    try:
        yield
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0]
        raise InputError(f"{path}: cannot be written ({reason}); make room, then go on with --resume") from error
