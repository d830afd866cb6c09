"""Keras on TensorFlow, whatever the environment asks for: networks, training step and export need it."""

import os
import sys

from brainseg_tf.errors import InputError

if "keras" not in sys.modules:
    # Read once, when Keras is imported; the user may have chosen another backend for other work.
    os.environ["KERAS_BACKEND"] = "tensorflow"

import keras

if keras.config.backend() != "tensorflow":
    raise InputError(
        f"Keras was imported with the backend {keras.config.backend()}; brainseg-tf needs tensorflow: import "
        "brainseg_tf.models first, or set KERAS_BACKEND=tensorflow"
    )

__all__ = ["keras", "use_defaults"]


def use_defaults() -> None:
    """Sets what ``keras.json`` can change back to Keras' own defaults: float32, channels last.

    For a process of our own, a command; a program that imports the library keeps its settings.
    """
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
