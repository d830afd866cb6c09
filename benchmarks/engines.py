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
from collections.abc import Iterator
from pathlib import Path

# As in the command line.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from inference import BASE, ENGINES, STARTED, is_available, prepare

PHANTOM = Path(__file__).parents[1] / "examples" / "phantom" / "phantom_flair.nii.gz"
MODELS = ("cvae", "dcvae", "dae", "selfseg-flair")
BATCH, LARGER_BATCHES = 16, (32,)
# Turns of each engine, and of whole predictions.
TURNS, PREDICTIONS = 5, 3
# Seconds of a turn, in which an engine runs as often as it can, and between turns: threads may wait actively for more.
TURN, PAUSE = 0.3, 0.2
# Size of the images of the cold start.
FIRST_SIZE = 128


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
        for _ in range(PREDICTIONS):
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
