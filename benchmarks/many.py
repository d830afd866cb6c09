"""Time and memory of ``brainseg-tf predict --out-dir`` for hundreds of small scans, killed and continued.

    python benchmarks/many.py [--scans 100 1000]

The scans are copies of the phantom with voxels of 5 mm, and the network is a small one that is trained for it, so that
the time of the batch itself shows. Each row is a run that is killed after a third of its scans and continued with
``--continue``: seconds for each scan in both parts, the start included, the peak memory of the second, and the
numbers of rows in the tables.
"""

import argparse
import csv
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output
from predict import COMMAND, PHANTOM, Usage, run
from scipy import ndimage


def make_model(folder: Path, scan: nib.Nifti1Image) -> Path:
    """Trains a small network on copies of a scan; returns the run folder."""
    brain = np.asarray(scan.dataobj) > 0
    lesion = np.zeros(brain.shape, np.uint8)
    lesion[tuple(slice(n // 2 - 3, n // 2 + 3) for n in brain.shape)] = 1
    for number in range(4):
        patient = folder / "cohort" / f"P{number}"
        patient.mkdir(parents=True)
        nib.save(scan, patient / f"P{number}_flair.nii.gz")
        truth = lesion * ndimage.binary_erosion(brain)
        nib.save(nib.Nifti1Image(truth.astype(np.uint8), scan.affine), patient / f"P{number}_seg.nii.gz")
    out = folder / "model"
    options = ("--model", "cvae", "--epochs", "1", "--size", "48", "--out", str(out))
    run(COMMAND, "fit", str(folder / "cohort"), *options)
    return out


def killed(command: list[str], summary: Path, count: int) -> None:
    """Runs a command until a table has this number of rows, and kills it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and _rows(summary, ",") < count:
        time.sleep(0.5)
    process.kill()
    process.wait()


def measure(model: Path, scans: Path, out: Path, count: int) -> None:
    """Runs a batch in two parts and prints its row."""
    command = [COMMAND, "predict", str(scans), "--out-dir", str(out), "--model", str(model), "--brain", "stripped"]
    started = time.perf_counter()
    killed(command, out / "summary.csv", count // 3)
    first = time.perf_counter() - started
    done = len(list(out.glob("*_mask.nii.gz")))
    rest: Usage = run(*command, "--continue")
    tables = ", ".join(
        str(_rows(out / name, delimiter))
        for name, delimiter in (("summary.csv", ","), ("volumes.tsv", "\t"), ("lesions.tsv", "\t"))
    )
    print(
        f"| {count} | {first / done:.2f} | {rest.seconds / (count - done):.2f} | {rest.peak:.2f} | {tables} |",
        flush=True,
    )


def _rows(table: Path, delimiter: str) -> int:
    if not table.exists():
        return 0
    with table.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.DictReader(file, delimiter=delimiter))


def main() -> None:
    """Makes scans and network, runs the batches and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, nargs="+", default=[100, 1000])
    given = parser.parse_args()
    print(
        "| scans | s per scan, killed run | s per scan, continued run | peak GB | rows of summary, volumes, lesions |"
    )
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = resample_to_output(nib.load(PHANTOM), 5.0, order=1)
        scan = nib.Nifti1Image(np.maximum(np.asarray(scan.dataobj), 0).astype(np.float32), scan.affine)
        nib.save(scan, folder / "scan.nii.gz")
        model = make_model(folder, scan)
        for count in given.scans:
            scans = folder / f"scans{count}"
            scans.mkdir()
            for number in range(count):
                shutil.copy(folder / "scan.nii.gz", scans / f"s{number:05}_FLAIR.nii.gz")
            measure(model, scans, folder / f"out{count}", count)


if __name__ == "__main__":
    main()
