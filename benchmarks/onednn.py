"""Speed of TensorFlow with and without oneDNN on this CPU, for predictions and training steps.

    python benchmarks/onednn.py [MODEL ...]

By default TensorFlow uses oneDNN only on CPUs with AVX-512; ``brainseg-tf`` uses it on all CPUs that it supports. Each
setting runs three times, in turn and in separate processes. The table has the shortest times.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

MODELS = ("selfseg-flair", "cvae", "dcvae", "dae")
SLICES, REPEATS = 64, 3

# Prints the seconds of a prediction of a stack of slices with a shipped model, and of a training step of a batch of 16
# slices with a new network of the same architecture.
MEASURE = """
import json, sys, time
import numpy as np
import tensorflow as tf
from brainseg_tf.corruption import CorruptionTask
from brainseg_tf.models import create
from brainseg_tf.options import SliceOptions
from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.saved_model import find

def shortest(work):
    work()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)

name, slices = sys.argv[1], int(sys.argv[2])
found = find(f"shipped:{name}")
size, channels = found.card.slices.size, len(found.card.modalities)
images = np.random.default_rng(0).random((slices, size, size, channels), np.float32)
model = found.load()
options = ARCHITECTURES[found.card.architecture].recipe
network = create(found.card.architecture, channels)
network.compile(optimizer="adam", corruption=CorruptionTask(options.corruption), objective=options.objective)
network.optimizer.build(network.trainable_variables)
step = tf.function(network.training_losses)
batch = (tf.constant(images[:16]), tf.constant([1, 2]))
print(json.dumps([shortest(lambda: model.reconstruct(images)), shortest(lambda: step(batch))]))
"""


def measure(name: str, onednn: str) -> list[float]:
    """Seconds of a prediction and of a training step with the setting 0 or 1 of oneDNN."""
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", MEASURE, name, str(SLICES)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def cpu() -> str:
    """Name of the CPU, its vector extensions and number of cores, as far as the system provides them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    found = {line.split(":")[0].strip(): line.split(":", 1)[-1].strip() for line in lines if ":" in line}
    flags = found.get("flags", "")
    kind = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{found.get('model name', platform.processor())}, {kind}, {os.cpu_count()} cores"


def main() -> None:
    """Runs the measurements and prints the table."""
    print(cpu())
    print(f"{'model':16} {'stage':8} {'off, s':>8} {'on, s':>8} {'off / on':>8}")
    for name in sys.argv[1:] or MODELS:
        runs: dict[str, list[list[float]]] = {"0": [], "1": []}
        for _ in range(REPEATS):
            for onednn, results in runs.items():
                results.append(measure(name, onednn))
        shortest = [[min(column) for column in zip(*results, strict=True)] for results in runs.values()]
        for stage, off, on in zip(("predict", "train"), *shortest, strict=True):
            print(f"{name:16} {stage:8} {off:8.3f} {on:8.3f} {off / on:8.2f}")


if __name__ == "__main__":
    main()
