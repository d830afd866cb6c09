"""Agreement of the masks of reoriented and resampled copies of a scan with the mask of the original.

    python benchmarks/grids.py [SCAN ...] [--model selfseg-flair]

The table has the mean and the lowest Dice over the scans (by default the phantom), with both masks on the grid of the
copy. "sampled" copies are interpolated. "averaged" copies are averaged over each larger voxel first, as a scanner does.
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
from brainseg_tf.images.maps import write_map
from brainseg_tf.images.volume import read_volume
from brainseg_tf.metrics import dice
from brainseg_tf.segmentation import segment

ORIENTATIONS = {
    "left-handed": [[0, -1], [1, 1], [2, 1]],
    "sagittal order": [[1, 1], [2, -1], [0, 1]],
    "all axes flipped and permuted": [[2, -1], [0, -1], [1, -1]],
}
# Voxel size in mm, tilt about the left-right axis in degrees, order of the axes.
GRIDS = {
    "0.5 x 0.5 x 6 mm, 480 pixels": ((0.5, 0.5, 6.0), 0, (0, 1, 2)),
    "0.94 x 0.94 x 5 mm": ((0.94, 0.94, 5.0), 0, (0, 1, 2)),
    "1 x 1 x 3 mm": ((1.0, 1.0, 3.0), 0, (0, 1, 2)),
    "2 x 2 x 2 mm": ((2.0, 2.0, 2.0), 0, (0, 1, 2)),
    "3.75 x 3.75 x 4 mm, 64 pixels": ((3.75, 3.75, 4.0), 0, (0, 1, 2)),
    "1 x 1 x 4 mm, tilted by 20 degrees": ((1.0, 1.0, 4.0), 20, (0, 1, 2)),
    "sagittal, 1 x 1 x 5 mm": ((1.0, 1.0, 5.0), 0, (1, 2, 0)),
}


def resampled(
    image: nib.Nifti1Image, sizes: tuple[float, ...], degrees: float, order: tuple[int, ...], *, averaged: bool = False
) -> nib.Nifti1Image:
    """Resamples an image to another grid that covers the same field of view.

    Args:
        image: the image.
        sizes: voxel size in millimetres.
        degrees: tilt of the grid about the left-right axis.
        order: of the axes.
        averaged: whether the image is averaged over each larger voxel before it is interpolated.
    """
    tilt = np.deg2rad(degrees)
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, order] * sizes
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape])).reshape(3, -1).T
    corners = nib.affines.apply_affine(np.linalg.inv(affine) @ image.affine, corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine[:3, 3] = affine[:3, :3] @ low
    shape = tuple(np.ceil(high - low).astype(int) + 1)
    data = image.get_fdata(dtype=np.float32)
    if averaged:
        # For each axis of the image, the size of the new voxels along the closest world axis.
        world = np.abs(image.affine[:3, :3]).argmax(axis=0)
        new_sizes = np.abs(rotation[:, order] * sizes).max(axis=1)[world]
        data = ndimage.uniform_filter(
            data, np.maximum(1, np.rint(new_sizes / nib.affines.voxel_sizes(image.affine))).astype(int)
        )
    return resample_from_to(nib.Nifti1Image(data, image.affine), (shape, affine), order=1)


def main() -> None:
    """Segments the scans and their copies and prints the table."""
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
            for name, orientation in ORIENTATIONS.items():
                mask_of_copy = mask_of(image.as_reoriented(np.array(orientation)))
                expected = mask.as_reoriented(np.array(orientation))
                agreement.setdefault(name, []).append(dice(mask_of_copy.get_fdata() > 0, expected.get_fdata() > 0))
            brain = nib.Nifti1Image((image.get_fdata() > 0).astype(np.float32), image.affine)
            for name, grid in GRIDS.items():
                inside = resampled(brain, *grid).get_fdata() > 0.5
                expected = resampled(mask, *grid).get_fdata() > 0.5
                for averaged in (False, True):
                    copy = resampled(image, *grid, averaged=averaged)
                    stripped = np.where(inside, copy.get_fdata(dtype=np.float32), 0)
                    found_mask = mask_of(nib.Nifti1Image(stripped, copy.affine)).get_fdata() > 0
                    agreement.setdefault(f"{name}, {'averaged' if averaged else 'sampled'}", []).append(
                        dice(found_mask, expected)
                    )
    print("| copy | mean Dice with the mask of the original | lowest |\n|---|---|---|")
    for name, values in agreement.items():
        print(f"| {name} | {np.mean(values):.3f} | {min(values):.3f} |")


if __name__ == "__main__":
    main()
