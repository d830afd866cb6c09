"""Comparison of the mixture with other packages on one residual volume of 240 x 240 x 155 voxels.

    pip install '.[benchmarks]'
    python benchmarks/mixture.py [SCAN TRUTH]

The residual is the weighted residual of ``cvae`` for the scan (by default the phantom), on the grid of the scan. Each
method divides the voxels of the brain into three components or classes. The brightest is taken as the lesion, without
any further processing. Seconds are those of the fastest of three runs, or of a single run if it takes more than 10 s.
The Dice is with the ground truth. Packages that are not installed are left out.
"""

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from brainseg_tf import saved_model, segmentation
from brainseg_tf.brain.mask import brain_mask
from brainseg_tf.images.volume import read_mask, read_volume
from brainseg_tf.metrics import dice
from brainseg_tf.options import MixtureOptions
from brainseg_tf.postprocessing.mixture import fit_mixture
from brainseg_tf.slices import from_stack, to_stack

PHANTOM = Path(__file__).parents[1] / "examples" / "phantom"
COMPONENTS = 3


def brainseg(score: np.ndarray, inside: np.ndarray, neighbourhood: int = 3) -> np.ndarray:
    """The mixture of this package, with neighbourhood weights."""
    mixture = fit_mixture(score, inside, COMPONENTS, MixtureOptions(neighbourhood=neighbourhood))
    return mixture.posterior[mixture.lesion] > 0.5


def sklearn(score: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The mixture of scikit-learn, which has no neighbourhood weights."""
    from sklearn.mixture import GaussianMixture

    values = score[inside][:, None]
    mixture = GaussianMixture(COMPONENTS, random_state=0).fit(values)
    return _filled(inside, mixture.predict(values) == np.argmax(mixture.means_[:, 0]))


def dipy(score: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The hidden Markov random field of dipy."""
    from dipy.segment.tissue import TissueClassifierHMRF

    image = np.where(inside, score + 1e-3, 0).astype(np.float64)
    # Classes are numbered in the order of their means; the background is 0.
    _, classes, _ = TissueClassifierHMRF(verbose=False).classify(image, COMPONENTS, 0.1)
    return (classes == COMPONENTS) & inside


def ants(score: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Atropos of ANTs with its default Markov random field."""
    import ants

    image, mask = ants.from_numpy(score.astype(np.float32)), ants.from_numpy(inside.astype(np.float32))
    found = ants.atropos(a=image, x=mask, i=f"Kmeans[{COMPONENTS}]", m="[0.1,1x1x1]", c="[5,0]")
    return found["segmentation"].numpy() == COMPONENTS


def _filled(inside: np.ndarray, values: np.ndarray) -> np.ndarray:
    mask = np.zeros(inside.shape, bool)
    mask[inside] = values
    return mask


def residual(scan_file: Path, truth_file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The score, the mask of the voxels that are classified, and the ground truth, each (X, Y, Z)."""
    scan = read_volume(scan_file)
    brain = brain_mask(scan)
    found = saved_model.find("cvae")
    stack = to_stack([scan], brain, found.card.slices, found.card.trim)
    options = segmentation.SegmentationOptions()
    outline = segmentation.segment_slices(stack, found.load(), found.card, options).outline
    inside = from_stack(outline.inside.astype(np.float32), stack, scan) > 0.5
    score = from_stack(outline.score, stack, scan)
    return score, inside & brain, read_mask(truth_file, scan) > 0


def timed(method: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds of the fastest run, and the result."""
    best, runs = float("inf"), 0
    while runs < 3 and not (runs and best > 10):
        start = time.perf_counter()
        found = method()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best, found


def main() -> None:
    """Runs the methods and prints the table."""
    files = [Path(name) for name in sys.argv[1:3]] or [
        PHANTOM / "phantom_flair.nii.gz",
        PHANTOM / "phantom_lesions.nii.gz",
    ]
    score, inside, truth = residual(*files)
    print(f"{' x '.join(map(str, score.shape))} voxels, {inside.sum()} of them within the brain\n")
    print("| method | seconds | ratio to brainseg-tf | Dice |\n|---|---|---|---|")
    first = None
    methods = {
        "brainseg-tf": brainseg,
        "brainseg-tf without neighbourhood": lambda score, inside: brainseg(score, inside, 1),
        "scikit-learn GaussianMixture": sklearn,
        "dipy TissueClassifierHMRF": dipy,
        "ANTs Atropos": ants,
    }
    for name, method in methods.items():
        if method in (dipy, ants) and importlib.util.find_spec(method.__name__) is None:
            continue
        seconds, found = timed(lambda method=method: method(score, inside))
        first = first or seconds
        print(f"| {name} | {seconds:.2f} | {seconds / first:.1f} | {dice(found, truth):.3f} |", flush=True)


if __name__ == "__main__":
    main()
