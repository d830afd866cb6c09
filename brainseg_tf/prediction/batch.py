"""Many scans: where their results go, several at a time, what is done already, and a row for each."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, printable, replacing, write_json
from brainseg_tf.images.dicom import is_series
from brainseg_tf.images.formats import stem
from brainseg_tf.images.volume import is_whole
from brainseg_tf.prediction import results_table
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.pages import navigation
from brainseg_tf.prediction.predictor import Predictor
from brainseg_tf.prediction.scan_search import (
    DESCRIPTION,
    NOT_READABLE,
    Search,
    bids_root,
    is_folder,
    search_bids,
    search_folder,
)

MASK, BRAIN = "_mask.nii.gz", "_brain.nii.gz"
SUMMARY = results_table.NAME
_BIDS = "1.10.0"
# The index page is renewed at most this often, in seconds, and so that it takes at most this share of the time.
_INDEX_SECONDS, _INDEX_SHARE = 5.0, 0.05


@dataclass(frozen=True)
class Batch:
    """What is to be done.

    Attributes:
        jobs: one for each scan.
        failed: outcomes of members that cannot be read, broken links for one.
        left_out: members of the folders that are no scans of the model's modality, with the reason.
    """

    jobs: list[Job]
    failed: list[Outcome] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def plan_batch(
    places: Sequence[Path], out: Path, *, index: Path | None = None, strip: bool = False, modality: str = "flair"
) -> Batch:
    """A job for each scan among files, folders and BIDS datasets, with mask, report and figure in ``out``.

    ``NAME.nii.gz`` gives ``NAME_mask.nii.gz``. The FLAIR scans of a BIDS dataset (a folder with
    dataset_description.json), or of a subject's or session's folder in one, give a BIDS derivative. ``out`` is created.

    Args:
        places: files are taken as they are; of a folder's members ``scan_search`` tells which are scans.
        out: the folder for results.
        index: the index page; with one, each scan gets a page and a thumbnail too.
        strip: each scan gets a brain mask too.
        modality: the model's first.

    Raises:
        InputError: there is no scan, two scans would share an output, or ``out`` cannot be created.
    """
    jobs: list[Job] = []
    found = Search()
    datasets = False
    for place in places:
        root = bids_root(place) if is_folder(place) else None
        if is_folder(place) and not os.access(place, os.R_OK | os.X_OK):
            here = Search(failed=[(place, NOT_READABLE)])
        elif root is not None:
            here = search_bids(root, place)
            jobs += [_bids_job(scan, root, out) for scan in here.scans]
            datasets = True
        elif is_folder(place) and not is_series(place):
            here = search_folder(place, modality, out)
            jobs += [_job(scan, out) for scan in here.scans]
        else:
            here = Search([place])
            jobs.append(_job(place, out))
        if not here.scans and not here.failed:
            raise InputError(_nothing_in(place, here, bids=root is not None))
        found.failed += here.failed
        found.left_out += here.left_out
    jobs = [_wanted(job, pages=index is not None, strip=strip) for job in jobs]
    for mask, count in Counter(job.outputs.mask for job in jobs).items():
        if count > 1:
            raise InputError(f"{mask}: would be the mask of two scans; rename one, or predict them apart")
    if datasets:
        _describe(out)
    make_folder(out)
    for folder in {path.parent for job in jobs for path in job.outputs.paths}:
        make_folder(folder)
    results = {path.resolve() for job in jobs for path in job.outputs.paths}
    left_out = [(file, reason) for file, reason in found.left_out if file.resolve() not in results]
    failed = [Outcome(_job(file, out), error=f"{file}: {reason}") for file, reason in found.failed]
    if index is not None:
        around = navigation([job.outputs.page for job in jobs if job.outputs.page], index)
        jobs = [replace(job, navigation=place) for job, place in zip(jobs, around, strict=True)]
    return Batch(jobs, failed, left_out)


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
    """Runs one job, or keeps what is there of it already, unless another version, model or options made that.

    Whatever goes wrong with one scan is its outcome: the other scans are done.
    """
    try:
        report = _finished(job) if proceed else None
        if report is not None:
            if not predictor.matches_report(report):
                raise InputError(
                    f"{job.outputs.mask}: was made by another version or model or with other options; give --overwrite "
                    "to do all scans again, or another --out-dir"
                )
            return Outcome(job, report, kept=True)
        return Outcome(job, predictor.run(job, overwrite=proceed))
    except InputError as error:
        return Outcome(job, error=str(error))
    except MemoryError:
        return Outcome(job, error=f"{job.scan}: there is too little memory; lower --workers, or give this process more")
    except Exception as error:
        # A reader or a library met what nobody has foreseen; in a batch that must not cost the other scans.
        said = printable(" ".join(str(error).split()))[:300]
        return Outcome(
            job,
            error=f"{job.scan}: failed unexpectedly ({type(error).__name__}: {said}); predict it by itself with "
            "brainseg-tf --debug, and report it",
        )


class Progress:
    """Keeps the table and the index of a folder of results up to date, and tells how far a batch has come.

    Args:
        out: the folder.
        batch: what is to be done.
        index: the page, None if none is wanted.
    """

    def __init__(self, out: Path, batch: Batch, index: Path | None) -> None:
        self._table, self._index = out / SUMMARY, index
        self._total = len(batch.jobs) + len(batch.failed)
        self._outcomes: list[Outcome] = []
        self._start = time.perf_counter()
        self._worked = 0
        self._index_at, self._index_took = -_INDEX_SECONDS, 0.0
        left_out = [results_table.row(file, "left out", error=reason) for file, reason in batch.left_out]
        if left_out:
            results_table.renew(self._table, left_out)
        # So that the link from the first scan's page leads to it.
        self.write_index()

    @property
    def outcomes(self) -> list[Outcome]:
        """Of this run, so far."""
        return self._outcomes

    def add(self, outcome: Outcome) -> None:
        """Takes an outcome into the table, and into the index if that was not renewed a moment ago."""
        self._outcomes.append(outcome)
        self._worked += not outcome.kept
        results_table.renew(self._table, [outcome.row])
        since = time.perf_counter() - self._index_at
        if since >= max(_INDEX_SECONDS, self._index_took / _INDEX_SHARE):
            self.write_index()

    def write_index(self) -> None:
        """Writes the index page, if one is wanted: of this run's scans, and of those that other runs did."""
        if self._index is None:
            return
        from brainseg_tf.prediction.pages.index import write_index

        self._index_at = time.perf_counter()
        mine = {outcome.row["scan"] for outcome in self._outcomes}
        others = [_outcome_of(row) for row in results_table.read(self._table) if row["scan"] not in mine]
        known = [outcome for outcome in others if outcome is not None]
        write_index(self._index, [*self._outcomes, *known], total=self._total + len(known))
        self._index_took = time.perf_counter() - self._index_at

    def __str__(self) -> str:
        """For instance ``3/14``."""
        return f"{len(self._outcomes)}/{self._total}"

    @property
    def time_left(self) -> str:
        """For instance ``about 2 min left``; nothing before the first scan is done and after the last."""
        left = self._total - len(self._outcomes)
        if not left or not self._worked:
            return ""
        seconds = (time.perf_counter() - self._start) / self._worked * left
        minutes = round(seconds / 60)
        return f"about {minutes} min left" if minutes > 1 else f"about {max(1, round(seconds))} s left"


def _outcome_of(row: results_table.Row) -> Outcome | None:
    """The outcome that another run left in the table; None for what is no scan, or whose report is gone."""
    scan, file = Path(row["scan"]), Path(row["report"])
    if row["status"] == "failed":
        return Outcome(Job(scan, Outputs(Path(row["mask"]))), error=row["error"])
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        places: dict[str, Any] = {name: Path(path) for name, path in report["outputs"].items()}
        return Outcome(Job(scan, Outputs(**places)), report, kept=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _nothing_in(place: Path, found: Search, *, bids: bool) -> str:
    """Why a place has no scan."""
    if found.left_out:
        file, reason = found.left_out[0]
        others = f" ({len(found.left_out) - 1} others are left out too)" if len(found.left_out) > 1 else ""
        return f"{place}: no scan in it; {file.name} {reason}{others}"
    if bids:
        return f"{place}: no sub-*/anat/*_FLAIR.nii.gz in this BIDS dataset; name a folder of scans"
    return f"{place}: no scan (.nii, .nii.gz, .mgz, ...) in it; name a folder of scans"


def check_index(path: Path, *, overwrite: bool) -> None:
    """Refuses to lose the index of an earlier run.

    Raises:
        InputError: there is one, and ``overwrite`` is not set.
    """
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: an earlier run wrote it; give --continue to keep what that run finished, --overwrite to do it "
            "all again, or another name"
        )


def _job(scan: Path, out: Path) -> Job:
    name = stem(scan)
    outputs = Outputs(
        out / f"{name}{MASK}",
        figure=out / f"{name}_figure.png",
        page=out / f"{name}.html",
        thumbnail=out / f"{name}_thumbnail.png",
        brain_mask=out / f"{name}{BRAIN}",
        dicom=out / f"{name}_mask.dcm" if is_folder(scan) else None,
        report=out / f"{name}_report.json",
    )
    return Job(scan, outputs, dicom_required=False)


def _wanted(job: Job, *, pages: bool, strip: bool) -> Job:
    """The job without the outputs that nobody asked for."""
    outputs = job.outputs if pages else replace(job.outputs, page=None, thumbnail=None)
    return replace(job, outputs=outputs if strip else replace(outputs, brain_mask=None))


def _bids_job(scan: Path, dataset: Path, out: Path) -> Job:
    """The job of ``sub-X/[ses-Y/]anat/*_FLAIR.nii[.gz]``, with outputs named as BIDS names derived masks."""
    entities = stem(scan).removesuffix("_FLAIR")
    place = out / scan.parent.relative_to(dataset)
    figures = out / scan.relative_to(dataset).parts[0] / "figures"
    outputs = Outputs(
        place / f"{entities}_label-lesion{MASK}",
        figure=figures / f"{entities}_label-lesion_mask.png",
        page=out / f"{entities}_label-lesion_mask.html",
        thumbnail=figures / f"{entities}_label-lesion_thumbnail.png",
        brain_mask=place / f"{entities}_desc-brain_mask.nii.gz",
        report=place / f"{entities}_label-lesion_mask.json",
    )
    return Job(scan, outputs)


def _describe(out: Path) -> None:
    """Makes a folder a BIDS derivative; one of somebody else's making is left alone."""
    file = out / DESCRIPTION
    if file.exists():
        if '"brainseg-tf"' not in file.read_text(encoding="utf-8", errors="replace"):
            raise InputError(f"{file}: is another dataset's; choose another --out-dir")
        return
    make_folder(out)
    # What BIDS has no names for; its validator passes over it.
    with replacing(out / ".bidsignore") as beside:
        beside.write_text(f"{SUMMARY}\n.{SUMMARY}.lock\n*.html\nsub-*/figures\n", encoding="utf-8")
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
    wanted = [path for name, path in job.outputs.named.items() if name != "dicom" or job.dicom_required]
    file = job.outputs.report
    if file is None or not all(path.is_file() for path in wanted) or not is_whole(job.outputs.mask):
        return None
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None
