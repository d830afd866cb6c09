"""Synthetic brains: small volumes, made here, with odd shapes and grids."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the command does; tests/run.sh runs the tests marked ``cpu`` without oneDNN too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# XLA would take half of the tests' time to compile corruptions that are used for seconds; in the processes that tests
# start too, since a corruption with XLA rounds differently. test_corruption compares both.
os.environ["BRAINSEG_XLA"] = "0"

import numpy as np
import pytest
from filelock import FileLock

from browsing import CHROMIUM, DRIVER
from helpers import TwoSessions, make_brain, make_two_sessions, save, small_options


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips exhaustive tests unless they are asked for, and marks what drives a browser as slow."""
    for item in items:
        if item.get_closest_marker("exhaustive") and not os.environ.get("BRAINSEG_EXHAUSTIVE"):
            item.add_marker(pytest.mark.skip(reason="exhaustive: set BRAINSEG_EXHAUSTIVE=1"))
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


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
def sessions(tmp_path_factory: pytest.TempPathFactory) -> TwoSessions:
    """Two scans of one head with masks; a lesion has grown, one is stable, one is gone and one is new."""
    return make_two_sessions(tmp_path_factory.mktemp("sessions"))


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

            out.parent.mkdir(exist_ok=True)
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
def real_heads() -> Path:
    """The folder of real heads, by kind of disease; without it the test is skipped, saying so."""
    named = os.environ.get("BRAINSEG_HEADS")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data" / "heads"
    if not folder.is_dir():
        pytest.skip("no real heads: set BRAINSEG_HEADS to a folder that has glioma/PATIENT/PATIENT_flair.nii.gz")
    return folder


@pytest.fixture
def brain_maker() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return make_brain


@pytest.fixture
def open_folder():
    """A folder that everybody can enter; pytest's own is for its user only."""
    folder = Path(tempfile.mkdtemp(prefix="brainseg-tf-test-"))
    folder.chmod(0o755)
    yield folder
    for place in (folder, *folder.iterdir()):
        place.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium, which logs all requests and console messages."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    quiet = ("disable-background-networking", "disable-component-update", "disable-sync", "no-first-run")
    software = ("use-gl=angle", "use-angle=swiftshader", "enable-unsafe-swiftshader", "ignore-gpu-blocklist")
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless=new", "no-sandbox", "window-size=1200,1400", *quiet, *software):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={profile}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def without_webgl(browser):
    """Disables WebGL, because the viewer takes seconds to draw without a GPU."""
    added = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "HTMLCanvasElement.prototype.getContext = () => null"}
    )
    yield
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]})


@pytest.fixture
def short_delays(monkeypatch):
    """Shortens the delays between attempts."""
    monkeypatch.setattr("brainseg_tf.serving.remote._FIRST_DELAYS", (0.01,))
    monkeypatch.setattr("brainseg_tf.serving.remote._LATER_DELAYS", (0.01, 0.01))


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
