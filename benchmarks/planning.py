"""Time and memory of what grows with the number of scans in one ``--out-dir``, without reading a scan or any network.

    python benchmarks/planning.py [--scans 1000 10000 100000]

The scans are empty files, which nothing opens here, and their reports are copies of that of one real prediction. Each
row has the seconds for planning the jobs, for the rows and the index page of all outcomes, and for the tables at the
end; the peak memory; and the size of summary.csv and of the index page. Rows and pages are written again after each
scan at most, and so often that they take 5 % of a batch's time; here no time passes between two scans.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import nibabel as nib
from many import coarse_phantom, make_model
from predict import COMMAND, run

from brainseg_tf.prediction.batch import SUMMARY, plan_batch
from brainseg_tf.prediction.jobs import Outcome
from brainseg_tf.prediction.progress import Progress

_INDEX = "index.html"


def report_of_one_scan(folder: Path) -> Path:
    """Segments a coarse copy of the phantom; returns the report."""
    scan = coarse_phantom()
    nib.save(scan, folder / "scan.nii.gz")
    model = make_model(folder, scan)
    report = folder / "report.json"
    run(COMMAND, "predict", str(folder / "scan.nii.gz"), "--model", str(model), "--brain", "stripped",
        "--out", str(folder / "mask.nii.gz"), "--report", str(report))  # fmt: skip
    return report


def measure(folder: Path, report: Path, count: int) -> None:
    """Plans a batch, adds an outcome for each scan, and prints the row."""
    scans, out = folder / f"scans{count}", folder / f"out{count}"
    scans.mkdir()
    for number in range(count):
        (scans / f"s{number:07}_FLAIR.nii.gz").touch()
    began = time.perf_counter()
    batch = plan_batch([scans], out, index=out / _INDEX, brain_masks=True)
    planned = time.perf_counter()
    content = json.loads(report.read_text(encoding="utf-8"))
    for job in batch.jobs:
        named = {name: str(path) for name, path in job.outputs.named.items()}
        job.outputs.report.write_text(json.dumps(content | {"outputs": named}), encoding="utf-8")
    started = time.perf_counter()
    progress = Progress(out, batch, out / _INDEX)
    for job in batch.jobs:
        progress.add(Outcome(job, content))
    added = time.perf_counter()
    progress.finish()
    finished = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    sizes = [(out / name).stat().st_size / 1e6 for name in (SUMMARY, _INDEX)]
    print(
        f"| {count:,} | {planned - began:.1f} | {added - started:.1f} | {finished - added:.1f} | {peak:.2f} "
        f"| {sizes[0]:.1f} | {sizes[1]:.1f} |",
        flush=True,
    )


def main() -> None:
    """Measures each number of scans in a process of its own, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, nargs="+", default=[1000, 10_000, 100_000])
    given = parser.parse_args()
    print("| scans | plan, s | rows and pages, s | tables at the end, s | peak GB | summary.csv, MB | index page, MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        report = report_of_one_scan(Path(name))
        for count in given.scans:
            process = multiprocessing.get_context("fork").Process(target=measure, args=(Path(name), report, count))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{count} scans: exit code {process.exitcode}")


if __name__ == "__main__":
    main()
