"""The user's own skull stripping, run as a command."""

import shlex
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.formats import NIFTI
from brainseg_tf.volume import Volume, read_mask

SCAN, MASK = "{scan}", "{mask}"


def strip(command: str, scan: Volume) -> np.ndarray:
    """Runs a command that finds the brain in a scan.

    Args:
        command: split as a shell would, but run without one; ``{scan}`` stands for the scan as NIfTI, ``{mask}`` for
            the file where the command leaves the brain mask, .nii.gz, on the scan's grid.
        scan: whose.

    Returns:
        (X, Y, Z) bool, as ``scan.data``.

    Raises:
        InputError: the command cannot be started, fails, or leaves no usable mask.
    """
    with tempfile.TemporaryDirectory(prefix="brainseg-tf-") as folder:
        source, target = scan.path.absolute(), Path(folder, "brain.nii.gz")
        if scan.path.is_dir() or not scan.path.name.endswith(NIFTI):
            source = Path(folder, "scan.nii.gz")
            nib.save(scan.source, source)
        words = [word.replace(SCAN, str(source)).replace(MASK, str(target)) for word in shlex.split(command)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise InputError(f"--skull-strip: {words[0]} cannot be started ({error.strerror}); install it") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise InputError(f"{scan.path}: {words[0]} failed with exit code {done.returncode} ({said})")
        if not target.exists():
            raise InputError(f"{scan.path}: {words[0]} left no mask at {MASK}; check the command")
        brain = read_mask(target, scan)
    if not brain.any():
        raise InputError(f"{scan.path}: {words[0]} left an empty mask; look at the scan")
    return brain
