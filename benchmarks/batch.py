"""Scans per minute of one command: one scan after another, and two at a time.

    python benchmarks/batch.py [MODEL] [--scans 14] [--workers 1 2]

Copies of the phantom (240 x 240 x 155). "a scan" is what one more scan costs once the command runs: the seconds of all
scans less those of two, by the scans between.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from predict import COMMAND, PHANTOM, run

FEW = 2


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="selfseg-flair")
    parser.add_argument("--scans", type=int, default=14)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    print(f"{given.model}\n\n| at a time | {FEW} scans, s | {given.scans}, s | a scan, s | times as fast | peak GB |")
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
                spent, peak, _ = run(COMMAND, "predict", *map(str, scans[:count]), *options)
                seconds.append(spent)
                memory = max(memory, peak)
            each = (seconds[1] - seconds[0]) / (given.scans - FEW)
            first = first or each
            print(
                f"| {workers} | {seconds[0]:.1f} | {seconds[1]:.1f} | {each:.2f} | {first / each:.2f} | {memory:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
