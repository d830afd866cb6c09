"""Throughput of ``brainseg-tf predict`` for many scans, with one and with two scans at a time.

    python benchmarks/batch.py [MODEL] [--scans 14] [--workers 1 2]

The scans are copies of the phantom (240 x 240 x 155). "one more scan" is the time per scan without the start of the
command: the difference between the times for all scans and for two scans, divided by the difference of their numbers.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from predict import COMMAND, PHANTOM, run

FEW = 2


def main() -> None:
    """Runs the command and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="selfseg-flair")
    parser.add_argument("--scans", type=int, default=14)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    print(f"{given.model}\n\n| at a time | {FEW} scans, s | {given.scans}, s | one more scan, s | speed-up | peak GB |")
    print("|---|---|---|---|---|---|")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        scans = [Path(folder) / f"s{number}_FLAIR.nii.gz" for number in range(given.scans)]
        for scan in scans:
            shutil.copy(PHANTOM, scan)
        for workers in given.workers:
            seconds, memory = [], 0.0
            for count in (FEW, given.scans):
                out = Path(folder) / f"out-{workers}-{count}"
                options = ("--model", given.model, "--out-dir", str(out), "--workers", str(workers))
                usage = run(COMMAND, "predict", *map(str, scans[:count]), *options)
                seconds.append(usage.seconds)
                memory = max(memory, usage.peak)
            per_scan = (seconds[1] - seconds[0]) / (given.scans - FEW)
            first = first or per_scan
            print(
                f"| {workers} | {seconds[0]:.1f} | {seconds[1]:.1f} | {per_scan:.2f} | {first / per_scan:.2f} "
                f"| {memory:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
