"""The table ``summary.csv`` of an output folder, with a row for each scan.

The table is updated after each scan. Several runs, also on several machines, can write to the same folder: each run
updates the rows of its own scans and keeps the others.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import file_lock, printable, replacing
from brainseg_tf.images.scan_search import NOT_READABLE, can_be_read

NAME = "summary.csv"
COLUMNS = (
    *("scan", "status", "lesion_ml", "lesions", "suspected_ml", "brain_ml", "brain_source"),
    *("seconds", "warnings", "mask", "error", "report"),
)
# In a row that is to be written, the mask that the scan has or would have; it is no column of the table.
PLANNED = "planned mask"
# Largest number of folders and files in the path of a result within its output folder, sub-X/ses-Y/anat/FILE.
_DEEPEST = 4

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
        scan: the file or folder of the scan.
        status: ``done``, ``kept``, ``failed`` or ``left out``.
        report: of ``Predictor.run``; None if the scan was not segmented.
        mask, report_file: the files of the mask and of the report, which a scan that failed would have.
        error: why the scan was not segmented.
    """
    cells: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"scan": scan, "status": status, "error": error or ""}
    cells[PLANNED] = mask or ""
    if report is not None:
        cells |= {
            "lesion_ml": report["lesion_ml"],
            "lesions": report["components"],
            # Reports of versions up to 0.9 do not have it.
            "suspected_ml": report.get("suspected_ml", ""),
            "brain_ml": report["brain"]["ml"],
            # Reports of versions up to 0.10 do not have it.
            "brain_source": report["brain"].get("source", ""),
            "seconds": round(sum(report["seconds"].values()), 2),
            "warnings": len(report["warnings"]),
            "mask": mask,
            "report": report_file or "",
        }
    return {name: printable(value) for name, value in cells.items()}


def read(path: Path) -> list[Row]:
    """Reads the rows of a table; none if the file does not exist.

    Raises:
        InputError: the file cannot be read or is not a table of brainseg-tf.
    """
    try:
        text = path.read_bytes().decode("utf-8") if path.exists() else ""
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}); move it, or choose another --out-dir"
        ) from error
    if text and not {"scan", "status", "mask"} <= set(reader.fieldnames or ()):
        raise InputError(f"{path}: is not a table of brainseg-tf; move it, or choose another --out-dir")
    return [{name: one.get(name) or "" for name in COLUMNS} for one in rows]


def key(scan: object) -> str:
    """What identifies a scan in a table: its absolute path, however the path was typed."""
    return str(Path(printable(scan)).absolute())


def located(file: str, out: Path) -> Path:
    """A file that a table or a report names, also if the output folder was moved or is mounted elsewhere.

    Args:
        file: as it was written.
        out: the output folder now.

    Returns:
        The file in ``out`` with the same end of the path, otherwise the path as it was written.
    """
    parts = Path(file).relative_to(Path(file).anchor).parts
    candidates = [out.joinpath(*parts[-count:]) for count in range(min(len(parts), _DEEPEST), 0, -1)]
    if found := next((path for path in candidates if path.exists()), None):
        return found
    if "\\" not in file:
        return Path(file)
    # A table has characters that cannot be shown as escapes, so the name is looked for as it is shown.
    folders = [path for path in candidates if path.parent.is_dir()]
    shown = (one for path in folders for one in path.parent.iterdir() if printable(one.name) == path.name)
    return next(shown, Path(file))


def _in_folder(mask: str, out: Path) -> str:
    """The path of a mask within the folder of results, which is the part after the folder's name."""
    _, name, within = f"/{mask}".rpartition(f"/{out.absolute().name}/")
    return within if name else mask


def check(path: Path, scans: Iterable[tuple[object, object]], *, overwrite: bool) -> None:
    """Checks that no earlier run has segmented the same scans.

    Args:
        path: the table.
        scans: the paths of the scans and of the masks that will be written.
        overwrite: whether earlier masks may be replaced.

    Raises:
        InputError: the table has one of the masks, and ``overwrite`` is not set; or as for ``read``.
    """
    segmented = [row for row in read(path) if row["mask"]]
    if not overwrite and len(of_other_scans(segmented, scans, path.parent)) < len(segmented):
        raise InputError(
            f"{path}: was written by an earlier run; give --continue to keep its results, --overwrite to segment all "
            "scans again, or another --out-dir"
        )


def of_other_scans(rows: Iterable[Row], scans: Iterable[tuple[object, object]], out: Path) -> list[Row]:
    """The rows of other scans than some.

    A row is of the same scan if it has the same mask, or the same path of the scan and a mask of the same name, because
    the folder was moved. The path alone decides for rows without a mask: typed in another folder it is another scan.

    Args:
        rows: of the table.
        scans: the paths of these scans and of the masks that they have or would have; empty for a scan without one.
        out: the folder of the table.
    """
    known = [(key(scan), printable(mask)) for scan, mask in scans]
    masks = {_in_folder(mask, out) for _, mask in known if mask}
    names = {(scan, Path(mask).name) for scan, mask in known if mask}
    paths = {scan for scan, _ in known}
    return [
        row
        for row in rows
        if _in_folder(row["mask"], out) not in masks
        and (key(row["scan"]), Path(row["mask"]).name) not in names
        and (row["mask"] or key(row["scan"]) not in paths)
    ]


def merged(earlier: Iterable[Row], rows: Iterable[Row], out: Path) -> list[Row]:
    """The rows of a table and new ones, which replace those of the same scans; sorted by the paths of the scans.

    A scan that would have no mask, because it is left out, does not replace a row with a mask. Rows of folders without
    read permission are left out if they can be read now: their scans have rows of their own.

    Args:
        earlier: of the table.
        rows: new ones, with ``PLANNED``.
        out: the folder of the table.
    """
    new = {(key(one["scan"]), one[PLANNED]): one for one in rows}
    others = of_other_scans(earlier, [(one["scan"], mask) for (_, mask), one in new.items()], out)
    others = [one for one in others if not (one["error"].endswith(NOT_READABLE) and can_be_read(Path(one["scan"])))]
    segmented = {key(one["scan"]) for one in others if one["mask"]}
    added = [one for (scan, mask), one in new.items() if mask or scan not in segmented]
    return sorted([*others, *added], key=lambda one: one["scan"])


def update(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Adds rows to a table; rows of the same scans are replaced. The file is replaced atomically.

    Returns:
        All rows of the new table, see ``merged``.

    Raises:
        InputError: the table cannot be read or written.
        LockedError: another run has locked it for a minute.
    """
    with file_lock(path):
        table = merged(read(path), rows, path.parent)
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(table)
    return table
