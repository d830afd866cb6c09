"""What an earlier run has left for a scan: its report and its outputs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import check_name_length, exists
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
    """Whether a report of an earlier run, and its mask, are there; False if this cannot be determined."""
    try:
        return job.outputs.report is not None and exists(job.outputs.report) and exists(job.outputs.mask)
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

    The files are those that the earlier report names. They are looked for where they were relative to the mask, because
    the folder can have been moved.

    Args:
        job: not yet run.

    """
    try:
        report = earlier_report(job) or {}
        folder = Path(report["mask"]).parent
        within = [os.path.relpath(path, folder) for path in report["outputs"].values()]
    except (InputError, AttributeError, KeyError, TypeError, ValueError):
        return []  # There is none, or it is damaged, that of an old version, or cannot be read.
    ours = {path.resolve() for path in (*job.outputs.paths, *job.inputs)}
    files = [(job.outputs.mask.parent / path).resolve() for path in within]
    left = [file for file in files if file not in ours and file.is_file()]
    if not left:
        return []
    names = ", ".join(file.name for file in left)
    return [f"{left[0].parent}: has {names} of an earlier run, which this run does not write; delete old files"]
