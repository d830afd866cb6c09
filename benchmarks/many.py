"""Time and memory of ``brainseg-tf predict --out-dir`` for hundreds of small scans, killed and continued.

    python benchmarks/many.py [--scans 100 1000] [--dask]

The scans are copies of the phantom with voxels of 5 mm, and the network is a small one that is trained for it, so that
the time of the batch itself shows. Each row is a run that is killed after a third of its scans and continued with
``--continue``: seconds for each scan in both parts, the start included, the peak memory of the second, and the
numbers of rows in the tables. With ``--dask`` the scans are processed by one Dask worker with two threads, which lives
on when the command is killed; a last column has the worker's peak memory after each part.
"""

import argparse
import contextlib
import csv
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output
from predict import COMMAND, PHANTOM, Usage, run
from scipy import ndimage

if TYPE_CHECKING:
    from distributed import LocalCluster


def coarse_phantom() -> nib.Nifti1Image:
    """The phantom with voxels of 5 mm."""
    scan = resample_to_output(nib.load(PHANTOM), 5.0, order=1)
    return nib.Nifti1Image(np.maximum(np.asarray(scan.dataobj), 0).astype(np.float32), scan.affine)


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


@contextlib.contextmanager
def dask_cluster() -> Iterator["LocalCluster"]:
    """A Dask cluster with one worker process that has two threads."""
    import dask
    from distributed import LocalCluster

    # The profiler of a worker keeps a record of each second, for up to an hour.
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
    ):
        yield cluster


def peak_of_worker(cluster: "LocalCluster") -> float:
    """The highest resident memory of the worker until now, in GB."""
    from distributed import Client

    with Client(cluster) as client:
        return max(client.run(_peak).values())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(model: Path, scans: Path, out: Path, count: int, cluster: "LocalCluster | None") -> None:
    """Runs a batch in two parts and prints its row."""
    command = [COMMAND, "predict", str(scans), "--out-dir", str(out), "--model", str(model), "--brain", "stripped"]
    if cluster is not None:
        command += ["--scheduler", cluster.scheduler_address]
    started = time.perf_counter()
    killed(command, out / "summary.csv", count // 3)
    first = time.perf_counter() - started
    done = len(list(out.glob("*_mask.nii.gz")))
    peaks = [] if cluster is None else [peak_of_worker(cluster)]
    rest: Usage = run(*command, "--continue")
    peaks += [] if cluster is None else [peak_of_worker(cluster)]
    tables = ", ".join(
        str(_rows(out / name, delimiter))
        for name, delimiter in (("summary.csv", ","), ("volumes.tsv", "\t"), ("lesions.tsv", "\t"))
    )
    cells = [str(count), f"{first / done:.2f}", f"{rest.seconds / (count - done):.2f}", f"{rest.peak:.2f}", tables]
    if cluster is not None:
        cells.append(", ".join(f"{peak:.2f}" for peak in peaks))
    print(f"| {' | '.join(cells)} |", flush=True)


def _rows(table: Path, delimiter: str) -> int:
    if not table.exists():
        return 0
    with table.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.DictReader(file, delimiter=delimiter))


def main() -> None:
    """Makes scans and network, runs the batches and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--dask", action="store_true")
    given = parser.parse_args()
    columns = ["scans", "s per scan, killed run", "s per scan, continued run", "peak GB"]
    columns.append("rows of summary, volumes, lesions")
    if given.dask:
        columns.append("peak GB of the worker after each part")
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = coarse_phantom()
        nib.save(scan, folder / "scan.nii.gz")
        model = make_model(folder, scan)
        for count in given.scans:
            scans = folder / f"scans{count}"
            scans.mkdir()
            for number in range(count):
                shutil.copy(folder / "scan.nii.gz", scans / f"s{number:05}_FLAIR.nii.gz")
            with dask_cluster() if given.dask else contextlib.nullcontext() as cluster:
                measure(model, scans, folder / f"out{count}", count, cluster)


if __name__ == "__main__":
    main()
