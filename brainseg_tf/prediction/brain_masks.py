"""Brain masks of scan files, without a segmentation of lesions: the command ``brain``."""

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from brainseg_tf.brain.mask import find_brain
from brainseg_tf.brain.network import BrainNetwork
from brainseg_tf.errors import InputError
from brainseg_tf.files import check_writable, explain_csv_errors, file_lock, printable, replacing
from brainseg_tf.images.maps import check_name, write_map
from brainseg_tf.images.volume import read_volume
from brainseg_tf.prediction.results_table import PLANNED, Row, merged

COLUMNS = ("scan", "status", "brain_ml", "source", "seconds", "warnings", "mask", "error")


def write_brain_mask(
    scan: Path,
    mask: Path,
    *,
    method: str = "auto",
    network: Callable[[], BrainNetwork],
    overwrite: bool = False,
) -> dict[str, Any]:
    """Finds the brain in a scan and writes its mask (uint8, on the scan's grid).

    Args:
        scan: the file or folder of the scan.
        mask: the file to write, .nii or .nii.gz.
        method: one of ``METHODS``, a known tool or a command, see ``brain.tools.strip``.
        network: loads the brain network.
        overwrite: whether an existing file is replaced.

    Returns:
        ``brain_ml``, ``source`` (see ``brain.mask.Brain``), ``seconds`` without loading the network, and ``warnings``.

    Raises:
        InputError: the scan cannot be read, contains no brain, or the mask cannot be written.
    """
    check_name(mask)
    if mask.resolve() == scan.resolve():
        raise InputError(f"{mask}: is the scan itself; give another name")
    check_writable(mask, overwrite=overwrite)
    volume = read_volume(scan)
    loaded = network() if method in ("auto", "network") else None
    start = time.perf_counter()
    brain = find_brain(volume, method=method, network=None if loaded is None else lambda: loaded)
    write_map(mask, brain.mask, volume)
    return {
        "brain_ml": round(float(brain.mask.sum()) * volume.voxel_ml, 1),
        "source": brain.source,
        "seconds": round(time.perf_counter() - start, 2),
        "warnings": [*volume.warnings, *brain.warnings],
    }


def read_table(path: Path) -> list[Row]:
    """The rows of the table of an earlier run; none if it does not exist.

    Raises:
        InputError: the file cannot be read or is another table.
    """
    if not path.exists():
        return []
    remedy = "move it, or choose another --out-dir"
    with (
        explain_csv_errors(path, "cannot be read as a table of brain masks", remedy),
        path.open(newline="", encoding="utf-8") as file,
    ):
        rows = csv.DictReader(file, strict=True)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise InputError(f"{printable(path)}: is not a table of brain masks; {remedy}")
        return [{name: row.get(name) or "" for name in COLUMNS} for row in rows]


def add_to_table(path: Path, row: Mapping[str, Any], mask: object = "") -> None:
    """Adds a row to the table of several brain masks, with the columns ``COLUMNS``, see ``results_table.merged``.

    Args:
        path: the table; it can be missing.
        row: what is known of the scan, by column.
        mask: the mask that the scan has or would have.

    Raises:
        InputError: the table cannot be read or written, or another run has locked it for a minute.
    """
    new = {name: printable(row.get(name, "")) for name in COLUMNS} | {PLANNED: printable(mask)}
    with file_lock(path):
        table = merged(read_table(path), [new], path.parent)
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(table)
