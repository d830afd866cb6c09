"""The networks. ``create`` makes one by its name in ``brainseg_tf.architectures``."""

from importlib import import_module

from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.models.objective import ContextModel

__all__ = ["ContextModel", "class_of", "create"]


def class_of(architecture: str) -> type[ContextModel]:
    """The class of an architecture.

    Args:
        architecture: a key of ``ARCHITECTURES``.
    """
    module, _, name = ARCHITECTURES[architecture].class_path.partition(":")
    found: type[ContextModel] = getattr(import_module(module), name)
    return found


def create(architecture: str, channels: int, policy: str | None = None) -> ContextModel:
    """A new, untrained network, built for images of any height and width.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        channels: image channels, one per modality.
        policy: Keras' dtype policy, for instance ``mixed_float16``; Keras' global one if None.
    """
    model = class_of(architecture)(channels, name=architecture, dtype=policy)
    model.build((None, None, None, channels))
    return model


# Keras finds a class by its registered name when it loads a model: all of them must be known.
for _name in ARCHITECTURES:
    class_of(_name)
