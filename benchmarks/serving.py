"""Time of the model stage of ``brainseg-tf predict`` with a local model and with a server on loopback.

    python benchmarks/serving.py [MODEL ...]

The server is tests/stand_in.py, not TensorFlow Serving. It runs the same SavedModel with TensorFlow in a separate
Python process on the same cores. The table has the shortest time of three runs, its ratio to that of the local model,
and the client's peak memory.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from predict import COMMAND, PHANTOM, run

STAND_IN = Path(__file__).parents[1] / "tests" / "stand_in.py"
REPEATS = 3


def stage(model: str, folder: Path, *server: str) -> tuple[float, float]:
    """Seconds of the model stage, and peak memory of the command in GB."""
    report, mask = folder / "report.json", folder / f"{model}.nii.gz"
    options = ["--model", model, "--out", str(mask), "--report", str(report), "--overwrite", *server]
    usage = run(COMMAND, "predict", str(PHANTOM), *options)
    return json.loads(report.read_text())["seconds"]["model"], usage.peak


def best(model: str, folder: Path, *server: str) -> tuple[float, float]:
    """The shortest time and the largest memory of several runs."""
    seconds, memory = zip(*(stage(model, folder, *server) for _ in range(REPEATS)), strict=True)
    return min(seconds), max(memory)


def main() -> None:
    """Runs the command and prints the table."""
    names = sys.argv[1:] or ["selfseg-flair", "cvae", "dcvae"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in names:
            run(COMMAND, "export", name, "--to", str(folder / "models"))
        command = [sys.executable, STAND_IN, folder / "models", "--port", "0", "--rest-port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            grpc, rest = server.stdout.readline().split(": ", 1)[1].strip().split(", ")
            print(f"{'model':16} {'via':6} {'seconds':>8} {'ratio':>6} {'peak memory':>12}")
            for name in names:
                local, memory = best(name, folder)
                print(f"{name:16} {'local':6} {local:8.2f} {1:6.2f} {memory:9.2f} GB", flush=True)
                for protocol, url in (("gRPC", grpc), ("REST", rest)):
                    seconds, memory = best(name, folder, "--server", url)
                    print(f"{name:16} {protocol:6} {seconds:8.2f} {seconds / local:6.2f} {memory:9.2f} GB", flush=True)
            server.kill()


if __name__ == "__main__":
    main()
