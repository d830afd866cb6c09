"""The user's own skull stripping, run as a command."""

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
# Tools without a GPU take minutes for a head.
TIME_LIMIT_SECONDS = 1800.0


def strip(command: str, scan: Volume) -> np.ndarray:
    """Runs a command that finds the brain in a scan.

    Args:
        command: split as a shell would, but run without one; ``{scan}`` stands for the scan as NIfTI, ``{mask}`` for
            the file where the command leaves the brain mask, .nii.gz, on the scan's grid.
        scan: whose.

    Returns:
        (X, Y, Z) bool, as ``scan.data``.

    Raises:
        InputError: the command cannot be started, fails, takes longer than half an hour, or leaves no usable mask; or
            there is no room for temporary files.
    """
    try:
        workplace = tempfile.TemporaryDirectory(prefix="brainseg-tf-")
    except OSError as error:
        raise InputError(
            f"--skull-strip: no folder for temporary files ({error.strerror}); set TMPDIR to one with room in it"
        ) from error
    with workplace as folder:
        source, target = Path(folder, "scan.nii.gz"), Path(folder, "brain.nii.gz")
        try:
            # A copy: whatever the scan's format, name and header are, the tool gets what was read here.
            nib.save(scan.source, source)
        except OSError as error:
            raise InputError(
                f"{folder}: no room for a copy of {scan.path} ({error.strerror or error}); set TMPDIR to another folder"
            ) from error
        words = [word.replace(SCAN, str(source)).replace(MASK, str(target)) for word in shlex.split(command)]
        returncode, output = _run(words, scan.path)
        if returncode:
            said = (output.strip() or "it said nothing").splitlines()[-1]
            raise InputError(f"{scan.path}: {words[0]} failed with exit code {returncode} ({said})")
        if not target.exists():
            raise InputError(f"{scan.path}: {words[0]} left no mask at {MASK}; check the command")
        brain = read_mask(target, scan)
    if not brain.any():
        raise InputError(f"{scan.path}: {words[0]} left an empty mask; look at the scan")
    return brain


def _run(words: list[str], scan: Path) -> tuple[int, str]:
    """Runs a command that can ask for nothing; gives its exit code, and what it said on stderr, or else on stdout."""
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
            f"{scan}: {words[0]} was stopped after {TIME_LIMIT_SECONDS:.0f} s; run it by itself, then give its mask "
            "with --brain-mask"
        ) from error
    finally:
        if process.poll() is None:
            # With the processes that it started.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, err.strip() or out.strip()
