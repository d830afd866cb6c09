"""Synthetic brains: small volumes, made here, with odd shapes and grids."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the command does; tests/run.sh runs the tests marked ``cpu`` without oneDNN too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# XLA would take half of the tests' time to compile corruptions that are used for seconds; in the processes that tests
# start too, since a corruption with XLA rounds differently. test_corruption compares both.
os.environ["BRAINSEG_XLA"] = "0"

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock
from scipy import ndimage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests are for whoever asks for them."""
    if not os.environ.get("BRAINSEG_SLOW"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: set BRAINSEG_SLOW=1"))


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
    brain = radius < 1
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


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scan with a lesion."""
    return save(make_brain(1)[0], tmp_path / "scan.nii.gz")


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three scans with a lesion each."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(3):
        save(make_brain(number)[0], folder / f"sub-{number:02}_FLAIR.nii.gz")
    return folder


@pytest.fixture(scope="session")
def brats_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of eight synthetic patients in the BraTS 2019 layout, with FLAIR, T2 and segmentation."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID"]
    for number in range(8):
        grade, name = ("HGG", "LGG")[number % 4 == 3], f"BraTS19_TEST_{number:02}_1"
        flair, truth = make_brain(number)
        place = folder / grade / name
        save(flair.astype(np.int16), place / f"{name}_flair.nii.gz")
        save((flair * 0.8 + 50 * (flair > 0)).astype(np.int16), place / f"{name}_t2.nii.gz")
        save(truth.astype(np.uint8) * 4, place / f"{name}_seg.nii.gz")
        rows.append(f"{grade},NA,NA,NA,{name}")
    (folder / "name_mapping.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def trained(brats_like: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small CVAE that was really trained on the synthetic cohort; one for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    out = shared / "runs" / "small"
    with FileLock(shared / "runs.lock"):
        if not (out / "1" / "saved_model.pb").is_file():
            from brainseg_tf.training.fit import RunSettings, fit

            out.parent.mkdir()
            fit(brats_like, out, small_options(), RunSettings(say=lambda line: None, verbose=0))
    return out


@pytest.fixture(scope="session")
def repository(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as a server reads it: ``small`` in the versions 1 and 2."""
    from brainseg_tf.saved_model import find
    from brainseg_tf.serving.repository import publish

    folder = tmp_path_factory.mktemp("repository")
    for version in (1, 2):
        publish(find(str(trained)), folder, version)
    return folder


@pytest.fixture(scope="session")
def served_models(repository: Path) -> "object":
    """The repository, loaded for a stand-in server."""
    from stand_in import Models

    return Models(repository, {"small": {"stable": 1, "canary": 2}})


@pytest.fixture
def server(served_models: "object") -> Iterator["object"]:
    """A stand-in server of these models."""
    from stand_in import StandIn

    with StandIn(served_models) as running:
        yield running


@pytest.fixture
def urls(server: "object") -> dict[str, str]:
    """Where it is asked, by scheme."""
    return dict(zip(("grpc", "http"), server.urls(), strict=True))


@pytest.fixture(scope="session")
def real_patients() -> Path:
    """The folder of real BraTS patients; without it the test is skipped, saying so."""
    named = os.environ.get("BRAINSEG_BRATS")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data" / "brats"
    if not folder.is_dir():
        pytest.skip("no real patients: set BRAINSEG_BRATS to a folder in the BraTS 2019 layout")
    return folder


def small_options(**changes: object) -> "object":
    """Options of a run that takes seconds."""
    from brainseg_tf.options import FitOptions, SliceOptions

    slices = SliceOptions(size=48, spacing=5.0, min_brain=0.05, central=1.0)
    base = {"epochs": 40, "batch": 8, "learning_rate": 3e-3, "slices": slices, "patience": 40}
    return FitOptions(**(base | changes))


@pytest.fixture
def brain_maker() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return make_brain
