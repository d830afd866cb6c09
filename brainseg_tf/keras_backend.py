"""Keras with the TensorFlow backend, which networks, training step and export require."""

import os
import sys

from brainseg_tf.errors import InputError

if "keras" not in sys.modules:
    # Keras reads the variable when it is imported. The user may have set another backend for other programs.
    os.environ["KERAS_BACKEND"] = "tensorflow"

import keras

if keras.config.backend() != "tensorflow":
    raise InputError(
        f"Keras was imported with the backend {keras.config.backend()}, but brainseg-tf requires tensorflow; import "
        "brainseg_tf.models before Keras, or set KERAS_BACKEND=tensorflow"
    )

__all__ = ["keras", "use_defaults"]


def use_defaults() -> None:
    """Resets the settings that ``keras.json`` can change to Keras' defaults, such as float32 and channels last.

    Only the command line calls this. A program that imports the library keeps its settings.
    """
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
