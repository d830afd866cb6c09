"""Adapts a shipped model to a scanner, on phantoms without lesions from a second, worse "scanner".

    pip install brainseg-tf[examples]
    python examples/adapt_to_scanner.py FOLDER

The phantoms of ``make_phantom.py`` stand for the scans of healthy people. The second scanner has a surface coil, which
brightens one side of the head, and more noise. The script calibrates ``selfseg-flair`` on these scans, fine-tunes it
(a few minutes on two cores), and prints what each version flags in a scan of the second scanner with known lesions.
"""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import make_phantom

SUBJECTS = 4


def second_scanner(scan: nib.Nifti1Image, seed: int) -> nib.Nifti1Image:
    """The scan as the second scanner would show it: brighter towards a coil at the back, with more noise."""
    data = np.asarray(scan.dataobj, np.float32)
    random = np.random.default_rng(seed)
    back = np.linspace(-1, 1, data.shape[1], dtype=np.float32)[None, :, None]
    shaded = data * np.exp(0.5 * back)
    noisy = np.hypot(shaded + random.normal(0, 25, data.shape), random.normal(0, 25, data.shape))
    return nib.Nifti1Image(np.where(data > 0, noisy, 0).round().astype(np.int16), scan.affine)


def make_scans(folder: Path, subjects: int) -> None:
    """Writes scans without lesions to ``folder/healthy``, and one with lesions and their mask to ``folder``."""
    for seed in range(1, subjects + 1):
        make_phantom.make(folder / "first", seed, lesions=(), head=False)
        scan = second_scanner(nib.load(folder / "first" / "phantom_flair.nii.gz"), seed)
        (folder / "healthy").mkdir(exist_ok=True)
        nib.save(scan, folder / "healthy" / f"sub-{seed:02}_FLAIR.nii.gz")
    make_phantom.make(folder / "first", seed=subjects + 1, head=False)
    nib.save(second_scanner(nib.load(folder / "first" / "phantom_flair.nii.gz"), 0), folder / "patient_FLAIR.nii.gz")


def main(folder: Path, subjects: int, *options: str) -> None:
    """Makes the scans, adapts the model, and segments the patient with each version.

    Args:
        folder: for everything that is made; it must not exist.
        subjects: number of scans without lesions, at least 3.
        options: further options of ``fit``.
    """
    folder.mkdir(parents=True)
    make_scans(folder, subjects)
    healthy = folder / "healthy"
    _run("calibrate", "selfseg-flair", healthy, "--out", folder / "calibrated")
    # The scans are known to have no lesions, so all slices are used.
    _run("fit", healthy, "--from", "selfseg-flair", "--rounds", 0, "--out", folder / "tuned", *options)
    truth = folder / "first" / "phantom_lesions.nii.gz"
    for model in ("selfseg-flair", folder / "calibrated", folder / "tuned"):
        mask = folder / f"mask_{Path(model).name}.nii.gz"
        _run("predict", folder / "patient_FLAIR.nii.gz", "--truth", truth, "--model", model, "--out", mask)


def _run(*arguments: object) -> None:
    # The command of this environment, also if it is not activated.
    command = [str(Path(sys.executable).with_name("brainseg-tf")), *map(str, arguments)]
    print("$ brainseg-tf", *command[1:], flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), SUBJECTS, *sys.argv[2:])
