"""Time and memory of ``predict`` for scans of increasing size, and of ``fit`` for cohorts of increasing size.

    python benchmarks/growth.py [predict] [fit] [--patients 30 100 335]

predict: the scan is the phantom with smaller voxels. fit: the patients are copies of the phantom at 2 mm; ``cvae`` is
trained for one epoch on slices of 128 x 128 pixels, first including the decoding of the scans, then without it. The
tables have the seconds of the whole command and its peak resident memory.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output
from predict import COMMAND, PHANTOM, run
from scipy import ndimage

# Factor of the number of voxels, and factors along the axes.
FACTORS = {1: (1, 1, 1), 2: (1, 1, 2), 4: (2, 1, 2), 8: (2, 2, 2)}

# Options of ``fit``.
TRAINING = ("--epochs", "1")
DECODED = ("no", "yes")


def finer(image: nib.Nifti1Image, factors: tuple[int, int, int], file: Path) -> None:
    """Writes the image to ``file`` with smaller voxels, by repeating each voxel along the axes."""
    data = np.asarray(image.dataobj)
    for axis, factor in enumerate(factors):
        data = np.repeat(data, factor, axis=axis)
    affine = image.affine @ np.diag([*(1 / np.array(factors)), 1])
    affine[:3, 3] -= affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    nib.save(nib.Nifti1Image(data, affine), file)


def predict(folder: Path) -> None:
    """Prints a table with one row for each size of the scan."""
    print("| voxels | factor | seconds | peak GB |\n|---|---|---|---|")
    image = nib.load(PHANTOM)
    for factor, factors in FACTORS.items():
        scan = folder / f"scan{factor}.nii.gz"
        finer(image, factors, scan)
        usage = run(COMMAND, "predict", str(scan), "--out", str(folder / f"mask{factor}.nii.gz"))
        shape = " x ".join(map(str, nib.load(scan).shape))
        print(f"| {shape} | {factor} | {usage.seconds:.1f} | {usage.peak:.2f} |", flush=True)


def fit(folder: Path, counts: list[int]) -> None:
    """Prints a table with two rows for each size of the cohort: with and without decoding."""
    columns = ("patients", "decoded before", "seconds", "seconds per patient", "peak GB", "private GB")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    image = resample_to_output(nib.load(PHANTOM), 2.0, order=1)
    data = np.maximum(np.asarray(image.dataobj), 0).astype(np.float32)
    lesion = np.zeros(data.shape, np.uint8)
    lesion[tuple(slice(n // 2 - 5, n // 2 + 5) for n in data.shape)] = 1
    lesion &= ndimage.binary_erosion(data > 0)
    original = folder / "original"
    original.mkdir()
    nib.save(nib.Nifti1Image(data, image.affine), original / "flair.nii.gz")
    nib.save(nib.Nifti1Image(lesion, image.affine), original / "seg.nii.gz")
    for count in counts:
        cohort = folder / f"cohort{count}"
        for number in range(count):
            name = f"P{number:04}"
            (cohort / name).mkdir(parents=True)
            for kind in ("flair", "seg"):
                shutil.copy(original / f"{kind}.nii.gz", cohort / name / f"{name}_{kind}.nii.gz")
        for decoded in DECODED:
            out, cache = folder / f"run{count}-{decoded}", folder / f"cache{count}"
            usage = run(COMMAND, "fit", str(cohort), "--out", str(out), "--cache", str(cache), *TRAINING)
            per_patient = usage.seconds / count
            print(
                f"| {count} | {decoded} | {usage.seconds:.0f} | {per_patient:.2f} | {usage.peak:.2f} "
                f"| {usage.private:.2f} |",
                flush=True,
            )
        shutil.rmtree(cache)


def main() -> None:
    """Runs the commands and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", help="predict, fit; default: both")
    parser.add_argument("--patients", type=int, nargs="+", default=[30, 100, 335])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not given.commands or "predict" in given.commands:
            predict(Path(folder))
        if not given.commands or "fit" in given.commands:
            fit(Path(folder), given.patients)


if __name__ == "__main__":
    main()
