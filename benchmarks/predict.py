"""Time of each stage of ``brainseg-tf predict`` on the sample scan (240 x 240 x 155).

    python benchmarks/predict.py [MODEL ...]

Prints the time of ``--help`` compared with that of an empty Python program; for each model the time and peak memory of
the command and the time of each stage with its share; and the time of the imports.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

PHANTOM = Path(__file__).parents[1] / "examples" / "phantom" / "phantom_flair.nii.gz"
COMMAND = str(Path(sys.executable).with_name("brainseg-tf"))
REPEATS = 3
IMPORTS = ("nibabel", "scipy.ndimage", "skimage.measure", "sklearn.linear_model", "tensorflow")


class Usage(NamedTuple):
    """Time and memory of a command.

    Attributes:
        seconds: wall time.
        peak: peak resident memory in GB.
        private: peak of the resident memory in GB that is not shared, for instance not mapped from files.
    """

    seconds: float
    peak: float
    private: float


def run(*command: str) -> Usage:
    """Runs a command and measures its time and memory."""
    start, peak, private = time.perf_counter(), 0, 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            memory = process.memory_info()
            peak, private = max(peak, memory.rss), max(private, memory.rss - memory.shared)
            process.wait(0.01)
        except (psutil.TimeoutExpired, psutil.NoSuchProcess):
            continue
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Usage(time.perf_counter() - start, peak / 1e9, private / 1e9)


def shortest(*command: str) -> float:
    """The shortest time of several runs, in seconds."""
    return min(run(*command).seconds for _ in range(REPEATS))


def row(name: str, seconds: float, total: float, note: str = "") -> None:
    """Prints a row of the table."""
    print(f"{name:28} {seconds:7.2f} s  {seconds / total:6.0%}  {note}")


def predict(model: str, folder: Path) -> None:
    """Runs one prediction and prints the time of each stage."""
    report = folder / f"{model}.json"
    mask = str(folder / f"{model}.nii.gz")
    total, memory, _ = run(COMMAND, "predict", str(PHANTOM), "--model", model, "--out", mask, "--report", str(report))
    stages = json.loads(report.read_text())["seconds"]
    row(f"predict --model {model}", total, total, f"peak {memory:.2f} GB")
    for stage, seconds in stages.items():
        row(f"  {stage}", seconds, total)
    row("  start-up and the rest", total - sum(stages.values()), total)


def imports() -> None:
    """Prints the import time of each of the larger packages, in the order in which ``predict`` imports them."""
    before = shortest(sys.executable, "-c", "pass")
    statements: list[str] = []
    for name in IMPORTS:
        statements.append(f"import {name}")
        after = shortest(sys.executable, "-c", "; ".join(statements))
        print(f"{'import ' + name:50} {after - before:6.2f} s more")
        before = after


def main() -> None:
    """Runs the measurements and prints the tables."""
    empty = shortest(sys.executable, "-c", "pass")
    help_ = shortest(COMMAND, "--help")
    print(f"{'--help':28} {help_:7.2f} s  {help_ / empty:6.1f} x an empty Python program, {empty:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        for model in sys.argv[1:] or ["selfseg-flair", "cvae", "dcvae", "dae"]:
            predict(model, Path(folder))
    imports()


if __name__ == "__main__":
    main()
