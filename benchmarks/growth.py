"""How cost grows: predict with the voxels of a scan, fit with the patients of a cohort.

    python benchmarks/growth.py [predict] [fit] [--patients 30 100 335]

predict: the phantom, its grid made finer. fit: copies of one patient made from the phantom at 2 mm, one epoch of
``cvae`` on 128 x 128 slices, decoding included and then without it. Seconds of the whole command, and its peak resident
memory.
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

# Times the voxels, and the factor along each axis.
FACTORS = {1: (1, 1, 1), 2: (1, 1, 2), 4: (2, 1, 2), 8: (2, 2, 2)}


def finer(image: nib.Nifti1Image, factors: tuple[int, int, int], file: Path) -> None:
    """Writes the image with each voxel repeated along the axes."""
    data = np.asarray(image.dataobj)
    for axis, factor in enumerate(factors):
        data = np.repeat(data, factor, axis=axis)
    affine = image.affine @ np.diag([*(1 / np.array(factors)), 1])
    affine[:3, 3] -= affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    nib.save(nib.Nifti1Image(data, affine), file)


def predict(folder: Path) -> None:
    """A row for each size of scan."""
    print("| voxels | times | seconds | peak GB |\n|---|---|---|---|")
    image = nib.load(PHANTOM)
    for times, factors in FACTORS.items():
        scan = folder / f"scan{times}.nii.gz"
        finer(image, factors, scan)
        seconds, memory, _ = run(COMMAND, "predict", str(scan), "--out", str(folder / f"mask{times}.nii.gz"))
        shape = " x ".join(map(str, nib.load(scan).shape))
        print(f"| {shape} | {times} | {seconds:.1f} | {memory:.2f} |", flush=True)


def fit(folder: Path, counts: list[int]) -> None:
    """Two rows for each size of cohort."""
    columns = ("patients", "decoded before", "seconds", "seconds a patient", "peak GB", "of it own")
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
        for decoded in ("no", "yes"):
            out, cache = folder / f"run{count}-{decoded}", folder / f"cache{count}"
            used = run(COMMAND, "fit", str(cohort), "--out", str(out), "--epochs", "1", "--cache", str(cache))
            each = used.seconds / count
            print(
                f"| {count} | {decoded} | {used.seconds:.0f} | {each:.2f} | {used.peak:.2f} | {used.own:.2f} |",
                flush=True,
            )
        shutil.rmtree(cache)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="predict, fit; both if none is given")
    parser.add_argument("--patients", type=int, nargs="+", default=[30, 100, 335])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not given.what or "predict" in given.what:
            predict(Path(folder))
        if not given.what or "fit" in given.what:
            fit(Path(folder), given.patients)


if __name__ == "__main__":
    main()
