"""Export of a network as an ONNX file, with tf2onnx (the extra ``[onnx]``)."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing
from brainseg_tf.links import for_tensorflow
from brainseg_tf.model_card import BrainCard, ModelCard
from brainseg_tf.saved_model import ExportedModel
from brainseg_tf.serving.identity import identity

# The version of ONNX's operators, of December 2022: newer ones add nothing that the networks use.
_OPSET = 18
# Largest difference of an output to that of the SavedModel; bytes are rounded, so one step is allowed.
TOLERANCE, BYTE_TOLERANCE = 1e-4, 1.0
# The axes of images, and of what is known for each pixel or voxel.
_SLICE_AXES, _HEAD_AXES = ("N", "H", "W"), ("N", "x", "y", "z")
_HEAD = (1, 52, 61, 47)


def export_onnx(model: ExportedModel, folder: Path, version: int | None = None) -> Path:
    """Writes the signature ``serving_default`` of a model as ``NAME.onnx``, and checks it with onnxruntime.

    Input and outputs have the names, types and axes of the signature: the channels are last, and the number and size of
    the images are free. The essentials of the card are in the metadata.

    Args:
        model: the model.
        folder: for the file; created if it does not exist.
        version: number of the version in the metadata; that of the model if None.

    Returns:
        The file.

    Raises:
        InputError: tf2onnx or onnxruntime is not installed, the model is damaged, the file exists or cannot be written,
            or an output has another shape than that of the SavedModel or differs by more than ``TOLERANCE``.
    """
    for package in ("tf2onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"ONNX needs {package}; pip install 'brainseg-tf[onnx]'")
    model.check()
    card = replace(model.card, version=model.card.version if version is None else version)
    path = folder / f"{card.name}.onnx"
    if path.exists():
        raise InputError(f"{path}: exists already; remove it, or give another folder")
    make_folder(folder)
    import tensorflow as tf

    with for_tensorflow(model.path) as place:
        loaded = tf.saved_model.load(str(place))
    serve = loaded.signatures["serving_default"]
    network = _convert(serve)
    _name_axes(network, _HEAD_AXES if isinstance(card, BrainCard) else _SLICE_AXES)
    _add_metadata(network, card)
    content = network.SerializeToString()
    for shape in _shapes(card):
        _check(content, serve, shape, model.path)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _shapes(card: ModelCard | BrainCard) -> list[tuple[int, ...]]:
    """The shapes of the images for the comparison: also sides that are no multiples of the strides."""
    if isinstance(card, BrainCard):
        return [(*_HEAD, 1)]
    size, channels = card.slices.size, len(card.modalities)
    return [(2, size, size, channels), (1, size - 11, size + 6, channels)]


def _convert(serve: Callable[..., Any]) -> Any:
    """The ONNX network of a signature.

    As ``tf2onnx.convert.from_function``, but without the pass ``reshape_optimizer`` of tf2onnx 1.17. It adds an axis to
    the result of a reshape and removes it again behind it. In few exports the axis stayed in an output.
    """
    import tensorflow as tf
    from tf2onnx import convert, optimizer, tf_loader, tfonnx

    spec = serve.structured_input_signature[1]["images"]  # type: ignore[attr-defined]
    function = tf.function(lambda images: serve(images=images)).get_concrete_function(spec)
    inputs = [tensor.name for tensor in function.inputs if tensor.dtype != tf.resource]
    outputs = [tensor.name for tensor in function.outputs]
    frozen = tf_loader.from_function(function, inputs, outputs)
    with tf.device("/cpu:0"), tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="")
        network = tfonnx.process_tf_graph(
            graph,
            opset=_OPSET,
            custom_op_handlers={"FloorMod": (_floor_mod, []), "FloorDiv": (_floor_div, [])},
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=convert.tensor_names_from_structed(function, inputs, outputs),
        )
        passes = {name: one for name, one in optimizer._get_optimizers().items() if name != "reshape_optimizer"}
        return optimizer.optimize_graph(network, optimizers=passes).make_model("brainseg-tf")


# tf2onnx 1.17 rounds the quotient of a negative integer towards zero, as ONNX's Div does. TensorFlow rounds it down,
# and the padding of images to a multiple of the stride depends on it. ONNX's Mod of integers rounds down.


def _floor_mod(context: Any, node: Any, name: str, arguments: list[Any]) -> None:
    node.type = "Mod"


def _floor_div(context: Any, node: Any, name: str, arguments: list[Any]) -> None:
    number, divisor = node.input
    outputs, shapes, types = node.output, node.output_shapes, node.output_dtypes
    remainder = context.make_node("Mod", [number, divisor])
    multiple = context.make_node("Sub", [number, remainder.output[0]])
    context.remove_node(node.name)
    context.make_node(
        "Div", [multiple.output[0], divisor], name=node.name, outputs=outputs, shapes=shapes, dtypes=types
    )


def _name_axes(network: Any, axes: tuple[str, ...]) -> None:
    """Names the axes of free length, in place."""
    for value in (*network.graph.input, *network.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, axes, strict=False):
            dimension.dim_param = name


def _add_metadata(network: Any, card: ModelCard | BrainCard) -> None:
    """Adds the essentials of a card, in place: text as it is, everything else as JSON."""
    import onnx

    content: dict[str, Any] = {"name": card.name, "version": card.version, **json.loads(identity(card))}
    if isinstance(card, ModelCard):
        content |= {"score": card.score, "healthy_levels": card.healthy_levels}
    content["terms"] = card.terms
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in content.items()}
    onnx.helper.set_model_props(network, text)


def _check(content: bytes, serve: Callable[..., Any], shape: tuple[int, ...], place: Path) -> None:
    """Compares the outputs of both networks for random images.

    Raises:
        InputError: they differ.
    """
    import onnxruntime
    import tensorflow as tf

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    is_brain = len(shape) == 5
    images = random.integers(0, 256, shape, np.uint8) if is_brain else random.random(shape, np.float32)
    expected = {name: values.numpy() for name, values in serve(images=tf.constant(images)).items()}
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"images": images}), strict=True))
    for name, values in expected.items():
        tolerance = TOLERANCE if values.dtype == np.float32 else BYTE_TOLERANCE
        problem = ""
        if found[name].shape != values.shape:
            problem = f"has the shape {found[name].shape}, that of the SavedModel {values.shape}"
        elif not (difference := float(np.abs(found[name].astype(np.float64) - values).max())) <= tolerance:
            problem = f"differs from that of the SavedModel by {difference:.2g}"
        if problem:
            raise InputError(
                f"{place}: output {name} of the ONNX network {problem}; "
                "reinstall tf2onnx and onnxruntime with pip install 'brainseg-tf[onnx]'"
            )
