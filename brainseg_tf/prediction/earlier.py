"""What an earlier run has left for a scan: its report and its outputs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import check_name_length
from brainseg_tf.images.formats import NIFTI, stem
from brainseg_tf.images.volume import is_whole
from brainseg_tf.prediction.jobs import Job


def same_inputs(recorded: Any, now: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an earlier result is of these files, as far as its version has recorded them."""
    if not isinstance(recorded, dict) or recorded.keys() != now.keys():
        return False
    return all(
        isinstance(one, dict) and all(one[name] == value for name, value in now[role].items() if name in one)
        for role, one in recorded.items()
    )


def earlier_report(job: Job) -> dict[str, Any] | None:
    """The report of an earlier run; empty if a power failure has damaged it, None if there is none.

    The report is the first output that gets its name, so without it no other file is of an earlier run.

    Raises:
        InputError: the file cannot be read.
    """
    file = job.outputs.report
    if file is None:
        return None
    check_name_length(file)
    if not file.exists():
        return None
    try:
        content = file.read_bytes()
        report = json.loads(content)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    except ValueError:
        return {} if content.startswith(b"{") or not content.strip(b"\0") else None
    return report if isinstance(report, dict) and "brainseg_tf" in report else None


def has_result(job: Job) -> bool:
    """Whether a report of an earlier run and its mask are there and whole; False if this cannot be determined."""
    try:
        return bool(earlier_report(job)) and is_whole(job.outputs.mask)
    except InputError:
        return False


def not_in(report: Mapping[str, Any], job: Job) -> list[Path]:
    """The outputs of a job that the earlier run has not written: if they exist, they are other files."""
    written = report.get("outputs")
    names = {Path(str(path)).name for path in written.values()} if isinstance(written, dict) else set()
    return [path for path in job.outputs.paths if path.name not in names]


def is_complete(job: Job) -> bool:
    """Whether all outputs exist, and the mask is not damaged."""
    possible = () if job.dicom_required else ("dicom", "rtstruct")
    required = [path for name, path in job.outputs.named.items() if name not in possible]
    return all(path.is_file() for path in required) and is_whole(job.outputs.mask)


def warnings_of_left_over(job: Job) -> list[str]:
    """A warning if files of an earlier run will stay beside the outputs of a job, because it does not write them.

    The files are those that the earlier report names, and their BIDS sidecars. They are looked for where they were
    relative to the mask, because the folder can have been moved.

    Args:
        job: not yet run.
    """
    try:
        report = earlier_report(job) or {}
        mask = Path(report["mask"])
        within = [Path(os.path.relpath(path, mask.parent)) for path in report["outputs"].values()]
    except (InputError, AttributeError, KeyError, TypeError, ValueError):
        return []  # There is none, or it is damaged, that of an old version, or cannot be read.
    folder = job.outputs.mask.parent
    if mask.name != job.outputs.mask.name:
        return []  # It is of another scan.
    if "Sources" in report:
        within += [path.with_name(f"{stem(path)}.json") for path in within if path.name.endswith(NIFTI)]
    ours = {path.resolve() for path in (*job.outputs.paths, *job.sidecars, *job.inputs)}
    files = {path: (folder / path).resolve() for path in dict.fromkeys(within)}
    left = ", ".join(str(path) for path, file in files.items() if file not in ours and file.is_file())
    return [f"{folder}: has {left} of an earlier run, which this run does not write; delete old files"] if left else []
