"""The pages: what is in them, and what a real browser makes of them."""

import base64
import gzip
import json
import re
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_cli import FAST, call, fails

from brainseg_tf import pages
from brainseg_tf.batch import Outcome
from brainseg_tf.pages.index import outliers, write_index
from brainseg_tf.prediction import Job
from conftest import AFFINE, make_brain, save

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory) -> Path:
    """The page of a scan whose name and header are full of what must not become HTML."""
    folder = tmp_path_factory.mktemp("page")
    image = nib.Nifti1Image(make_brain(101)[0], AFFINE)
    image.header["descrip"], image.header["db_name"] = b"<b>DOE^JOHN", b"DOE^JOHN"
    image.header["aux_file"], image.header["intent_name"] = b"DOE^JOHN", b"DOE^JOHN"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    scan = folder / "<img src=x onerror=alert(1)>.nii.gz"
    nib.save(image, scan)
    result = call("predict", scan, "--out", folder / "m.nii.gz", "--model", trained, "--html", folder / "p.html", *FAST)
    assert result.exit_code == 0, result.output
    return folder / "p.html"


def layers(page: Path) -> dict[str, dict[str, object]]:
    found = re.search(r'id="layers">(.*?)</script>', page.read_text(encoding="utf-8"))
    return {one["name"]: one for one in json.loads(found.group(1))}


def volume(layer: dict[str, object]) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layer["nifti"])))


def test_the_page_holds_the_scan_and_its_maps_and_nothing_else_of_the_file(page):
    text = page.read_text(encoding="utf-8")
    assert "DOE^JOHN" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.nii.gz" in text
    assert "not a medical device" in text
    found = layers(page)
    assert list(found) == ["scan", "lesion", "residual", "probability"]
    for layer in found.values():
        assert b"DOE^JOHN" not in gzip.decompress(base64.b64decode(layer["nifti"]))
    scan, lesion = volume(found["scan"]), volume(found["lesion"])
    assert scan.shape == lesion.shape
    np.testing.assert_array_equal(scan.affine, lesion.affine)
    mask = nib.load(page.with_name("m.nii.gz"))
    # Cropped, and in its place: the lesion's voxels lie where the mask's do.
    ours, theirs = (nib.affines.apply_affine(one.affine, np.argwhere(one.get_fdata() > 0.5)) for one in (lesion, mask))
    np.testing.assert_allclose(sorted(map(tuple, ours)), sorted(map(tuple, theirs)), atol=1e-3)
    data = nib.load(page.with_name("<img src=x onerror=alert(1)>.nii.gz"))
    inside = theirs.mean(axis=0)
    places = (np.rint(nib.affines.apply_affine(np.linalg.inv(one.affine), inside)).astype(int) for one in (scan, data))
    levels = [image.get_fdata()[tuple(place)] for image, place in zip((scan, data), places, strict=True)]
    assert levels[0] == pytest.approx(levels[1], abs=(found["scan"]["high"] - found["scan"]["low"]) / 200)


def test_the_report_says_on_which_side_a_lesion_lies(scan, trained, tmp_path):
    result = call(
        "predict", scan, "--out", tmp_path / "m.nii", "--model", trained, "--report", tmp_path / "r.json", *FAST
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    (lesion, *_) = report["lesions"]
    brain = nib.load(scan).get_fdata() > 0
    middle = nib.affines.apply_affine(AFFINE, np.argwhere(brain).mean(axis=0))[0]
    assert lesion["side"] == ("left" if lesion["centroid_mm"][0] < middle else "right")
    assert lesion["mean_residual"] > 0.1
    assert report["brain"]["ml"] == pytest.approx(brain.sum() * 0.084, rel=0.01)


@pytest.mark.parametrize("package", ["nilearn", "jinja2"])
def test_without_the_extra_nothing_is_begun(scan, tmp_path, monkeypatch, package):
    found = pages.importlib.util.find_spec
    monkeypatch.setattr(pages.importlib.util, "find_spec", lambda name: None if name == package else found(name))
    error = fails(call("predict", scan, "--out", tmp_path / "m.nii.gz", "--html", tmp_path / "p.html"))
    assert "pip install 'brainseg-tf[report]'" in error
    assert list(tmp_path.iterdir()) == [scan]


def test_many_scans_get_an_index_and_a_page_each(trained, scans, tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(scans, folder)
    (folder / "sub-00_FLAIR.nii.gz").write_bytes(b"nonsense")
    save(make_brain(5, lesion=False)[0], folder / "sub-03_FLAIR.nii.gz")
    out, index = tmp_path / "out", tmp_path / "index.html"
    arguments = ("predict", folder, "--out-dir", out, "--model", trained, "--html", index, *FAST)
    assert call(*arguments).exit_code == 1
    text = index.read_text(encoding="utf-8")
    names = re.findall(r">(sub-\d+_FLAIR\.nii\.gz)<", text)
    assert names[0] == "sub-00_FLAIR.nii.gz"
    assert sorted(set(names)) == [f"sub-{number:02}_FLAIR.nii.gz" for number in range(4)]
    assert "is not a readable NIfTI file" in text
    linked = set(re.findall(r'(?:href|src)="(?!data:)([^"]+)"', text))
    assert linked == {f"out/sub-{n:02}_FLAIR{kind}" for n in (1, 2, 3) for kind in (".html", "_thumbnail.png")}
    assert all((tmp_path / link).is_file() for link in linked)
    # A page that is gone is made again; an index is not replaced unasked.
    (out / "sub-01_FLAIR.html").unlink()
    assert "give --continue" in call(*arguments).stderr
    assert call(*arguments, "--continue").exit_code == 1
    assert (out / "sub-01_FLAIR.html").is_file()


def report(ml: float = 20.0, brain: float = 1400.0, median: float = 300.0) -> dict[str, object]:
    return {
        "lesion_ml": ml,
        "lesions": [{}],
        "components": 1,
        "brain": {"ml": brain, "median_intensity": median},
        "warnings": [],
        "model": {"name": "m", "version": 1},
    }


def test_outliers_are_what_lies_far_from_the_others(tmp_path):
    usual = [report(20 + n, 1400 + 10 * n, 300 + 5 * n) for n in range(9)]
    assert not any(outliers(usual))
    odd = [*usual, report(ml=400), report(median=30000), report(brain=300)]
    assert outliers(odd)[:9] == [[]] * 9
    assert [set(mark) for mark in outliers(odd)[9:]] == [
        {"lesion volume", "share of brain"},
        {"intensity scale"},
        {"brain volume", "share of brain"},
    ]
    # Too few to say what is usual.
    assert outliers([report(), report(), report(ml=400)]) == [[], [], []]
    outcomes = [Outcome(Job(Path(f"{n}.nii.gz"), Path(f"{n}_mask.nii.gz")), one) for n, one in enumerate(odd)]
    write_index(tmp_path / "i.html", outcomes)
    text = (tmp_path / "i.html").read_text(encoding="utf-8")
    assert re.findall(r"<td>(\d+)\.nii\.gz", text) == ["9", "10", "11", *map(str, range(9))]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium, which notes every request and every line on its console."""
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


def wait(browser, script: str, seconds: float = 60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := browser.execute_script(f"return {script}"):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{script} stayed false; console: {browser.get_log('browser')}")


def picture(browser) -> np.ndarray:
    """The viewer as it looks now."""
    import io

    from matplotlib import image

    time.sleep(0.3)
    element = browser.find_element("id", "canvas")
    return image.imread(io.BytesIO(element.screenshot_as_png))[..., :3]


def red(pixels: np.ndarray) -> int:
    return int(((pixels[..., 0] > 0.35) & (pixels[..., 0] > 1.4 * pixels[..., 1])).sum())


def test_in_a_browser_the_viewer_draws_and_answers(page, browser):
    from selenium.webdriver.common.action_chains import ActionChains

    browser.get("about:blank")
    browser.get_log("performance")  # The browser's own start page is not ours.
    browser.get(page.as_uri())
    wait(browser, "document.getElementById('viewer').dataset.ready")
    before = picture(browser)
    assert before.std() > 0.05, "nothing is drawn"
    # It opens at the largest lesion.
    lesion = browser.find_element("css selector", "tr[data-mm]").get_attribute("data-mm")
    place = browser.execute_script("return document.getElementById('viewer').dataset.mm")
    np.testing.assert_allclose(np.array(place.split(", "), float), np.array(lesion.split(), float), atol=3)
    assert "lesion 1.00" in browser.find_element("id", "location").text
    # A click moves the crosshair.
    canvas = browser.find_element("id", "canvas")
    width, height = canvas.size["width"], canvas.size["height"]
    ActionChains(browser).move_to_element_with_offset(canvas, -width // 4, -height // 5).click().perform()
    wait(browser, f"document.getElementById('viewer').dataset.mm !== {json.dumps(place)}")
    browser.find_element("css selector", "tr[data-mm]").click()
    # The lesion is switched off and on again, and faded.
    shown = red(picture(browser))
    box = browser.find_element("css selector", "input[type=checkbox][data-layer='1']")
    box.click()
    hidden = red(picture(browser))
    assert hidden < shown / 3
    box.click()
    assert red(picture(browser)) == pytest.approx(shown, rel=0.1)
    # The residual is off at first.
    plain = picture(browser)
    browser.find_element("css selector", "input[type=checkbox][data-layer='2']").click()
    assert np.abs(picture(browser) - plain).mean() > 0.001
    lines = [line for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]
    assert lines == []
    requests = [
        event["params"]["request"]["url"]
        for event in (json.loads(line["message"])["message"] for line in browser.get_log("performance"))
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert requests
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}
    assert [url for url in requests if url.startswith("file")] == [page.as_uri()]
