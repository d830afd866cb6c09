"""Makes the sample scan: a phantom of a head with FLAIR contrast and lesions, and its ground truth.

    pip install brainseg-tf[examples]
    python examples/make_phantom.py [FOLDER]

The anatomy is the MNI ICBM152 2009a grey and white matter template in nilearn's wheel, which needs no download. Its
copyright notice is in ``phantom/README.md``. The template is deformed by a smooth random warp. Warp, texture, bias
field, noise and lesions are random with a fixed seed. No image of a patient is used.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template
from scipy import ndimage

SEED = 7
SHAPE = (240, 240, 155)
# The geometry of a BraTS volume: LPS axes, voxels of 1 mm, the brain near the centre of the grid.
AFFINE = np.array([[-1, 0, 0, 120], [0, -1, 0, 103], [0, 0, 1, -68], [0, 0, 0, 1]], float)
# Intensities as in FLAIR: fluid is dark, grey matter slightly brighter than white matter, oedema brighter than both.
FLUID, WHITE, GREY, LESION = 90.0, 330.0, 400.0, 640.0
# Centre in MNI space and mean radius of each lesion, in millimetres.
Lesions = Sequence[tuple[tuple[float, float, float], float]]
# The volumes are about 38, 9 and 2 ml.
LESIONS: Lesions = (((-34, -20, 26), 21.0), ((30, 30, 18), 13.0), ((34, -52, 24), 8.5))


def make(folder: Path, seed: int = SEED, lesions: Lesions = LESIONS) -> None:
    """Writes ``phantom_flair.nii.gz`` and ``phantom_lesions.nii.gz`` to a folder.

    Args:
        folder: created if it does not exist.
        seed: of all random numbers.
        lesions: centre and radius of each lesion.
    """
    random = np.random.default_rng(seed)
    warp = [4.0 * _field(random, 12.0) for _ in range(3)]
    grey, white = (_warped(template, warp) for template in (load_mni152_gm_template(1), load_mni152_wm_template(1)))
    brain = ndimage.binary_fill_holes(ndimage.binary_opening(grey + white > 0.35, iterations=2))
    brain = ndimage.binary_closing(brain, iterations=4) & (ndimage.gaussian_filter(brain.astype(float), 2) > 0.45)
    grey, white = grey * brain, white * brain
    fluid = np.clip(1 - grey - white, 0, 1)

    lesion = np.zeros(SHAPE)
    for centre, radius in lesions:
        lesion = np.maximum(lesion, _lesion(random, np.array(centre, float), radius))
    # Lesions are in tissue, not in ventricles and sulci.
    lesion *= np.clip((grey + white - 0.3) / 0.4, 0, 1)

    tissue = grey * GREY + white * WHITE + fluid * FLUID
    tissue *= 1 + 0.04 * _field(random, 3.0)
    signal = tissue + lesion * (LESION * (1 + 0.12 * _field(random, 4.0)) - tissue)
    signal = ndimage.gaussian_filter(signal, 0.6) * np.exp(0.08 * _field(random, 45.0))
    noise = random.normal(0, 9, (2, *SHAPE))
    scan = np.where(brain, np.hypot(signal + noise[0], noise[1]), 0)

    folder.mkdir(parents=True, exist_ok=True)
    _save(scan.round().astype(np.int16), folder / "phantom_flair.nii.gz")
    truth = (lesion > 0.5) & brain
    _save(truth.astype(np.uint8), folder / "phantom_lesions.nii.gz")
    volumes = np.bincount(ndimage.label(truth)[0].ravel())[1:] / 1000
    print(f"{folder}: {brain.sum() / 1e6:.2f} l of brain, lesions of {', '.join(f'{v:.1f}' for v in volumes)} ml")


def _field(random: np.random.Generator, millimetres: float) -> np.ndarray:
    """A smooth random field with this correlation length, mean 0 and standard deviation 1."""
    coarse = [max(4, round(n / millimetres) + 3) for n in SHAPE]
    field = ndimage.zoom(random.normal(size=coarse), [n / m for n, m in zip(SHAPE, coarse, strict=True)], order=3)
    return (field - field.mean()) / field.std()


def _warped(template: nib.Nifti1Image, warp: list[np.ndarray]) -> np.ndarray:
    """A template on the grid of the phantom, deformed by displacement fields in voxels."""
    data = resample_from_to(template, (SHAPE, AFFINE), order=1).get_fdata()
    coordinates = np.indices(SHAPE) + np.stack([ndimage.gaussian_filter(field, 6) for field in warp])
    return np.clip(ndimage.map_coordinates(data, coordinates, order=1), 0, 1)


def _lesion(random: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    """The share of lesion in each voxel: a ball with an irregular surface and a gradual boundary."""
    voxel = nib.affines.apply_affine(np.linalg.inv(AFFINE), centre)
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(SHAPE), voxel, strict=True)))
    irregular_radius = radius * (1 + 0.18 * _field(random, 14.0) + 0.08 * _field(random, 6.0))
    return 1 / (1 + np.exp((distance - irregular_radius) / 0.9))


def _save(data: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(data, AFFINE)
    image.set_sform(AFFINE, code=1)
    image.set_qform(AFFINE, code=1)
    nib.save(image, path)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "phantom")
