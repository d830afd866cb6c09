"""Engines for the inference of the shipped networks, compared with TensorFlow's C library, which ``predict`` uses.

    pip install '.[benchmarks,onnx]'
    python benchmarks/engines.py [MODEL ...] [--sizes 128 240] [--engines c-api openvino ...] [--no-predict] [--busy]

Prints three tables: images per second, the cold start, and the whole ``predict``. Each engine runs in a process of its
own. The engines take turns, and the values are those of the fastest of several turns, so that other work on the machine
affects all of them alike. The ratio is to ``c-api``; above 1 an engine is faster. Engines that are not installed are
left out. PyTorch has no twin of ``selfseg-flair``, and no row for the start: its networks are built from the tables of
this package, which imports TensorFlow.

With --busy, for a machine that does other work, each engine has one thread, and the seconds are those of the processor:
with two threads that wait for each other, the time depends on the other work more than on the engine.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# As in the command line.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

PHANTOM = Path(__file__).parents[1] / "examples" / "phantom" / "phantom_flair.nii.gz"
MODELS = ("cvae", "dcvae", "dae", "selfseg-flair")
# The engine that the others are compared with.
BASE = "c-api"
BATCH, LARGER_BATCHES, TURNS = 16, (32,), 5
# Seconds of a turn, in which an engine runs as often as it can, and between turns: threads may wait actively for more.
TURN, PAUSE = 0.3, 0.2
# Size of the images of the cold start.
FIRST_SIZE = 128

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


def serve(engine: str, folder: Path, name: str, batch: int, *, busy: bool) -> None:
    """Answers on standard output, in a process of its own: the processor's seconds until the first result, and the
    seconds of each turn.
    """
    run = ENGINES[engine](folder, name, 1 if busy else None)
    clock = time.process_time if busy else time.perf_counter
    random = np.random.default_rng(0)
    run(random.random((batch, FIRST_SIZE, FIRST_SIZE, 1), np.float32))
    print(time.process_time(), flush=True)
    for line in sys.stdin:
        images = random.random((batch, int(line), int(line), 1), np.float32)
        run(images)
        best, end = float("inf"), clock() + TURN
        while clock() < end or best == float("inf"):
            start = clock()
            run(images)
            best = min(best, clock() - start)
        print(best, flush=True)


class Process:
    """A process with an engine.

    Attributes:
        start: seconds from its start to the first result.
    """

    def __init__(self, engine: str, folder: Path, name: str, batch: int = BATCH, *, busy: bool = False) -> None:
        started, self._batch = time.perf_counter(), batch
        command = [sys.executable, __file__, "--one", engine, "--folder", str(folder), "--batch", str(batch), name]
        command += ["--busy"] if busy else []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        processor = float(self._answer())
        self.start = processor if busy else time.perf_counter() - started

    def images_per_second(self, size: int) -> float:
        """The speed in one turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()
        return self._batch / float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise SystemExit(f"{' '.join(map(str, self._process.args))}: has ended")
        return answer

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def print_speeds(folder: Path, names: list[str], sizes: list[int], engines: list[str], *, busy: bool) -> None:
    """Prints images per second and their ratio to those of the C library."""
    print("| engine, batch of 16 |" + "".join(f" {name}, {size} |" for name in names for size in sizes))
    print("|---|" + "---|" * (len(names) * len(sizes)))
    rows = {(engine, BATCH): {} for engine in engines} | {(BASE, count): {} for count in LARGER_BATCHES}
    for name in names:
        able = [row for row in rows if not (row[0].startswith("pytorch") and name == "selfseg-flair")]
        processes = {row: Process(row[0], folder, name, row[1], busy=busy) for row in able}
        for size in sizes:
            for _ in range(TURNS):
                for row, process in processes.items():
                    time.sleep(PAUSE)
                    speed = process.images_per_second(size) * (2 if row[0].endswith("x 2") else 1)
                    rows[row][name, size] = max(rows[row].get((name, size), 0), speed)
        for process in processes.values():
            process.end()
    for (engine, batch), speeds in rows.items():
        cells = []
        for key in [(name, size) for name in names for size in sizes]:
            ratio = speeds.get(key, 0) / rows[BASE, BATCH][key]
            cells.append(f" {speeds[key]:.0f} ({ratio:.2f}) |" if key in speeds else " |")
        print(f"| {engine}{'' if batch == BATCH else f', batch of {batch}'} |{''.join(cells)}", flush=True)


def print_starts(folder: Path, name: str, engines: list[str], *, busy: bool) -> None:
    """Prints the seconds from the start of Python to the first result."""
    starts: dict[str, list[float]] = {}
    for _ in range(TURNS):
        for engine in engines:
            process = Process(engine, folder, name, busy=busy)
            starts.setdefault(engine, []).append(process.start)
            process.end()
    print(f"\n| engine, {name} | first result after, s | ratio |\n|---|---|---|")
    for engine, seconds in starts.items():
        print(f"| {engine} | {min(seconds):.2f} | {min(starts[BASE]) / min(seconds):.2f} |", flush=True)


def predict_with(engine: str, folder: Path, words: list[str]) -> None:
    """Runs the command line with an engine in the place of the C library."""
    from brainseg_tf import saved_model
    from brainseg_tf_cli.main import main as command

    if engine not in (BASE, "tensorflow"):
        saved_model._signature = lambda path, runtime: ENGINES[engine](folder, path.parent.name, runtime.threads)
    command(["predict", *words, "--engine", "tensorflow" if engine == "tensorflow" else "c-api"])


def print_predictions(folder: Path, names: list[str], engines: list[str]) -> None:
    """Prints the seconds of ``predict``, and the voxels of its mask that differ."""
    import nibabel as nib

    print("\n| `predict` | engine | seconds | ratio | processor's seconds | ratio | different voxels |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        seconds: dict[str, list[float]] = {engine: [] for engine in engines}
        processor: dict[str, list[float]] = {engine: [] for engine in engines}
        masks: dict[str, np.ndarray] = {}
        for _ in range(TURNS):
            for engine in engines:
                out = folder / "mask.nii.gz"
                command = [sys.executable, __file__, "--predict-with", engine, "--folder", str(folder)]
                words = [str(PHANTOM), "--model", name, "--out", str(out), "--overwrite"]
                start, before = time.perf_counter(), sum(os.times()[2:4])
                subprocess.run(
                    [*command, "--", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                seconds[engine].append(time.perf_counter() - start)
                processor[engine].append(sum(os.times()[2:4]) - before)
                masks[engine] = np.asarray(nib.load(out).dataobj)
        for engine in engines:
            cells = [
                f"{min(values[engine]):.1f} | {min(values[BASE]) / min(values[engine]):.2f}"
                for values in (seconds, processor)
            ]
            different = int((masks[engine] != masks[BASE]).sum())
            print(f"| {name} | {engine} | {' | '.join(cells)} | {different} |", flush=True)


def versions() -> Iterator[str]:
    """The packages that are compared, with their versions."""
    from importlib.metadata import version

    for package in ("tensorflow", "onnxruntime", "openvino", "torch"):
        if importlib.util.find_spec(package):
            yield f"{package} {version(package)}"


def main() -> None:
    """Runs the measurements and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 240])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), metavar="ENGINE", default=list(ENGINES))
    parser.add_argument("--no-predict", action="store_true", help="leave out the third table")
    parser.add_argument("--busy", action="store_true", help="one thread and the processor's seconds")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--predict-with", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        serve(given.one, given.folder, given.models[0], given.batch, busy=given.busy)
        return
    if given.predict_with:
        predict_with(given.predict_with, given.folder, given.models)
        return
    from onednn import cpu

    from brainseg_tf.architectures import BRAIN

    engines = [BASE, *(one for one in given.engines if one != BASE and is_available(one))]
    if given.busy:
        # It is the first row then.
        engines = [one for one in engines if not one.endswith("x 2")]
    print(f"{cpu()}; {', '.join(versions())}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Each prediction loads the brain network too.
        prepare(folder, [*given.models, BRAIN], with_onnx="onnxruntime" in engines)
        print_speeds(folder, given.models, given.sizes, engines, busy=given.busy)
        started = [engine for engine in engines if engine in STARTED]
        print_starts(folder, given.models[0], started, busy=given.busy)
        if not given.no_predict:
            print_predictions(folder, given.models, started)


if __name__ == "__main__":
    main()
