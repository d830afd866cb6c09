"""Where the seconds of ``brainseg-tf predict`` go, on the sample scan (240 x 240 x 155), beside what bounds them.

    python benchmarks/predict.py [MODEL ...]

Prints, in one run: seconds and peak memory of the whole command and of each stage, each also as a share of the whole;
``--help`` beside a Python that does nothing; what the imports cost.
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


class Usage(NamedTuple):
    """Seconds of a command, its peak resident memory in GB, and the peak of what of it no file stands behind."""

    seconds: float
    peak: float
    own: float


def run(*command: str) -> Usage:
    """Runs a command and watches it."""
    start, peak, own = time.perf_counter(), 0, 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            memory = process.memory_info()
            peak, own = max(peak, memory.rss), max(own, memory.rss - memory.shared)
            process.wait(0.01)
        except (psutil.TimeoutExpired, psutil.NoSuchProcess):
            continue
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Usage(time.perf_counter() - start, peak / 1e9, own / 1e9)


def best(repeats: int, *command: str) -> float:
    """The least seconds of several runs."""
    return min(run(*command).seconds for _ in range(repeats))


def row(name: str, seconds: float, whole: float, note: str = "") -> None:
    """Prints a line of the table."""
    print(f"{name:28} {seconds:7.2f} s  {seconds / whole:6.0%}  {note}")


def predict(model: str, folder: Path) -> None:
    """One prediction, stage by stage."""
    report = folder / f"{model}.json"
    mask = str(folder / f"{model}.nii.gz")
    whole, memory, _ = run(COMMAND, "predict", str(PHANTOM), "--model", model, "--out", mask, "--report", str(report))
    stages = json.loads(report.read_text())["seconds"]
    row(f"predict --model {model}", whole, whole, f"peak {memory:.2f} GB")
    for stage, seconds in stages.items():
        row(f"  {stage}", seconds, whole)
    row("  start-up and the rest", whole - sum(stages.values()), whole)


def imports() -> None:
    """What importing each of the larger packages costs, in the order and by the names that ``predict`` imports them."""
    before = best(3, sys.executable, "-c", "pass")
    done: list[str] = []
    for name in ("nibabel", "scipy.ndimage", "skimage.measure", "sklearn.mixture, sklearn.linear_model", "tensorflow"):
        done.append(f"import {name}")
        after = best(3, sys.executable, "-c", "; ".join(done))
        print(f"{'import ' + name:50} {after - before:6.2f} s more")
        before = after


def main() -> None:
    """Prints the tables."""
    bare = best(5, sys.executable, "-c", "pass")
    help_ = best(5, COMMAND, "--help")
    print(f"{'--help':28} {help_:7.2f} s  {help_ / bare:6.1f} x a Python that does nothing, {bare:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        for model in sys.argv[1:] or ["selfseg-flair", "cvae", "dcvae", "dae"]:
            predict(model, Path(folder))
    imports()


if __name__ == "__main__":
    main()
