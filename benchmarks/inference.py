"""The engines that ``engines.py`` compares, and the files that they read.

Each function loads a network from a folder that ``prepare`` has filled. It takes the folder, the name of the model and
the number of threads, None for all cores.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# The engine that the others are compared with.
BASE = "c-api"
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def tensorflow(folder: Path, name: str, threads: int | None) -> Run:
    """TensorFlow's Python package."""
    import tensorflow as tf

    from brainseg_tf import saved_model

    tf.config.threading.set_intra_op_parallelism_threads(threads or 0)
    tf.config.threading.set_inter_op_parallelism_threads(threads or 0)
    return saved_model.signature_of_tensorflow(folder / name / "1")


def c_api(folder: Path, name: str, threads: int | None) -> Run:
    """TensorFlow's C library."""
    from brainseg_tf import c_api

    return c_api.open_signature(folder / name / "1", threads)


def frozen(folder: Path, name: str, threads: int | None) -> Run:
    """TensorFlow's C library with variables as constants, so that the graph's optimizer can fold them."""
    return c_api(folder, f"{name}-frozen", threads)


def folded(folder: Path, name: str, threads: int | None) -> Run:
    """As ``frozen``, with each batch norm as a scale and a shift."""
    return c_api(folder, f"{name}-folded", threads)


def one_thread(folder: Path, name: str, threads: int | None) -> Run:
    """TensorFlow's C library with one thread, pinned to a core; images per second are doubled, as for two processes."""
    from brainseg_tf import c_api

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return c_api.open_signature(folder / name / "1", 1)


def onnxruntime(folder: Path, name: str, threads: int | None) -> Run:
    """The file of ``export --format onnx`` in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def openvino(
    folder: Path, name: str, threads: int | None, *, shape: tuple[int, ...] | None = None, **options: Any
) -> Run:
    """OpenVINO with the SavedModel, in float32 as TensorFlow: on CPUs with AMX its default is bfloat16."""
    import openvino

    core = openvino.Core()
    network = core.read_model(folder / name / "1")
    if shape is not None:
        network.reshape(list(shape))
    options |= {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or 0}
    compiled = core.compile_model(network, "CPU", options)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        answers = compiled({"images": images})
        return {output.get_any_name(): answers[output] for output in compiled.outputs}

    return run


def openvino_cached(folder: Path, name: str, threads: int | None) -> Run:
    """The same with a folder for compiled networks, which shortens the second start."""
    return openvino(folder, name, threads, CACHE_DIR=str(folder / "openvino"))


def openvino_fixed(folder: Path, name: str, threads: int | None) -> Run:
    """The same, compiled for each shape of the images."""
    by_shape: dict[tuple[int, ...], Run] = {}

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        if images.shape not in by_shape:
            by_shape[images.shape] = openvino(folder, name, threads, shape=images.shape)
        return by_shape[images.shape](images)

    return run


def pytorch(folder: Path, name: str, threads: int | None, *, channels_last: bool = True) -> Run:
    """The same layers in PyTorch, with random weights."""
    import torch
    from training import pytorch_network

    torch.set_num_threads(threads or torch.get_num_threads())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = pytorch_network(name).eval().to(memory_format=layout)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        padded = np.pad(images, [(0, 0), *((0, -n % 32) for n in images.shape[1:3]), (0, 0)])
        with torch.inference_mode():
            batch = torch.from_numpy(padded).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            return {"reconstruction": network(batch).permute(0, 2, 3, 1).numpy()}

    return run


def pytorch_contiguous(folder: Path, name: str, threads: int | None) -> Run:
    """The same in PyTorch's other memory format."""
    return pytorch(folder, name, threads, channels_last=False)


ENGINES: dict[str, Callable[[Path, str, int | None], Run]] = {
    BASE: c_api,
    "tensorflow": tensorflow,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino, cached": openvino_cached,
    "openvino, fixed shape": openvino_fixed,
    "pytorch": pytorch,
    "pytorch, contiguous": pytorch_contiguous,
    "c-api, constants": frozen,
    "c-api, scale and shift": folded,
    "c-api, one pinned thread x 2": one_thread,
}
# Engines that need no package but TensorFlow are not listed.
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "pytorch": "torch"}
# Engines whose start and whole prediction are measured.
STARTED = (BASE, "tensorflow", "onnxruntime", "openvino", "openvino, cached", "c-api, constants")


def is_available(engine: str) -> bool:
    """Whether the package of an engine is installed."""
    package = PACKAGES.get(engine.partition(",")[0])
    return package is None or importlib.util.find_spec(package) is not None


def prepare(folder: Path, names: list[str], *, with_onnx: bool) -> None:
    """Writes what the engines read: links to the SavedModels, frozen and folded ones, and ONNX files."""
    import tensorflow as tf

    # simple_save is deprecated, and the only function that writes a graph without objects.
    tf.get_logger().setLevel("ERROR")
    from brainseg_tf import saved_model
    from brainseg_tf.serving.onnx_export import export_onnx

    for name in names:
        found = saved_model.find_any(name)
        (folder / name).mkdir()
        (folder / name / "1").symlink_to(found.path)
        loaded = tf.saved_model.load(str(found.path))
        for kind, fold in (("frozen", False), ("folded", True)):
            save_constant(loaded.signatures["serving_default"], folder / f"{name}-{kind}" / "1", fold=fold)
        if with_onnx:
            export_onnx(found, folder)


def save_constant(signature: Any, folder: Path, *, fold: bool) -> None:
    """Writes a SavedModel with constants instead of variables, and with ``fold`` without batch norm."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    constant = convert_variables_to_constants_v2(signature)
    definition = constant.graph.as_graph_def()
    if fold:
        fold_batch_norm(definition)
    names = [tensor.name for tensor in constant.outputs]
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        images = graph.get_tensor_by_name(constant.inputs[0].name)
        outputs = {
            key: graph.get_tensor_by_name(one)
            for key, one in zip(sorted(signature.structured_outputs), names, strict=True)
        }
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"images": images}, outputs)


def fold_batch_norm(graph: Any) -> None:
    """Replaces each batch norm of a GraphDef by a multiplication and an addition, in place."""
    import tensorflow as tf

    nodes = {node.name: node for node in graph.node}

    def values(name: str) -> np.ndarray:
        node = nodes[name.partition(":")[0]]
        return tf.make_ndarray(node.attr["value"].tensor) if node.op == "Const" else values(node.input[0])

    for node in [node for node in graph.node if node.op == "FusedBatchNormV3"]:
        scale, shift, mean, variance = (values(name) for name in node.input[1:5])
        scale = scale / np.sqrt(variance + node.attr["epsilon"].f)
        images, name = node.input[0], node.name
        node.Clear()
        for kind, value in (("scale", scale), ("shift", shift - mean * scale)):
            new = graph.node.add(op="Const", name=f"{name}/{kind}")
            new.attr["dtype"].type = tf.float32.as_datatype_enum
            new.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(np.float32)))
        product = graph.node.add(op="Mul", name=f"{name}/scaled", input=[images, f"{name}/scale"])
        product.attr["T"].type = tf.float32.as_datatype_enum
        node.op, node.name = "AddV2", name
        node.input.extend([f"{name}/scaled", f"{name}/shift"])
        node.attr["T"].type = tf.float32.as_datatype_enum
