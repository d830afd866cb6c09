"""What several test modules share: synthetic brains, damaged files, commands as a user runs them."""

import csv
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from click.testing import CliRunner, Result
from nibabel.processing import resample_from_to
from scipy import ndimage
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from brainseg_tf.evaluation.case_metrics import Case
    from brainseg_tf.postprocessing.lesions import Lesion

ROOT = Path(__file__).parents[1]
# A filter that is fast on small scans.
FAST = ("--median", "3")
AFFINE = np.array([[-4.0, 0, 0, 84], [0, -4.2, 0, 96], [0, 0, 5.0, -50], [0, 0, 0, 1]])
SHAPE = (43, 47, 23)


def make_brain(
    seed: int = 0, lesion: bool = True, shape: tuple[int, int, int] = SHAPE
) -> tuple[np.ndarray, np.ndarray]:
    """A scan and its lesion mask, both (X, Y, Z) on the grid of ``AFFINE``: a textured ellipsoid with a bright ball.

    Returns:
        float32 with background 0, and bool. The lesion lies in the upper half.
    """
    random = np.random.default_rng(seed)
    index = np.stack(np.indices(shape), axis=-1)
    middle = (np.array(shape) - 1) / 2
    radius = np.linalg.norm((index - middle) / (0.42 * np.array(shape)), axis=-1)
    # Without a piece at the front and below: a brain is not symmetric along these axes.
    brain = (radius < 1) & ((index[..., 1] > middle[1] - 5) | (index[..., 2] > middle[2] - 3))
    texture = ndimage.gaussian_filter(random.normal(size=shape), 1.5)
    scan = 300 + 40 * texture / texture.std() - 60 * (radius < 0.35)
    truth = np.zeros(shape, bool)
    if lesion:
        centre = middle + np.array([random.choice([-8, 8]), random.uniform(-5, 5), 3])
        distance = np.linalg.norm((index - centre) * np.abs(np.diag(AFFINE)[:3]), axis=-1)
        truth = (distance < 19) & brain
        scan[truth] += 330
    scan += random.normal(0, 6, shape)
    return np.where(brain, np.maximum(scan, 1), 0).astype(np.float32), truth


def save(data: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> Path:
    """Writes NIfTI; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data.astype(np.uint8) if data.dtype == bool else data
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


# Centre in millimetres, and radius at both time points, of the lesions of ``make_two_sessions``; 0 for no lesion.
TWO_SESSIONS = {
    "grown": ((-25, 10, 8), 12.0, 16.0),
    "stable": ((30, 15, 5), 11.0, 11.0),
    "gone": ((20, -35, 0), 9.0, 0.0),
    "new": ((-20, -35, 5), 0.0, 10.0),
}


@dataclass(frozen=True)
class TwoSessions:
    """The files of ``make_two_sessions``, and the movement of the head from the first session to the second, (4, 4)."""

    before: Path
    after: Path
    before_mask: Path
    after_mask: Path
    matrix: np.ndarray


def make_two_sessions(folder: Path, degrees: float = 12.0) -> TwoSessions:
    """Two scans of a textured head with the lesions of ``TWO_SESSIONS``, and their masks.

    The axes of the grids are not those of LPS. In the second session the head is rotated by ``degrees``, and its
    coordinates are 80 mm away.
    """
    random = np.random.default_rng(0)
    grid = np.array([[0, 2.5, 0, -70], [-2.5, 0, 0, 80], [0, 0, 2.5, -60], [0, 0, 0, 1.0]])
    shape = (64, 56, 50)
    centre = nib.affines.apply_affine(grid, (np.array(shape) - 1) / 2)
    index = np.stack(np.indices(shape), axis=-1)
    radius = np.linalg.norm((index - np.array(shape) / 2) / (np.array(shape) * [0.4, 0.36, 0.38]), axis=-1)
    tissue = ndimage.gaussian_filter(random.normal(size=shape), 2.0)
    # A piece at the front is missing: a head is not symmetric.
    inside = (radius < 1) & ((index[..., 0] > 12) | (index[..., 2] > 25))
    head = ndimage.gaussian_filter((100 + 300 * np.clip(0.5 + tissue / tissue.std() / 4, 0, 1)) * inside, 0.8)
    matrix = np.eye(4)
    angles = np.radians(np.array([1, -0.5, 0.8]) * degrees)
    matrix[:3, :3] = Rotation.from_rotvec(angles).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + [60, -50, 20]
    second = grid.copy()
    second[:3, 3] += [57, -48, 22]
    files = []
    for number, (name, affine, moved) in enumerate((("before", grid, np.eye(4)), ("after", second, matrix))):
        image = resample_from_to(nib.Nifti1Image(head, moved @ grid), (shape, affine), order=1).get_fdata()
        # Where each voxel's tissue was in the first session.
        points = nib.affines.apply_affine(np.linalg.inv(moved) @ affine, index)
        lesion = np.zeros(shape, bool)
        for place, *radii in TWO_SESSIONS.values():
            lesion |= np.linalg.norm(points - place, axis=-1) < radii[number]
        image[lesion] += 250
        image += random.normal(0, 2, shape) * (image > 50)
        files += [save(np.maximum(image, 0).astype(np.float32), folder / f"{name}.nii.gz", affine)]
        files += [save(lesion, folder / f"{name}_mask.nii.gz", affine)]
    return TwoSessions(files[0], files[2], files[1], files[3], matrix)


def heads(count: int = 16, size: int = 64, channels: int = 2) -> "object":
    """Circular brains with a homogeneous texture; 0 outside."""
    import tensorflow as tf

    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    texture = 0.3 + 0.03 * np.random.default_rng(0).standard_normal((count, size, size, channels))
    return tf.constant(texture * ((x**2 + y**2) < (0.4 * size) ** 2)[None, ..., None], tf.float32)


def small_options(**changes: object) -> "object":
    """Options of a run that takes seconds."""
    from brainseg_tf.options import FitOptions, SliceOptions

    slices = SliceOptions(size=48, spacing=5.0, min_brain=0.05, central=1.0)
    base = {"epochs": 40, "batch": 8, "learning_rate": 3e-3, "slices": slices, "patience": 40}
    return FitOptions(**(base | changes))


def call(*arguments: object) -> Result:
    from brainseg_tf_cli.main import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fails(result: Result, code: int = 1) -> str:
    """The one line on stderr of a failed command."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def rows(out):
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def masks(out):
    return {file.name: np.asarray(nib.load(file).dataobj) for file in sorted(out.rglob("*_mask.nii.gz"))}


def as_itk(data, affine, path):
    """Writes with SimpleITK what nibabel would call (data, affine)."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(data.T))
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:, 3].tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


@contextmanager
def somebody_else(folder):
    """Runs a block as a user without rights; root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


LARGE = np.diag([10.0, 10, 10, 1])


def damaged(folder: Path, what: str) -> Path:
    file = folder / f"{what.replace(' ', '_')}.nii.gz"
    data = np.random.default_rng(0).random((12, 11, 10)).astype(np.float32)
    if what == "empty":
        file.touch()
    elif what == "text":
        file.write_text("this is no image")
    elif what == "truncated":
        nib.save(nib.Nifti1Image(data, LARGE), file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif what == "truncated nii":
        file = file.with_suffix("")
        nib.save(nib.Nifti1Image(data, LARGE), file)
        file.write_bytes(file.read_bytes()[:-100])
    elif what == "4D":
        nib.save(nib.Nifti1Image(np.stack([data, data], -1), LARGE), file)
    elif what == "2D":
        nib.save(nib.Nifti1Image(data[..., 0], LARGE), file)
    elif what == "zero":
        nib.save(nib.Nifti1Image(data * 0, LARGE), file)
    elif what == "constant":
        nib.save(nib.Nifti1Image(data * 0 + 3, LARGE), file)
    elif what == "nan":
        data[3, 3, 3] = np.nan
        nib.save(nib.Nifti1Image(data, LARGE), file)
    elif what == "infinite":
        data[3, 3, 3] = np.inf
        nib.save(nib.Nifti1Image(data, LARGE), file)
    elif what == "colour":
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), LARGE), file)
    elif what == "no affine":
        image = nib.Nifti1Image(data, None)
        image.header["srow_x"], image.header["sform_code"] = 0, 1
        nib.save(image, file)
    elif what == "flat axes":
        nib.save(nib.Nifti1Image(data, LARGE + 1e6 * np.eye(4)[[1, 0, 3, 2]] @ np.diag([1, 0, 0, 0])), file)
    elif what == "metres":
        nib.save(nib.Nifti1Image(data, np.diag([500, 500, 500, 1])), file)
    elif what == "huge":
        header = nib.Nifti1Header()
        header.set_data_shape((30000, 30000, 30000))
        header["magic"], header["vox_offset"] = b"n+1", 352
        file = file.with_suffix("")
        file.write_bytes(header.binaryblock + bytes(100))
    elif what == "negative":
        file = file.with_suffix("")
        nib.save(nib.Nifti1Image(data, LARGE), file)
        content = bytearray(file.read_bytes())
        content[42:44] = (-12).to_bytes(2, "little", signed=True)  # dim[1]
        file.write_bytes(content)
    elif what == "folder":
        file.mkdir()
    return file


DAMAGES = {
    "missing": "no such file",
    "folder": "is a folder",
    "empty": r"is empty \(0 bytes\)",
    "text": "not a readable NIfTI file",
    "truncated": "damaged or cut off",
    "truncated nii": "damaged or cut off",
    "4D": r"has shape \(12, 11, 10, 2\); one 3D volume is needed",
    "2D": r"has shape \(12, 11\)",
    "zero": "is 0 everywhere",
    "constant": "is 3 everywhere",
    "nan": "NaN or infinite",
    "infinite": "NaN or infinite",
    "colour": "colours or complex",
    "no affine": "no usable orientation",
    "flat axes": "no usable orientation",
    "metres": "claims a field of 6 m",
    "huge": "which no brain scan has",
    "negative": "which no brain scan has|not a readable NIfTI file",
}


def lesion(ml: float) -> "Lesion":
    """A lesion in a report."""
    from brainseg_tf.postprocessing.lesions import Lesion

    return Lesion(ml, (1.0, 2.0, 3.0), "left", 0.1, 0.9, 0.8, 1.5, (0.0, 0.0, 0.0), "frontal", 5.0)


def random_case(seed: int = 0) -> "Case":
    """A small patient of random voxels."""
    from brainseg_tf.evaluation.case_metrics import Case

    random = np.random.default_rng(seed)
    truth = random.random((6, 7, 8)) > 0.5
    truth[..., 6:] = False
    brain = truth | (random.random(truth.shape) > 0.2)
    return Case("p", truth, brain, np.arange(8) > 1, (1.0, 1.5, 2.0))
