"""Runs a skull-stripping command that the user has given."""

import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import Volume, read_mask

SCAN, MASK = "{scan}", "{mask}"
# Skull-stripping tools take minutes per scan without a GPU.
TIME_LIMIT_SECONDS = 1800.0


def strip(command: str, scan: Volume) -> np.ndarray:
    """Runs a command that writes the brain mask of a scan.

    Args:
        command: the command line, split like a shell command but run without a shell. ``{scan}`` is replaced by the
            scan as a NIfTI file, ``{mask}`` by the file (.nii.gz) to which the command writes the brain mask on the
            scan's grid.
        scan: the scan.

    Returns:
        The brain mask, (X, Y, Z) bool, in the orientation of ``scan.data``.

    Raises:
        InputError: the command cannot be started, fails, takes longer than half an hour, or writes no usable mask; or
            there is no space for temporary files.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="brainseg-tf-")
    except OSError as error:
        raise InputError(
            f"--skull-strip: no temporary folder can be created ({error.strerror}); set TMPDIR to a folder with free "
            "space"
        ) from error
    with temporary as folder:
        source, target = Path(folder, "scan.nii.gz"), Path(folder, "brain.nii.gz")
        try:
            # The tool gets a NIfTI copy, independent of the format and name of the scan's file.
            nib.save(scan.source, source)
        except OSError as error:
            raise InputError(
                f"{folder}: a copy of {scan.path} cannot be written ({error.strerror or error}); set TMPDIR to another "
                "folder"
            ) from error
        words = [word.replace(SCAN, str(source)).replace(MASK, str(target)) for word in shlex.split(command)]
        returncode, output = _run(words, scan.path)
        if returncode:
            last_line = (output.strip() or "no message").splitlines()[-1]
            raise InputError(
                f"{scan.path}: {words[0]} failed with exit code {returncode} ({last_line}); check the command"
            )
        if not target.exists():
            raise InputError(f"{scan.path}: {words[0]} wrote no mask to {MASK}; check the command")
        brain = read_mask(target, scan)
    if not brain.any():
        raise InputError(f"{scan.path}: {words[0]} wrote an empty mask; check the scan")
    return brain


def _run(words: list[str], scan: Path) -> tuple[int, str]:
    """Runs a command with an empty standard input.

    Returns:
        The exit code; and what the command wrote to standard error, or to standard output if that is empty.
    """
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--skull-strip: {words[0]} cannot be started ({reason}); install it") from error
    try:
        out, err = process.communicate(timeout=TIME_LIMIT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{scan}: {words[0]} was stopped after {TIME_LIMIT_SECONDS:.0f} s; run it separately and give its mask "
            "with --brain-mask"
        ) from error
    finally:
        if process.poll() is None:
            # Also stop the processes that the command has started.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, err.strip() or out.strip()
