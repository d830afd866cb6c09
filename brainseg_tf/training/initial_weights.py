"""Loads the weights of an exported model into a network, to train it further."""

import re

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.keras_backend import keras
from brainseg_tf.links import for_tensorflow
from brainseg_tf.saved_model import ModelFolder

# Where TensorFlow stores the names of the variables in a checkpoint.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def load_weights(network: keras.Model, model: ModelFolder) -> None:
    """Copies the weights of an exported model into a network of the same architecture.

    Args:
        network: built; its weights are replaced.
        model: the exported model.

    Raises:
        InputError: the model is damaged, or its layers are not those of the network, because an earlier version of
            brainseg-tf exported it.
    """
    model.check()
    with for_tensorflow(model.path) as folder:
        reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))
        names = {
            attribute.full_name: attribute.checkpoint_key
            for node in graph.nodes
            for attribute in node.attributes
            if attribute.full_name
        }
        stored = sorted(names, key=_creation_order)
        values = [np.asarray(reader.get_tensor(names[name])) for name in stored]
    variables = sorted(network.variables, key=lambda variable: _creation_order(variable.path))
    if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
        version = model.card.versions.get("brainseg-tf", "an earlier version")
        raise InputError(
            f"{printable(model.path)}: was exported by brainseg-tf {version}, whose networks have other layers than "
            "those of this version, so it cannot be trained further; train it anew, or choose another model"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _creation_order(path: str) -> tuple[str, int, str, str]:
    """Sorts the variables of a network as it creates them, whatever else the process created before.

    Keras numbers the layers of a class in the order of their creation, for instance ``unet/down_24/conv2d_5/kernel``.
    Before version 0.9 all convolutions were Keras' own, ``conv2d`` and ``conv2d_transpose``. Layers with one name, of
    which each of two fused networks has one, are sorted by their path.
    """
    layer, variable = path.split("/")[-2:]
    numbered = re.fullmatch(r"(.*?)_(\d+)", layer)
    name, number = (numbered[1], int(numbered[2])) if numbered else (layer, 0)
    return name.removeprefix("strided_dilated_"), number, variable, path
