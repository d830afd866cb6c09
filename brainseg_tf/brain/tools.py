"""Runs a skull-stripping tool that the user has installed."""

import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import Volume, read_mask, read_volume

SCAN, MASK = "{scan}", "{mask}"
_STEM, _SUFFIX = "{stem}", ".nii.gz"
# The commands of known tools, as their documentation gives them.
TOOLS = {
    "hd-bet": "hd-bet -i {scan} -o {stem}.nii.gz -device cpu --disable_tta --save_bet_mask --no_bet_image",
    "synthstrip": "mri_synthstrip -i {scan} -m {mask}",
    "deepbet": "deepbet-cli -i {scan} -o {stem}_image.nii.gz -m {mask} --no_gpu",
}
CHOICES = (
    f"give auto, stripped, network, {', '.join(TOOLS)}, or a command with {SCAN} and {MASK}, for instance "
    "'mri_synthstrip -i {scan} -m {mask}'"
)
# Skull-stripping tools take minutes per scan without a GPU.
TIME_LIMIT_SECONDS = 1800.0


def command_of(tool: str) -> str | None:
    """The command of a tool: of a known one by its name, or the text itself if it is a command; None if it is neither.

    Args:
        tool: a key of ``TOOLS``, or a command line with ``{scan}`` and ``{mask}``.
    """
    return TOOLS.get(tool, tool if SCAN in tool and MASK in tool else None)


def strip(tool: str, scan: Volume) -> np.ndarray:
    """Runs a tool that writes the brain mask of a scan.

    Args:
        tool: a key of ``TOOLS``, or a command line, which is split like a shell command but run without a shell.
            ``{scan}`` is replaced by the scan as a NIfTI file whose axes are as in MNI space (right, anterior,
            superior), ``{mask}`` by the file (.nii.gz) to which the command writes the brain mask on the same grid.
        scan: the scan.

    Returns:
        The brain mask, (X, Y, Z) bool, in the orientation of ``scan.data``.

    Raises:
        InputError: the tool cannot be started, fails, takes longer than half an hour, or writes no usable mask; or
            there is no space for temporary files.
    """
    command = command_of(tool)
    if command is None:
        raise InputError(f"--brain {tool}: is not a known tool; {CHOICES}")
    try:
        temporary = tempfile.TemporaryDirectory(prefix="brainseg-tf-")
    except OSError as error:
        raise InputError(
            f"--brain: no temporary folder can be created ({error.strerror}); set TMPDIR to a folder with free space"
        ) from error
    with temporary as folder:
        source, target = Path(folder, "scan.nii.gz"), Path(folder, "brain.nii.gz")
        try:
            # The tool gets a NIfTI copy, independent of the format and name of the scan's file.
            nib.save(nib.as_closest_canonical(scan.source), source)
        except OSError as error:
            raise InputError(
                f"{folder}: a copy of {scan.path} cannot be written ({error.strerror or error}); set TMPDIR to another "
                "folder"
            ) from error
        try:
            parts = shlex.split(command)
        except ValueError as error:
            raise InputError(f"--brain {command}: {error}; close the quotation") from error
        words = [
            word.replace(SCAN, str(source)).replace(MASK, str(target)).replace(_STEM, str(target).removesuffix(_SUFFIX))
            for word in parts
        ]
        returncode, output = _run(words, scan.path)
        if returncode:
            last_line = (output.strip() or "no message").splitlines()[-1]
            raise InputError(
                f"{scan.path}: {words[0]} failed with exit code {returncode} ({last_line}); check the command"
            )
        # HD-BET derives the name of the mask from that of its image.
        derived = target.with_name(f"brain_bet{_SUFFIX}")
        if not target.exists() and derived.exists():
            target = derived
        if not target.exists():
            raise InputError(f"{scan.path}: {words[0]} wrote no mask to {MASK}; check the command")
        brain = read_mask(target, read_volume(source))
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
        raise InputError(f"--brain: {words[0]} cannot be started ({reason}); install it") from error
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
