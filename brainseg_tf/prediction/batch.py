"""Plans the segmentation of many scans: a job with its output files for each."""

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.files import folded, is_folder, make_folder, replacing, write_json
from brainseg_tf.images.dicom import is_series
from brainseg_tf.images.formats import stem
from brainseg_tf.images.modality_names import bids_suffix, subject_and_session, without_modality
from brainseg_tf.images.scan_search import (
    ANATOMICAL,
    DESCRIPTION,
    NOT_READABLE,
    Search,
    bids_root,
    search_bids,
    search_folder,
)
from brainseg_tf.prediction import cohort_tables, results_table
from brainseg_tf.prediction.companions import Companions
from brainseg_tf.prediction.earlier import has_result
from brainseg_tf.prediction.jobs import RAW, Job, Outcome, Outputs
from brainseg_tf.prediction.pages import navigation
from brainseg_tf.prediction.viewer_tables import SUFFIXES
from brainseg_tf.training.layouts import TABLES, search

MASK, BRAIN = "_mask.nii.gz", "_brain.nii.gz"
SUMMARY, BRAIN_TABLE = results_table.NAME, "brain.csv"
_BIDS_VERSION = "1.10.0"
# Which scans of a table are used if no modality is asked for.
_ANY_MODALITY = "flair"


@dataclass(frozen=True)
class Batch:
    """The jobs of a batch.

    Attributes:
        jobs: one for each scan.
        failed: outcomes of files and folders that cannot be read, for instance broken links.
        left_out: files and folders that are not scans of the model's modality, with the reason.
    """

    jobs: list[Job]
    failed: list[Outcome] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def plan_batch(
    places: Sequence[Path],
    out: Path,
    *,
    index: Path | None = None,
    brain_masks: bool = False,
    modality: str | None = "flair",
    companions: Companions | None = None,
    overwrite: bool = False,
) -> Batch:
    """Finds scans and plans a job for each of them, with mask, report and figure in ``out``.

    The mask of ``NAME.nii.gz`` is ``NAME_mask.nii.gz``. For a BIDS dataset (a folder with dataset_description.json), or
    the folder of a subject or session in one, the scans of the modality are segmented and ``out`` becomes a BIDS
    derivative.
    ``out`` is created.

    Args:
        places: files, folders, BIDS datasets and tables of scans (``training.layouts``). All files are segmented;
            folders are searched for scans, see ``brainseg_tf.images.scan_search``.
        out: the folder for results.
        index: the index page; if given, each scan gets a page and a thumbnail too.
        brain_masks: whether the brain mask of each scan is written too.
        companions: what belongs to each scan; nothing if None.
        overwrite: whether earlier results are replaced; otherwise those of a scan that fails stay in the tables.
        modality: the model's first modality. None for scans of any modality, and for their brain masks only, which are
            ``Outputs.mask`` then.

    Raises:
        InputError: there is no scan, an output has the name of another one or of a file that is read, or ``out`` cannot
            be created.
    """
    jobs: list[tuple[int, Job]] = []
    failures: dict[Path, Outcome] = {}
    left_out: list[tuple[Path, str]] = []
    empty: list[tuple[Path, str]] = []
    companions = companions or Companions()
    datasets = {root.resolve() for place in places if is_folder(place) and (root := bids_root(place)) is not None}
    linked = _is_linked(out, datasets)

    def fail(job: Job, file: Path, reason: object) -> None:
        failed = Outcome(job, error=f"{file}: {reason}", refused=not overwrite and has_result(job))
        failures.setdefault(file.absolute(), failed)

    for number, place in enumerate(places):
        root = bids_root(place) if is_folder(place) else None
        job_of = partial(_job, out=out)
        if root is not None:
            job_of = partial(_bids_job, dataset=root, out=out, linked=linked, several=modality is None)
        if place.suffix.lower() in TABLES and not is_folder(place):
            found, in_place = _from_table(place, [modality or _ANY_MODALITY, *companions.needed], out)
        else:
            found = _search(place, root, modality, out)
            in_place = [job_of(scan) for scan in found.scans]
        for job in in_place:
            try:
                jobs.append((number, companions.add_to(job, bids=root is not None)))
            except InputError as error:
                fail(job, job.scan, error)
        for file, reason in found.failed:
            # A folder in a BIDS dataset has no job of its own.
            fail(_job(file, out) if is_folder(file) else job_of(file), file, reason)
        if not found.scans and not found.failed:
            empty.append((place, _no_scan_message(place, found, modality, bids=root is not None)))
        left_out += found.left_out
    # Of several subjects, one without a scan does not stop the others.
    if empty and not (jobs or failures):
        raise InputError(empty[0][1])
    left_out += [(place, message.removeprefix(f"{place}: ")) for place, message in empty]
    # Few folders have many files, and resolving a path is slow.
    resolved = cache(Path.resolve)

    def place_of(path: Path) -> tuple[Path, str]:
        return resolved(path.parent), path.name

    wanted = _once(jobs, place_of)
    if modality is None:
        wanted = [replace(job, outputs=Outputs(job.outputs.brain_mask or job.outputs.mask)) for job in wanted]
    else:
        wanted = [_without_unwanted(job, pages=index is not None, brain_masks=brain_masks) for job in wanted]
    _check_names(
        wanted, [out / SUMMARY, *(out / name for name in cohort_tables.NAMES), *([index] if index else [])], place_of
    )
    if datasets:
        _write_description(out, datasets)
    make_folder(out)
    for folder in {path.parent for job in wanted for path in job.outputs.paths}:
        make_folder(folder)
    known = {place_of(path) for job in wanted for path in (*job.outputs.paths, *job.inputs)}
    left_out = [one for one in left_out if place_of(one[0]) not in known]
    if index is not None:
        links = navigation([job.outputs.page for job in wanted if job.outputs.page], index)
        wanted = [replace(job, navigation=one) for job, one in zip(wanted, links, strict=True)]
    return Batch(wanted, list(failures.values()), left_out)


def _search(place: Path, root: Path | None, modality: str | None, out: Path) -> Search:
    """The scans in a folder or a BIDS dataset with this root; a file or a series is a scan itself."""
    if is_folder(place) and not os.access(place, os.R_OK | os.X_OK):
        return Search(failed=[(place, NOT_READABLE)])
    if root is not None:
        return search_bids(root, place, modality)
    if is_folder(place) and not is_series(place):
        return search_folder(place, modality, out)
    return Search([place])


def _once(jobs: Sequence[tuple[int, Job]], place_of: Callable[[Path], tuple[Path, str]]) -> list[Job]:
    """The jobs without those that an earlier place has too: a scan can be named, and be in a folder that is named.

    Args:
        jobs: with the number of the place in which each was found.
        place_of: the resolved folder and the name of a file.
    """
    first: dict[tuple[tuple[Path, str], ...], int] = {}
    return [job for place, job in jobs if first.setdefault(tuple(map(place_of, job.inputs)), place) == place]


def _check_names(jobs: Sequence[Job], tables: Sequence[Path], place_of: Callable[[Path], tuple[Path, str]]) -> None:
    """Checks that no output of a batch has the name of another one or of a file that is read, see ``files.folded``.

    Args:
        jobs: of the batch.
        tables: the outputs of the batch as a whole.
        place_of: the resolved folder and the name of a file.

    Raises:
        InputError: names the file.
    """

    def folded_place(path: Path) -> tuple[Path, str]:
        folder, name = place_of(path)
        return folder, folded(name)

    masks = {job.outputs.mask for job in jobs}
    read = {folded_place(path) for job in jobs for path in job.inputs}
    of_batch = {folded_place(path) for path in tables}
    written: set[tuple[Path, str]] = set()
    for path in chain(tables, *((*job.outputs.paths, *job.sidecars) for job in jobs)):
        place = folded_place(path)
        if place in read:
            raise InputError(f"{path}: is read, but an output has the same name; choose another --out-dir")
        if place in written and place in of_batch:
            raise InputError(f"{path}: is named twice; rename the scan, or give another name with --html")
        if place in written:
            what = "mask" if path in masks else "output"
            raise InputError(f"{path}: is the {what} of two scans; rename one of them, or segment them separately")
        written.add(place)


def _no_scan_message(place: Path, found: Search, modality: str | None, *, bids: bool) -> str:
    """The error message for a folder without a scan."""
    if found.left_out:
        file, reason = found.left_out[0]
        others = f" ({len(found.left_out) - 1} more were left out)" if len(found.left_out) > 1 else ""
        return f"{place}: contains no scan; {file.name}: {reason}{others}"
    if bids:
        suffixes = " or ".join(f"*_{bids_suffix(one)}.nii.gz" for one in ([modality] if modality else ANATOMICAL))
        return f"{place}: no sub-*/anat/{suffixes} in this BIDS dataset; give the files themselves"
    return f"{place}: contains no scan (.nii, .nii.gz, .mgz, ...); give a folder of scans"


def check_index(path: Path, *, overwrite: bool) -> None:
    """Checks that the index page of an earlier run is not overwritten by mistake.

    Raises:
        InputError: the file exists, and ``overwrite`` is not set.
    """
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: was written by an earlier run; give --continue to keep its results, --overwrite to segment all "
            "scans again, or another name"
        )


def _from_table(table: Path, modalities: Sequence[str], out: Path) -> tuple[Search, list[Job]]:
    """The scans in a table, and their jobs with what the table names.

    A file that does not exist is an input too, so that its scan is a failed row in ``summary.csv``.
    """
    found, jobs = Search(), []
    in_table = search(table, modalities, with_missing=True)
    # What is left out is named by its line of the table, because a scan has one row in ``summary.csv``.
    problems = (problem.partition(": left out, ") for problem in in_table.problems)
    found.left_out = [(Path(place), reason) for place, _, reason in problems]
    for one in in_table.candidates:
        scan = one.scans.get(modalities[0])
        if scan is None:
            found.left_out.append((one.place, f"has no {modalities[0]} for {one.name}"))
            continue
        found.scans.append(scan)
        further = {name: path for name, path in one.scans.items() if name != modalities[0]}
        job = replace(_job(scan, out, one.name), subject=one.subject, session=one.session)
        jobs.append(replace(job, modalities=further, brain=one.brain, truth=one.truth))
    return found, jobs


def _job(scan: Path, out: Path, name: str | None = None) -> Job:
    """The job of a scan, with all possible outputs, whose names begin with ``name`` or the name of the scan."""
    in_patterns, name = name or without_modality(scan), name or stem(scan)
    outputs = Outputs(
        out / f"{name}{MASK}",
        figure=out / f"{name}_figure.png",
        page=out / f"{name}.html",
        thumbnail=out / f"{name}_thumbnail.png",
        brain_mask=out / f"{name}{BRAIN}",
        dicom=out / f"{name}_mask.dcm" if is_folder(scan) else None,
        report=out / f"{name}_report.json",
    )
    subject, session = subject_and_session(in_patterns)
    return Job(scan, outputs, name=in_patterns, subject=subject or in_patterns, session=session, dicom_required=False)


def _without_unwanted(job: Job, *, pages: bool, brain_masks: bool) -> Job:
    """The job without page and thumbnail, or without brain mask, if these are not wanted."""
    outputs = job.outputs if pages else replace(job.outputs, page=None, thumbnail=None)
    return replace(job, outputs=outputs if brain_masks else replace(outputs, brain_mask=None))


def _bids_job(scan: Path, dataset: Path, out: Path, *, linked: bool, several: bool) -> Job:
    """The job of ``sub-X/[ses-Y/]anat/*_<suffix>.nii[.gz]``, with outputs that are named like BIDS derivatives.

    Args:
        scan, dataset, out: the scan, the root of its dataset, and the folder for results.
        linked: whether the description of the results links to the dataset, so that sidecars can name the scan.
        several: whether a subject can have scans of several modalities: then the brain mask's name has the modality.
    """
    entities, _, suffix = stem(scan).rpartition("_")
    brain = f"brain{suffix}" if several and suffix != bids_suffix(_ANY_MODALITY) else "brain"
    folder = out / scan.parent.relative_to(dataset)
    figures = out / scan.relative_to(dataset).parts[0] / "figures"
    outputs = Outputs(
        folder / f"{entities}_label-lesion{MASK}",
        figure=figures / f"{entities}_label-lesion_mask.png",
        page=out / f"{entities}_label-lesion_mask.html",
        thumbnail=figures / f"{entities}_label-lesion_thumbnail.png",
        brain_mask=folder / f"{entities}_desc-{brain}_mask.nii.gz",
        report=folder / f"{entities}_label-lesion_mask.json",
    )
    subject, session = subject_and_session(entities)
    source = scan.relative_to(dataset).as_posix() if linked else ""
    return Job(scan, outputs, name=entities, subject=subject, session=session, bids_source=source)


def _write_description(out: Path, datasets: Collection[Path]) -> None:
    """Writes dataset_description.json and .bidsignore of a derivative of BIDS datasets.

    Raises:
        InputError: the folder contains another dataset.
    """
    file = out / DESCRIPTION
    known = file.exists()
    if known and '"brainseg-tf"' not in file.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{file}: belongs to another dataset; choose another --out-dir")
    make_folder(out)
    # Files for which BIDS has no names. The BIDS validator ignores them.
    ignored = [SUMMARY, f".{SUMMARY}.lock", BRAIN_TABLE, f".{BRAIN_TABLE}.lock", *cohort_tables.NAMES]
    ignored += ["*.html", "sub-*/figures"]
    ignored += [f"*{ending}" for ending in SUFFIXES.values()]
    ignore = out / ".bidsignore"
    lines = ignore.read_text(encoding="utf-8", errors="replace").splitlines() if ignore.exists() else []
    if missing := [line for line in ignored if line not in lines]:
        with replacing(ignore) as temporary:
            temporary.write_text("\n".join([*lines, *missing, ""]), encoding="utf-8")
    if known:
        return
    write_json(
        file,
        {
            "Name": "Lesion and brain masks by brainseg-tf",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "brainseg-tf", "Version": __version__}],
            "DatasetLinks": {} if len(datasets) > 1 else {RAW: next(iter(datasets)).as_uri()},
        },
    )


def _is_linked(out: Path, datasets: Collection[Path]) -> bool:
    """Whether the description of a derivative links to the dataset, or will, so that sidecars can name scans in it."""
    file = out / DESCRIPTION
    if len(datasets) != 1:
        return False
    try:
        if not file.exists():
            return True
        description = json.loads(file.read_text(encoding="utf-8"))
        return bool(description["DatasetLinks"][RAW] == next(iter(datasets)).as_uri())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
