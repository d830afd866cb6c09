"""How the mask of a re-oriented or re-gridded copy agrees with the original's.

    python benchmarks/grids.py [SCAN ...] [--model selfseg-flair]

For each copy the mean Dice over the scans (the phantom if none is named), both masks on the copy's grid. "sampled": the
scan interpolated; "averaged": over each larger voxel first, as a scanner does, which blurs it.
"""

import argparse
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from predict import PHANTOM
from scipy import ndimage

from brainseg_tf import saved_model
from brainseg_tf.images.volume import read_volume, write_map
from brainseg_tf.metrics import dice
from brainseg_tf.segmentation import segment

TURNS = {
    "left-handed": [[0, -1], [1, 1], [2, 1]],
    "sagittal order": [[1, 1], [2, -1], [0, 1]],
    "all axes turned": [[2, -1], [0, -1], [1, -1]],
}
# Voxels in mm, tilt in degrees about the left-right axis, order of the axes.
GRIDS = {
    "0.5 x 0.5 x 6 mm, 480 pixels": ((0.5, 0.5, 6.0), 0, (0, 1, 2)),
    "0.94 x 0.94 x 5 mm": ((0.94, 0.94, 5.0), 0, (0, 1, 2)),
    "1 x 1 x 3 mm": ((1.0, 1.0, 3.0), 0, (0, 1, 2)),
    "2 x 2 x 2 mm": ((2.0, 2.0, 2.0), 0, (0, 1, 2)),
    "3.75 x 3.75 x 4 mm, 64 pixels": ((3.75, 3.75, 4.0), 0, (0, 1, 2)),
    "1 x 1 x 4 mm, tilted by 20 degrees": ((1.0, 1.0, 4.0), 20, (0, 1, 2)),
    "sagittal, 1 x 1 x 5 mm": ((1.0, 1.0, 5.0), 0, (1, 2, 0)),
}


def regridded(
    image: nib.Nifti1Image, sizes: tuple[float, ...], degrees: float, order: tuple[int, ...], *, averaged: bool = False
) -> nib.Nifti1Image:
    """The image on another grid over the same field; ``averaged`` over each larger voxel first, as a scanner does."""
    tilt = np.deg2rad(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn[:, order] * sizes
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape])).reshape(3, -1).T
    corners = nib.affines.apply_affine(np.linalg.inv(affine) @ image.affine, corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine[:3, 3] = affine[:3, :3] @ low
    shape = tuple(np.ceil(high - low).astype(int) + 1)
    data = image.get_fdata(dtype=np.float32)
    if averaged:
        # Per axis of the image: the size of the new voxel along the world axis that it runs nearest to.
        world = np.abs(image.affine[:3, :3]).argmax(axis=0)
        wanted = np.abs(turn[:, order] * sizes).max(axis=1)[world]
        data = ndimage.uniform_filter(
            data, np.maximum(1, np.rint(wanted / nib.affines.voxel_sizes(image.affine))).astype(int)
        )
    return resample_from_to(nib.Nifti1Image(data, image.affine), (shape, affine), order=1)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*", type=Path, default=[PHANTOM])
    parser.add_argument("--model", default="selfseg-flair")
    given = parser.parse_args()
    found = saved_model.find(given.model)
    model = found.load()
    with tempfile.TemporaryDirectory() as folder:

        def mask_of(image: nib.Nifti1Image) -> nib.Nifti1Image:
            file, out = Path(folder, "scan.nii"), Path(folder, "mask.nii")
            nib.save(image, file)
            scan = read_volume(file)
            write_map(out, segment([scan], model, found.card).mask, scan)
            written = nib.load(out)
            return nib.Nifti1Image(written.get_fdata(dtype=np.float32), written.affine)

        agreement: dict[str, list[float]] = {}
        for path in given.scans:
            image = nib.load(path)
            image = nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
            mask = mask_of(image)
            for name, turn in TURNS.items():
                turned = mask_of(image.as_reoriented(np.array(turn)))
                there = mask.as_reoriented(np.array(turn))
                agreement.setdefault(name, []).append(dice(turned.get_fdata() > 0, there.get_fdata() > 0))
            brain = nib.Nifti1Image((image.get_fdata() > 0).astype(np.float32), image.affine)
            for name, grid in GRIDS.items():
                inside = regridded(brain, *grid).get_fdata() > 0.5
                there = regridded(mask, *grid).get_fdata() > 0.5
                for how in (False, True):
                    copy = regridded(image, *grid, averaged=how)
                    stripped = np.where(inside, copy.get_fdata(dtype=np.float32), 0)
                    found_there = mask_of(nib.Nifti1Image(stripped, copy.affine)).get_fdata() > 0
                    agreement.setdefault(f"{name}, {'averaged' if how else 'sampled'}", []).append(
                        dice(found_there, there)
                    )
    print("| copy | Dice with the original's mask: mean | lowest |\n|---|---|---|")
    for name, values in agreement.items():
        print(f"| {name} | {np.mean(values):.3f} | {min(values):.3f} |")


if __name__ == "__main__":
    main()
