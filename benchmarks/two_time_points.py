"""How much of a change between two time points is due to the method: copies of one scan, moved and with noise.

    python benchmarks/two_time_points.py [SCAN ...] [--copies 4] [--model selfseg-flair] [--seed 0]

Nothing changes between the copies of a scan but the position of the head (rotation by up to 10 degrees, translation by
up to 50 mm in the scanner's coordinates) and the noise. The first copy is compared with each other one, as by
``brainseg-tf compare``. The first table has the error of the registration on a sphere of 60 mm, and the change of the
lesion volume; the second one has the lesions by status, where every lesion should be stable. Without SCAN the sample
scans are used.
"""

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from brainseg_tf import load_model
from brainseg_tf.images.background import find_background
from brainseg_tf.images.registration import head_centre, mean_distance
from brainseg_tf.images.volume import Volume, read_volume
from brainseg_tf.prediction.comparison import Comparison, compare_time_points, time_point

_DEGREES, _MILLIMETRES = 10.0, 50.0
# Standard deviation of the noise, as a share of the 99th percentile of the scan.
_NOISE = 0.02
_SAMPLES = Path(__file__).parents[1] / "examples" / "phantom"


@dataclass(frozen=True)
class Repeat:
    """The comparison of two copies of a scan, and the error of the registration in millimetres."""

    error_mm: float
    result: Comparison


def copy(scan: Volume, random: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """A scan whose head has moved, with noise.

    Returns:
        The scan, and the movement, (4, 4), from positions in the original to those in the copy.
    """
    centre = head_centre(scan)
    axis = random.normal(size=3)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(
        axis / np.linalg.norm(axis) * random.uniform(0, _DEGREES), degrees=True
    ).as_matrix()
    # The head moves by some millimetres within the field of view, and the field of view moves further.
    turn[:3, 3] = centre - turn[:3, :3] @ centre + random.uniform(-5, 5, 3)
    shift = np.eye(4)
    shift[:3, 3] = random.uniform(-1, 1, 3) * _MILLIMETRES / np.sqrt(3)
    grid, matrix = shift @ scan.affine, shift @ turn
    stripped = find_background(scan.data)
    data, tissue = (
        resample_from_to(nib.Nifti1Image(values, matrix @ scan.affine), (scan.data.shape, grid), order=order).get_fdata(
            dtype=np.float32
        )
        for values, order in ((scan.data, 3), ((scan.data != 0).astype(np.float32), 1))
    )
    noise = random.normal(0, _NOISE * np.percentile(scan.data, 99), (2, *data.shape))
    data = np.hypot(data + noise[0], noise[1]).astype(np.float32)
    if stripped is not None:
        data[tissue < 0.5] = 0
    return replace(scan, data=data, affine=grid), matrix


def main() -> None:
    """Compares the copies and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*", type=Path, default=sorted(_SAMPLES.glob("*_flair.nii.gz")))
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--model", default="selfseg-flair")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    predictor = load_model(given.model).predictor
    counts: Counter[str] = Counter()
    errors: list[float] = []
    changes: list[float] = []
    print("| scan | lesion, ml | error of the registration, mm | correlation | change of the volume, % |")
    print("|---|---|---|---|---|")
    for number, path in enumerate(given.scans, 1):
        scan = read_volume(path)
        copies = [copy(scan, random) for _ in range(given.copies)]
        points = [time_point(moved, None, predictor) for moved, _ in copies]
        repeats = []
        for point, (_, matrix) in zip(points[1:], copies[1:], strict=True):
            result = compare_time_points(points[0], point)
            true = matrix @ np.linalg.inv(copies[0][1])
            error = mean_distance(result.alignment.matrix, true, head_centre(copies[0][0]))
            repeats.append(Repeat(error, result))
            counts.update(result.counts)
        percents = [one.result.change_percent for one in repeats if one.result.change_percent is not None]
        errors += [one.error_mm for one in repeats]
        changes += percents
        print(
            f"| {number} | {points[0].lesion_ml:.1f} | {', '.join(f'{one.error_mm:.2f}' for one in repeats)} | "
            f"{min(one.result.correlation for one in repeats):.2f} | {', '.join(f'{one:+.1f}' for one in percents)} |",
            flush=True,
        )
    sizes = np.abs(changes) if changes else np.zeros(1)
    print(f"\nerror of the registration: median {np.median(errors):.2f} mm, largest {max(errors):.2f} mm")
    print(f"absolute change: median {np.median(sizes):.1f} %, 95th percentile {np.percentile(sizes, 95):.1f} %")
    print("lesions: " + ", ".join(f"{count} {status}" for status, count in counts.items() if count))


if __name__ == "__main__":
    main()
