"""Compares two scan files: reads them, and writes report, table, change map, figure and page."""

import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from brainseg_tf import __version__
from brainseg_tf.brain.mask import Brain
from brainseg_tf.errors import InputError
from brainseg_tf.files import check_outputs, printable, replacing, replacing_all, write_json
from brainseg_tf.images import dicom, registration
from brainseg_tf.images.maps import check_name, write_map
from brainseg_tf.images.registration import head_centre
from brainseg_tf.images.volume import Volume, read_segmentation, read_volume
from brainseg_tf.options import CompareOptions
from brainseg_tf.prediction.comparison import (
    COLUMNS,
    Comparison,
    TimePoint,
    compare_time_points,
    lesion_row,
    time_point,
)
from brainseg_tf.prediction.predictor import Predictor


@dataclass(frozen=True)
class ComparisonOutputs:
    """The output files of a comparison; None for an output that is not written.

    Attributes:
        report: JSON.
        table: TSV with a row for each lesion.
        change: NIfTI on the grid of the scan before, see ``longitudinal.change_map``.
        figure: PNG.
        page: HTML.
    """

    report: Path
    table: Path | None = None
    change: Path | None = None
    figure: Path | None = None
    page: Path | None = None

    @property
    def named(self) -> dict[str, Path]:
        """The outputs that are written, by field; the report is the first."""
        paths = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: path for name, path in paths.items() if path}


@dataclass(frozen=True)
class ComparisonJob:
    """Two scans to compare.

    Attributes:
        before, after: the scans.
        outputs: the output files.
        before_mask, after_mask: the lesion masks, each on the grid of its scan; None if they are predicted.
        days: between the scans; if None, from the dates of two DICOM series.
    """

    before: Path
    after: Path
    outputs: ComparisonOutputs
    before_mask: Path | None = None
    after_mask: Path | None = None
    days: int | None = None

    @property
    def inputs(self) -> list[Path]:
        """The input files."""
        return [path for path in (self.before, self.after, self.before_mask, self.after_mask) if path]


def run(
    job: ComparisonJob,
    load_predictor: Callable[[], Predictor],
    options: CompareOptions | None = None,
    *,
    find: Callable[[Volume], Brain] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Compares two scans and writes the outputs.

    Args:
        job: the scans and the outputs.
        load_predictor: gives what segments a scan whose mask is not given.
        options: tolerance and limits.
        find: finds the brain in the scan before if its mask is given, for side and region of the lesions.
        overwrite: whether existing outputs are replaced.

    Returns:
        The content of the report.

    Raises:
        InputError: an input file cannot be used, or an output cannot be written. In this case no output is written.
    """
    start = time.perf_counter()
    if job.outputs.change:
        check_name(job.outputs.change)
    check_outputs(list(job.outputs.named.values()), job.inputs, overwrite=overwrite)
    for one, other, what in ((job.before, job.after, "scan"), (job.before_mask, job.after_mask, "mask")):
        if one and other and one.resolve() == other.resolve():
            raise InputError(f"{one}: is given for both time points; give the {what} of each")
    registration.check_installed()
    scans = [read_volume(path) for path in (job.before, job.after)]
    masks = [
        None if path is None else read_segmentation(path, scan)
        for path, scan in zip((job.before_mask, job.after_mask), scans, strict=True)
    ]
    days = _days(job) if job.days is None else job.days
    seconds = {"read": _since(start)}
    start = time.perf_counter()
    predictor = load_predictor() if any(mask is None for mask in masks) else None
    # Without lesions, nobody asks where the brain is.
    find = find if any(mask is None or mask.any() for mask in masks) else None
    before = time_point(scans[0], masks[0], predictor, find)
    after = time_point(scans[1], masks[1], predictor)
    seconds["predict"] = _since(start)
    start = time.perf_counter()
    result = compare_time_points(before, after, options, days)
    seconds["compare"] = _since(start)
    report = _report(job, result, predictor, seconds)
    _write(job.outputs, result, predictor, report)
    return report


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)


def _days(job: ComparisonJob) -> int | None:
    """Days between two DICOM series, from their headers."""
    if not (job.before.is_dir() and job.after.is_dir()):
        return None
    before, after = dicom.acquisition_date(job.before), dicom.acquisition_date(job.after)
    return None if before is None or after is None else (after - before).days


def _report(
    job: ComparisonJob, result: Comparison, predictor: Predictor | None, seconds: dict[str, float]
) -> dict[str, Any]:
    centre = head_centre(result.before.scan)
    method = {"model": None} if predictor is None else predictor.method()
    return {
        "before": _time_point(job.before, job.before_mask, result.before),
        "after": _time_point(job.after, job.after_mask, result.after),
        "outputs": {name: str(path) for name, path in job.outputs.named.items()},
        "days": result.days,
        "change_ml": round(result.change_ml, 4),
        "change_percent": None if result.change_percent is None else round(result.change_percent, 2),
        "counts": result.counts,
        "lesions": [lesion_row(number, one) for number, one in enumerate(result.lesions, 1)],
        "columns": COLUMNS,
        "registration": {
            "movement_mm": round(result.alignment.movement_mm(centre), 2),
            "rotation_deg": round(result.alignment.rotation_deg, 2),
            "matrix": result.alignment.matrix.round(6).tolist(),
            "correlation": round(result.correlation, 4),
        },
        "limits": asdict(result.options),
        "seconds": seconds,
        **method,
        "brainseg_tf": __version__,
        "warnings": result.warnings,
        "note": "for research; not a medical device",
    }


def _time_point(scan: Path, mask: Path | None, point: TimePoint) -> dict[str, Any]:
    return {
        "scan": str(scan),
        "mask": None if mask is None else str(mask),
        "source": point.source,
        "lesion_ml": round(point.lesion_ml, 4),
        "voxel_mm": [round(mm, 4) for mm in point.scan.spacing],
    }


def _write(outputs: ComparisonOutputs, result: Comparison, predictor: Predictor | None, report: dict[str, Any]) -> None:
    """Writes all outputs, or none."""
    start = time.perf_counter()
    with replacing_all(outputs.named) as staged:
        temporary = ComparisonOutputs(**staged)
        if temporary.table:
            write_table(temporary.table, report["lesions"])
        if temporary.change:
            write_map(temporary.change, result.change_map, result.before.scan)
        if temporary.figure:
            from brainseg_tf.prediction import comparison_figure

            comparison_figure.draw(result, temporary.figure)
        if temporary.page:
            from brainseg_tf.prediction.pages.comparison import write_page

            write_page(temporary.page, result, None if predictor is None else predictor.card, report)
        report["seconds"]["write"] = _since(start)
        write_json(temporary.report, report)


def write_table(path: Path, lesions: list[dict[str, Any]]) -> None:
    """Writes the table of the lesions as tab-separated values, ``n/a`` for what is unknown, as in BIDS.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for lesion in lesions:
            writer.writerow(
                {name: "n/a" if value in (None, "") else printable(value) for name, value in lesion.items()}
            )
