"""Processor time of each stage of ``brainseg-tf predict``, compared with that of ``import tensorflow``.

    python benchmarks/processor_time.py [SCAN ...] [--model selfseg-flair] [--repeats 5]

The default is the sample scan (240 x 240 x 155). Each scan is segmented several times in one process, with the networks
loaded in TensorFlow's C library, and the shortest time of each stage is printed. Processor time depends less on what
else runs on the machine than wall time does. On several cores, stages with threads take less wall time than that.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import psutil
from predict import PHANTOM

from brainseg_tf.options import PredictOptions
from brainseg_tf.prediction.jobs import Job, Outputs
from brainseg_tf.prediction.predictor import Predictor
from brainseg_tf.resources import Runtime, limit_threads
from brainseg_tf.saved_model import find, shipped_brain_network

_ENGINE = Runtime("c-api")


def import_seconds(repeats: int) -> float:
    """The shortest processor time of a process that imports TensorFlow."""
    shortest = float("inf")
    for _ in range(repeats):
        before = psutil.Process().cpu_times()
        subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True)
        after = psutil.Process().cpu_times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        shortest = min(shortest, used)
    return shortest


def stages(predictor: Predictor, scan: Path, repeats: int) -> dict[str, float]:
    """The shortest processor time of each stage, and of the whole scan."""
    shortest: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, patch("time.perf_counter", time.process_time):
        for _ in range(repeats):
            start = time.perf_counter()
            seconds = predictor.run(Job(scan, Outputs(Path(folder) / "mask.nii.gz")), overwrite=True)["seconds"]
            for stage, value in {**seconds, "whole scan": time.perf_counter() - start}.items():
                shortest[stage] = min(value, shortest.get(stage, value))
    return shortest


def main() -> None:
    """Runs the measurements and prints a table for each scan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*", type=Path, default=[PHANTOM], metavar="SCAN")
    parser.add_argument("--model", default="selfseg-flair")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    limit_threads()
    found, brain = find(given.model), shipped_brain_network()
    predictor = Predictor(
        found.card, lambda: found.load(_ENGINE), PredictOptions(), load_brain=lambda: brain.load(_ENGINE)
    )
    reference = import_seconds(given.repeats)
    print(f"import tensorflow: {reference:.2f} s of processor time")
    for scan in given.scans:
        print(f"\n{scan.name}\n\n| stage | s | times the import |\n|---|---|---|")
        for stage, value in stages(predictor, scan, given.repeats).items():
            print(f"| {stage} | {value:.2f} | {value / reference:.2f} |")


if __name__ == "__main__":
    main()
