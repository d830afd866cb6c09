"""``summary.csv``: a row for each scan of a folder of results, kept up to date while scans are being segmented.

Several runs, on several machines, may write into one folder: each renews its own rows and keeps those of the others.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing, waiting_for

NAME = "summary.csv"
COLUMNS = ("scan", "status", "lesion_ml", "lesions", "seconds", "warnings", "mask", "error", "report")

Row = dict[str, str]


def row(
    scan: Path,
    status: str,
    *,
    report: dict[str, Any] | None = None,
    mask: Path | None = None,
    error: str | None = None,
    report_file: Path | None = None,
) -> Row:
    """The row of a scan.

    Args:
        scan: its file or folder.
        status: ``done``, ``kept``, ``failed`` or ``left out``.
        report: of ``Predictor.run``, for what was segmented; ``mask``, ``report_file``: its files.
        error: why it was not.
    """
    cells: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"scan": scan, "status": status, "error": error or ""}
    if report is not None:
        cells |= {
            "lesion_ml": report["lesion_ml"],
            "lesions": report["components"],
            "seconds": round(sum(report["seconds"].values()), 2),
            "warnings": len(report["warnings"]),
            "mask": mask,
            "report": report_file or "",
        }
    return {name: printable(value) for name, value in cells.items()}


def read(path: Path) -> list[Row]:
    """The rows of a table; none if it is not there.

    Raises:
        InputError: it is none of ours, or cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8") if path.exists() else ""
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}); move it away, or choose another --out-dir"
        ) from error
    if rows and not {"scan", "status", "mask"} <= set(reader.fieldnames or ()):
        raise InputError(f"{path}: is no table of brainseg-tf; move it away, or choose another --out-dir")
    return [{name: one.get(name) or "" for name in COLUMNS} for one in rows]


def check(path: Path, masks: Sequence[Path], *, overwrite: bool) -> None:
    """Refuses to segment again what an earlier run has segmented.

    Args:
        path: of the table.
        masks: that are to be made.
        overwrite: whether earlier ones may be replaced.

    Raises:
        InputError: the table has one of the masks, and ``overwrite`` is not set; or see ``read``.
    """
    known = {one["mask"] for one in read(path) if one["mask"]}
    if not overwrite and any(printable(mask) in known for mask in masks):
        raise InputError(
            f"{path}: an earlier run wrote it; give --continue to keep what that run finished, --overwrite to do it "
            "all again, or another --out-dir"
        )


def renew(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Replaces the rows of the same scans and adds the others, in one step; returns all rows of the table.

    Raises:
        InputError: the table cannot be read or written, or another run holds it for a minute.
    """
    with waiting_for(path):
        table = {one["scan"]: one for one in read(path)} | {one["scan"]: one for one in rows}
        with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(table.values())
    return list(table.values())
