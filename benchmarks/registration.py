"""Error of the registration of a further modality: synthetic movements of known size.

    python benchmarks/registration.py DATA [--modality t2] [--patients 10] [--seed 0]

DATA is a folder with ``*_flair.nii.gz`` and, beside each, the other modality on the same grid. The other modality is
moved (up to 6 degrees about each axis and 6 mm along each), resampled to voxels of 1.2 x 1 x 2 times those of FLAIR,
and registered to FLAIR, as ``predict`` does it. Each row is a patient. All distances are means over a sphere of 60 mm
in a brain:

- the movement;
- the error, if the two modalities were aligned before the movement;
- where the modality that was not moved is registered: the two were not aligned better than this, or their mutual
  information has its maximum elsewhere;
- the distance between the registrations of the moved and of the unmoved scan: the part of the error that the movement
  causes.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from brainseg_tf.images.registration import align, mean_distance
from brainseg_tf.images.volume import Volume, read_volume

_DEGREES, _MILLIMETRES = 6.0, 6.0
# Voxels of the moved scan as multiples of those of FLAIR.
_VOXEL = np.array([1.2, 1.0, 2.0])


def moved(scan: Volume, centre: np.ndarray, random: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """A scan whose head has moved, on another grid.

    Returns:
        The scan, and the movement, (4, 4), from positions in the original to those in the result.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", random.uniform(-_DEGREES, _DEGREES, 3), degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + random.uniform(-_MILLIMETRES, _MILLIMETRES, 3)
    grid = scan.affine @ np.diag([*_VOXEL, 1.0])
    shape = tuple(np.ceil(np.array(scan.data.shape) / _VOXEL).astype(int))
    image = resample_from_to(nib.Nifti1Image(scan.data, matrix @ scan.affine), (shape, grid), order=1)
    return replace(scan, data=image.get_fdata(dtype=np.float32), affine=grid, source=image), matrix


def main() -> None:
    """Registers the scans and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--modality", default="t2")
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    rows: list[tuple[float, float, float]] = []
    print("| scan | moved by, mm | error, mm | unmoved: found, mm | error by the movement, mm | s |")
    print("|---|---|---|---|---|---|")
    for file in sorted(given.data.rglob("*_flair.nii.gz"))[: given.patients]:
        like = read_volume(file)
        scan = read_volume(file.with_name(file.name.replace("_flair.", f"_{given.modality}.")))
        centre = nib.affines.apply_affine(like.affine, (np.array(like.data.shape) - 1) / 2)
        other, matrix = moved(scan, centre, random)
        start = time.perf_counter()
        found = align(other, like)
        seconds = time.perf_counter() - start
        unmoved = align(scan, like).matrix
        pairs = ((found.matrix, matrix), (unmoved, np.eye(4)), (found.matrix, matrix @ unmoved))
        rows.append(tuple(mean_distance(one, two, centre) for one, two in pairs))
        print(
            f"| {file.name.removesuffix('_flair.nii.gz')} | {mean_distance(matrix, np.eye(4), centre):.1f} "
            f"| {' | '.join(f'{value:.2f}' for value in rows[-1])} | {seconds:.1f} |",
            flush=True,
        )
    if not rows:
        raise SystemExit(f"{given.data}: no file *_flair.nii.gz")
    for name, values in (("median", np.median(rows, axis=0)), ("largest", np.max(rows, axis=0))):
        print(f"| {name} | | {' | '.join(f'{value:.2f}' for value in values)} | |")


if __name__ == "__main__":
    main()
