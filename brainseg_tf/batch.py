"""Many scans: where their results go, several at a time, what is done already, and a line for each."""

import csv
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brainseg_tf import __version__
from brainseg_tf.dicom import is_series
from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing, write_json
from brainseg_tf.formats import SCANS, stem
from brainseg_tf.prediction import Job, Predictor
from brainseg_tf.volume import is_whole

MASK, BRAIN = "_mask.nii.gz", "_brain.nii.gz"
SUMMARY = "summary.csv"
_DESCRIPTION = "dataset_description.json"
_BIDS = "1.10.0"


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the scan and its outputs.
        report: what ``Predictor.run`` gave, or an earlier run left; None after a failure.
        error: one line, None unless it failed.
        kept: whether an earlier run had done it.
    """

    job: Job
    report: dict[str, Any] | None = None
    error: str | None = None
    kept: bool = False


def jobs_in(places: Sequence[Path], out: Path, *, pages: bool = False, strip: bool = False) -> list[Job]:
    """A job for each scan among files, folders and BIDS datasets, with mask, report and figure in ``out``.

    ``NAME.nii.gz`` gives ``NAME_mask.nii.gz``. The FLAIR scans of a BIDS dataset (a folder with
    dataset_description.json) give a BIDS derivative. ``out`` is created. With ``pages`` each scan gets a page and a
    thumbnail too, with ``strip`` a brain mask.

    Raises:
        InputError: there is no scan, two scans would share an output, or ``out`` cannot be created.
    """
    jobs: list[Job] = []
    for place in places:
        if (place / _DESCRIPTION).is_file():
            found = _bids_jobs(place, out)
        elif place.is_dir() and not is_series(place):
            found = [_job(file, out) for file in sorted(place.iterdir()) if _is_scan(file)]
        else:
            found = [_job(place, out)]
        if not found:
            raise InputError(f"{place}: no scan (.nii, .nii.gz, .mgz, ...) in it; name a folder of scans")
        jobs += found
    jobs = [_wanted(job, pages=pages, strip=strip) for job in jobs]
    masks = [job.mask for job in jobs]
    for mask in masks:
        if masks.count(mask) > 1:
            raise InputError(f"{mask}: would be the mask of two scans; rename one, or predict them apart")
    if any((place / _DESCRIPTION).is_file() for place in places):
        _describe(out)
    make_folder(out)
    for folder in {path.parent for job in jobs for path in job.outputs}:
        make_folder(folder)
    return jobs


def run_all(predictor: Predictor, jobs: Sequence[Job], *, workers: int = 2, proceed: bool = False) -> Iterator[Outcome]:
    """Runs jobs, ``workers`` at a time: while the network works on one scan, another is read, cleaned or written.

    Args:
        predictor: runs one.
        jobs: in the order that the outcomes come in.
        workers: scans under way at once.
        proceed: keep what an earlier run has finished and what is whole, and replace what is not. What another version
            or model or other options made is refused.

    Yields:
        An outcome for each job. If the caller stops early, the scans under way are finished and no other is begun.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = [pool.submit(attempt, predictor, job, proceed=proceed) for job in jobs]
        for future in waiting:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def attempt(predictor: Predictor, job: Job, *, proceed: bool) -> Outcome:
    """Runs one job, or keeps what is there of it already, unless another version, model or options made that."""
    try:
        report = _finished(job) if proceed else None
        if report is not None:
            if not predictor.made(report):
                raise InputError(
                    f"{job.mask}: was made by another version or model or with other options; give --overwrite to do "
                    "all scans again, or another --out-dir"
                )
            return Outcome(job, report, kept=True)
        return Outcome(job, predictor.run(job, overwrite=proceed))
    except InputError as error:
        return Outcome(job, error=str(error))


def check_summary(path: Path, *, overwrite: bool) -> None:
    """Refuses to lose the summary, or the index, of an earlier run.

    Raises:
        InputError: there is one, and ``overwrite`` is not set.
    """
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: an earlier run wrote it; give --continue to keep what that run finished, --overwrite to do it "
            "all again, or another --out-dir"
        )


def write_summary(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes a CSV with a line for each outcome, failures included."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["scan", "status", "lesion_ml", "lesions", "seconds", "warnings", "mask", "error"])
        for outcome in outcomes:
            report, job = outcome.report, outcome.job
            if report is None:
                writer.writerow([job.scan, "failed", "", "", "", "", "", outcome.error])
                continue
            numbers = (report["lesion_ml"], report["components"], round(sum(report["seconds"].values()), 2))
            status = "kept" if outcome.kept else "done"
            writer.writerow([job.scan, status, *numbers, len(report["warnings"]), job.mask, ""])


def _job(scan: Path, out: Path) -> Job:
    name = stem(scan)
    return Job(
        scan,
        out / f"{name}{MASK}",
        figure=out / f"{name}_figure.png",
        page=out / f"{name}.html",
        thumbnail=out / f"{name}_thumbnail.png",
        stripped=out / f"{name}{BRAIN}",
        dicom=out / f"{name}_mask.dcm" if scan.is_dir() else None,
        report=out / f"{name}_report.json",
    )


def _wanted(job: Job, *, pages: bool, strip: bool) -> Job:
    """The job without the outputs that nobody asked for."""
    job = job if pages else replace(job, page=None, thumbnail=None)
    return job if strip else replace(job, stripped=None)


def _bids_jobs(dataset: Path, out: Path) -> list[Job]:
    """Jobs of ``sub-X/[ses-Y/]anat/*_FLAIR.nii[.gz]``, named as BIDS names derived masks."""
    jobs = []
    for scan in sorted(file for place in ("sub-*/anat", "sub-*/ses-*/anat") for file in dataset.glob(f"{place}/*")):
        if not (_is_scan(scan) and stem(scan).endswith("_FLAIR")):
            continue
        entities = stem(scan).removesuffix("_FLAIR")
        place = out / scan.parent.relative_to(dataset)
        figures = out / scan.relative_to(dataset).parts[0] / "figures"
        jobs.append(
            Job(
                scan,
                place / f"{entities}_label-lesion{MASK}",
                figure=figures / f"{entities}_label-lesion_mask.png",
                page=out / f"{entities}_label-lesion_mask.html",
                thumbnail=figures / f"{entities}_label-lesion_thumbnail.png",
                stripped=place / f"{entities}_desc-brain_mask.nii.gz",
                report=place / f"{entities}_label-lesion_mask.json",
            )
        )
    if not jobs:
        raise InputError(f"{dataset}: no sub-*/anat/*_FLAIR.nii.gz in this BIDS dataset; name a folder of scans")
    return jobs


def _describe(out: Path) -> None:
    """Makes a folder a BIDS derivative; one of somebody else's making is left alone."""
    file = out / _DESCRIPTION
    if file.exists():
        if '"brainseg-tf"' not in file.read_text(encoding="utf-8"):
            raise InputError(f"{file}: is another dataset's; choose another --out-dir")
        return
    make_folder(out)
    # What BIDS has no names for; its validator passes over it.
    with replacing(out / ".bidsignore") as beside:
        beside.write_text(f"{SUMMARY}\n*.html\nsub-*/figures\n", encoding="utf-8")
    write_json(
        file,
        {
            "Name": "Lesion masks by brainseg-tf",
            "BIDSVersion": _BIDS,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "brainseg-tf", "Version": __version__}],
        },
    )


def _finished(job: Job) -> dict[str, Any] | None:
    """The report that an earlier run left, if all is there and the mask is whole, else None."""
    if job.report is None or not all(path.is_file() for path in job.outputs) or not is_whole(job.mask):
        return None
    try:
        return json.loads(job.report.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _is_scan(file: Path) -> bool:
    if file.is_dir():
        return is_series(file)
    return (
        file.is_file()
        and file.name.lower().endswith(SCANS)
        and not file.name.startswith(".")
        and not file.name.endswith((MASK, BRAIN))
    )
