"""Export of a network as a SavedModel with signatures, model card and warmup requests."""

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
    """Writes a SavedModel with its signatures, card and warmup requests.

    The folder is written under a temporary name and renamed at the end, so it is never incomplete.

    Args:
        model: the network.
        card: its card; checksums are added to it.
        version_folder: the folder to write, for instance ``cvae/1``.

    Raises:
        InputError: the folder cannot be written.
    """
    images = [tf.TensorSpec((None, None, None, model.channels), tf.float32, name="images")]
    # The archive tracks the variables that its endpoints use. Tracking the model too would write each variable twice.
    archive = keras.export.ExportArchive()
    by_name = signatures(model, card)
    for name, signature in by_name.items():
        archive.add_endpoint(name, signature, images)
    with replacing(version_folder) as temporary, explain_write_errors(version_folder):
        archive.write_out(str(temporary), verbose=False)
        make_folder((temporary / CARD_KEY).parent)
        write_warmup(temporary, card, by_name)
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
