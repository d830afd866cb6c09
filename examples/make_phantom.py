"""Makes the sample scans: a phantom of a head with FLAIR contrast and lesions, stripped and with skull, and its masks.

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
# Slices of 1 mm below and above the phantom that the head has in addition.
BELOW, ABOVE = 34, 13
# Intensities as in FLAIR: fluid is dark, grey matter slightly brighter than white matter, oedema brighter than both.
FLUID, WHITE, GREY, LESION = 90.0, 330.0, 400.0, 640.0
# Centre in MNI space and mean radius of each lesion, in millimetres.
Lesions = Sequence[tuple[tuple[float, float, float], float]]
# The volumes are about 38, 9 and 2 ml.
LESIONS: Lesions = (((-34, -20, 26), 21.0), ((30, 30, 18), 13.0), ((34, -52, 24), 8.5))


def make(folder: Path, seed: int = SEED, lesions: Lesions = LESIONS, *, head: bool = True) -> None:
    """Writes the stripped phantom and the head, each with its lesions, to a folder.

    ``phantom_flair`` has voxels of 1 mm; ``head_flair`` has slices of 3 mm, and its brain mask is ``head_brain``.

    Args:
        folder: created if it does not exist.
        seed: of all random numbers.
        lesions: centre and radius of each lesion.
        head: whether the head is written too.
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
    if head:
        _make_head(folder, random, signal, brain, truth)
    volumes = np.bincount(ndimage.label(truth)[0].ravel())[1:] / 1000
    print(f"{folder}: {brain.sum() / 1e6:.2f} l of brain, lesions of {', '.join(f'{v:.1f}' for v in volumes)} ml")


def _make_head(
    folder: Path, random: np.random.Generator, signal: np.ndarray, brain: np.ndarray, truth: np.ndarray
) -> None:
    """Writes the phantom with fluid, skull, scalp, eyes, face and neck around the brain, in slices of 3 mm."""
    pad = ((0, 0), (0, 0), (BELOW, ABOVE))
    signal, brain, truth = (np.pad(volume, pad) for volume in (signal, brain, truth))
    affine = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -BELOW], [0, 0, 0, 1]], float)
    left, posterior, superior = np.indices(brain.shape).astype(np.float32) + affine[:3, 3].reshape(3, 1, 1, 1) * (
        np.array([-1, -1, 1]).reshape(3, 1, 1, 1)
    )
    # The skull follows the outer surface of the brain, not its sulci.
    surface = ndimage.gaussian_filter(brain.astype(np.float32), 4) > 0.4
    outside = ndimage.distance_transform_edt(~(surface | brain))
    uneven = 1 + 0.2 * _resized(_field(random, 40.0), brain.shape)
    skull, scalp = 2.5 * uneven, 9.0 * uneven
    skin = scalp + 7 * uneven
    patches = np.digitize(_resized(_field(random, 14.0), brain.shape), (-0.9, 0.2, 1.0))
    soft = np.array([30.0, 260.0, 380.0, 620.0])[patches]
    face = ((left / 62) ** 2 + ((posterior + 48) / 48) ** 2 < 1) & (superior < -22) & (superior > -110)
    neck = ((left / 52) ** 2 + ((posterior - 22) / 50) ** 2 < 1) & (superior < -40)
    head = np.where(face | neck, soft, 0.0)
    head = np.where((outside < skin) & ~(face | neck), 560.0, head)
    head = np.where(outside < scalp, 35.0, head)
    head = np.where((outside > skull + 2) & (outside < scalp - 2), 170.0, head)
    head = np.where(outside < skull, FLUID, head)
    for side in (-1, 1):
        eye = (left - 32 * side) ** 2 + (posterior + 76) ** 2 + (superior + 34) ** 2 < 12**2
        head = np.where(eye & (outside > 1), FLUID, head)
    cord = (left**2 + (posterior - 28) ** 2 < 9**2) & (superior < -50) & (outside > 0)
    head = np.where(cord, WHITE, head)
    head = ndimage.gaussian_filter(np.where(brain, signal, head), 0.6)
    # Slices of 3 mm; the lesions and the brain of a slice are what fills at least half of it.
    thick, inside, lesions = (
        volume[..., : volume.shape[2] // 3 * 3].astype(np.float32).reshape(*volume.shape[:2], -1, 3).mean(axis=3)
        for volume in (head, brain, truth)
    )
    noise = random.normal(0, 9, (2, *thick.shape))
    affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 1], [0, 0, 0, 1]], float)
    box = (slice(24, 216), slice(4, 236))
    affine = affine @ np.array([[1, 0, 0, 24], [0, 1, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    scan = np.hypot(thick + noise[0], noise[1])[box]
    _save(scan.round().astype(np.int16), folder / "head_flair.nii.gz", affine)
    _save((inside[box] > 0.5).astype(np.uint8), folder / "head_brain.nii.gz", affine)
    _save((lesions[box] > 0.5).astype(np.uint8), folder / "head_lesions.nii.gz", affine)


def _resized(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A field on the grid of the phantom, stretched to the grid of the head."""
    return ndimage.zoom(field, [n / m for n, m in zip(shape, field.shape, strict=True)], order=1)


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


def _save(data: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> None:
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "phantom")
