"""The HTML pages: their content, and their display in a browser."""

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf import __version__
from brainseg_tf.model_card import terms_of
from brainseg_tf.options import MixtureOptions, PredictOptions
from brainseg_tf.prediction import pages
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.pages import Navigation, wording
from brainseg_tf.prediction.pages.index import outliers, write_index
from brainseg_tf.prediction.predictor import Predictor
from helpers import AFFINE, FAST, call, fails, make_brain, save
from synthetic_models import OPTIONS, Healthy, Pointing, card

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Window widths in pixels. Chromium's windows are at least 500 pixels wide; smaller ones are emulated by its debugger.
WIDTHS = (1400, 768, 390)


def predictor(options=OPTIONS, **changes) -> Predictor:
    """A predictor with a model that does not need TensorFlow."""
    return Predictor(card(**changes), Healthy, PredictOptions(options))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a scan with HTML in its name and its header."""
    folder = tmp_path_factory.mktemp("page")
    image = nib.Nifti1Image(make_brain(101)[0], AFFINE)
    image.header["descrip"], image.header["db_name"] = b"<b>DOE^JOHN", b"DOE^JOHN"
    image.header["aux_file"], image.header["intent_name"] = b"DOE^JOHN", b"DOE^JOHN"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    scan = folder / "<img src=x onerror=alert(1)>.nii.gz"
    nib.save(image, scan)
    predictor().run(Job(scan, Outputs(folder / "m.nii.gz", page=folder / "p.html")))
    return folder / "p.html"


class Reader(HTMLParser):
    """Parses a page: the visible text, and the attributes of each element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._hidden = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.text += data

    def links(self) -> list[str]:
        found = [value for _, each in self.elements for name, value in each.items() if name in ("href", "src")]
        return [value for value in found if not value.startswith(("data:", "#"))]


def read(page: Path) -> Reader:
    return Reader(page.read_text(encoding="utf-8"))


def layers(page: Path) -> dict[str, dict[str, object]]:
    found = re.search(r'id="layers">(.*?)</script>', page.read_text(encoding="utf-8"))
    return {one["name"]: one for one in json.loads(found.group(1))}


def volume(layer: dict[str, object]) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layer["nifti"])))


def test_the_page_contains_the_scan_and_its_maps_but_no_header_text(page):
    text = page.read_text(encoding="utf-8")
    assert "DOE^JOHN" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.nii.gz" in text
    assert "not a medical device" in text
    found = layers(page)
    assert list(found) == ["scan", "lesion", "brain", "residual", "probability"]
    for layer in found.values():
        assert b"DOE^JOHN" not in gzip.decompress(base64.b64decode(layer["nifti"]))
    scan, lesion = volume(found["scan"]), volume(found["lesion"])
    assert scan.shape == lesion.shape
    np.testing.assert_array_equal(scan.affine, lesion.affine)
    mask = nib.load(page.with_name("m.nii.gz"))
    # The layers are cropped; the lesion's voxels have the same world coordinates as in the mask.
    found_positions, positions = (
        nib.affines.apply_affine(one.affine, np.argwhere(one.get_fdata() > 0.5)) for one in (lesion, mask)
    )
    np.testing.assert_allclose(sorted(map(tuple, found_positions)), sorted(map(tuple, positions)), atol=1e-3)
    data = nib.load(page.with_name("<img src=x onerror=alert(1)>.nii.gz"))
    centre = positions.mean(axis=0)
    indices = (np.rint(nib.affines.apply_affine(np.linalg.inv(one.affine), centre)).astype(int) for one in (scan, data))
    levels = [image.get_fdata()[tuple(index)] for image, index in zip((scan, data), indices, strict=True)]
    assert levels[0] == pytest.approx(levels[1], abs=(found["scan"]["high"] - found["scan"]["low"]) / 200)


def test_the_report_has_the_side_of_a_lesion(scan, tmp_path):
    predictor().run(Job(scan, Outputs(tmp_path / "m.nii", report=tmp_path / "r.json")))
    report = json.loads((tmp_path / "r.json").read_text())
    (lesion, *_) = report["lesions"]
    brain = nib.load(scan).get_fdata() > 0
    middle = nib.affines.apply_affine(AFFINE, np.argwhere(brain).mean(axis=0))[0]
    assert lesion["side"] == ("left" if lesion["centroid_mm"][0] < middle else "right")
    assert lesion["mean_residual"] > 0.1
    assert report["brain"]["ml"] == pytest.approx(brain.sum() * 0.084, rel=0.01)


@pytest.mark.parametrize("package", ["nilearn", "jinja2"])
def test_without_the_extra_the_command_stops_before_any_work(scan, tmp_path, monkeypatch, package):
    found = pages.importlib.util.find_spec
    monkeypatch.setattr(pages.importlib.util, "find_spec", lambda name: None if name == package else found(name))
    error = fails(call("predict", scan, "--out", tmp_path / "m.nii.gz", "--html", tmp_path / "p.html"))
    assert "pip install 'brainseg-tf[report]'" in error
    assert list(tmp_path.iterdir()) == [scan]


def test_many_scans_get_an_index_and_a_page_each(scans, tmp_path, monkeypatch):
    # The command runs with a model that does not need TensorFlow.
    monkeypatch.setattr("brainseg_tf.saved_model.find", lambda name: SimpleNamespace(card=card(), load=Healthy))
    monkeypatch.setattr("brainseg_tf_cli.predict.prepare_tensorflow", lambda device, threads: None)
    folder = tmp_path / "scans"
    shutil.copytree(scans, folder)
    (folder / "sub-00_FLAIR.nii.gz").write_bytes(b"nonsense")
    save(make_brain(5, lesion=False)[0], folder / "sub-03_FLAIR.nii.gz")
    out, index = tmp_path / "out", tmp_path / "index.html"
    arguments = ("predict", folder, "--out-dir", out, "--model", "perfect", "--html", index, *FAST)
    assert call(*arguments).exit_code == 1
    text = index.read_text(encoding="utf-8")
    names = re.findall(r'<td class="scan">(?:<a [^>]*>)?(sub-\d+_FLAIR\.nii\.gz)<', text)
    assert names[0] == "sub-00_FLAIR.nii.gz"
    assert sorted(names) == [f"sub-{number:02}_FLAIR.nii.gz" for number in range(4)]
    assert "is not a readable NIfTI file" in text
    linked = set(read(index).links())
    assert linked == {f"./out/sub-{n:02}_FLAIR{kind}" for n in (1, 2, 3) for kind in (".html", "_thumbnail.png")}
    assert all((tmp_path / link).is_file() for link in linked)
    # --continue writes a missing page again. Without it, an existing index is not replaced.
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


def test_outliers_are_far_from_the_median(tmp_path):
    usual = [report(20 + n, 1400 + 10 * n, 300 + 5 * n) for n in range(9)]
    assert not any(outliers(usual))
    reports = [*usual, report(ml=400), report(median=30000), report(brain=300)]
    assert outliers(reports)[:9] == [[]] * 9
    assert [set(names) for names in outliers(reports)[9:]] == [
        {"lesion volume", "share of brain"},
        {"intensity scale"},
        {"brain volume", "share of brain"},
    ]
    # Fewer than eight scans have no outliers.
    assert outliers([report(), report(), report(ml=400)]) == [[], [], []]
    outcomes = [
        Outcome(Job(Path(f"{n}.nii.gz"), Outputs(Path(f"{n}_mask.nii.gz"))), one) for n, one in enumerate(reports)
    ]
    write_index(tmp_path / "i.html", outcomes)
    text = (tmp_path / "i.html").read_text(encoding="utf-8")
    assert re.findall(r'<td class="scan">(\d+)\.nii\.gz', text) == ["9", "10", "11", *map(str, range(9))]


def finished(folder: Path, name: str, ml: float = 20.0) -> Outcome:
    """The outcome of a segmented scan, with a page and a thumbnail."""
    outputs = Outputs(folder / "m.nii", page=folder / f"{name}.html", thumbnail=folder / f"{name}.png")
    job = Job(folder / name, outputs)
    for file in (outputs.page, outputs.thumbnail):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return Outcome(job, report(ml))


UNUSUAL_NAMES = [
    "a#b?c=d&e%20f.nii.gz",
    "new\nline\ttab\r.nii.gz",
    "javascript:alert(1)",
    "https:/x",
    "\"quotes\" 'and' <b>tags</b>.nii.gz",
    "byte\udcff.nii.gz",
    "\u202etxt.exe",
    "\u60a3\u8005.nii.gz",
    "back\\slash.nii.gz",
]


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_any_name_is_a_link_that_leads_to_its_file_and_a_line_of_text(name, tmp_path):
    folder = tmp_path / name / "out"
    outcome = finished(folder, name)
    failure = Outcome(Job(tmp_path / name, Outputs(tmp_path / "m.nii")), error=f"{name}: is bad")
    index = tmp_path / "index" / "i.html"
    index.parent.mkdir()
    write_index(index, [outcome, failure])
    index.read_bytes().decode("utf-8")
    found = read(index)
    for link in found.links():
        # The link has no scheme, query or fragment, and decodes to the bytes of the file's name.
        assert re.fullmatch(r"\./[A-Za-z0-9._~%/-]+", link)
        assert (index.parent / os.fsdecode(unquote_to_bytes(link))).exists()
    assert len(found.links()) == 4
    shown = {"new\nline\ttab\r.nii.gz": r"new\nline\ttab\r.nii.gz", "byte\udcff.nii.gz": r"byte\xff.nii.gz"}
    assert shown.get(name, name.replace("\u202e", "\\u202e")) in found.text
    assert not {"b", "img"} - {"img"} & {tag for tag, _ in found.elements}


@pytest.mark.parametrize("name", ["a#b?%20<b>\n\udcff javascript:'\".nii.gz", "back\\slash.nii.gz"])
def test_a_scans_own_page_shows_any_name_and_links_back(name, tmp_path):
    scan = save(make_brain(3)[0], tmp_path / "scan.nii.gz")
    scan = scan.rename(tmp_path / name)
    page = tmp_path / "out" / f"{name}.html"
    page.parent.mkdir()
    job = Job(scan, Outputs(tmp_path / "m.nii.gz", report=tmp_path / "r.json", figure=None))
    result, written = segmented(scan), predictor().run(job)
    navigation = Navigation(tmp_path / "i ndex#.html", None, tmp_path / "out" / "next.html")
    from brainseg_tf.prediction.figures import Backdrop
    from brainseg_tf.prediction.pages.scan import write_page

    write_page(page, *result, card(), written, Backdrop(), navigation)
    found = read(page)
    assert name.replace("\n", r"\n").replace("\udcff", r"\xff") in found.text
    links = {each["rel"]: each["href"] for tag, each in found.elements if tag == "a"}
    assert set(links) == {"up", "next"}
    assert links["up"] == "./../i%20ndex%23.html"
    assert links["next"].startswith(links["up"] + "#after=")
    assert "#" not in links["next"].removeprefix(links["up"] + "#")


def segmented(scan: Path):
    from brainseg_tf.images.volume import read_volume
    from brainseg_tf.segmentation import segment

    volume = read_volume(scan)
    return volume, segment([volume], Healthy(), card(), OPTIONS)


def test_navigation_has_the_neighbours_of_each_page():
    given = [Path(f"{n}.html") for n in range(3)]
    index = Path("i.html")
    assert pages.navigation(given, index) == [
        Navigation(index, None, given[1]),
        Navigation(index, given[0], given[2]),
        Navigation(index, given[1], None),
    ]
    assert pages.navigation(given[:1], index) == [Navigation(index, None, None)]
    assert pages.navigation([], index) == []


def test_the_index_shows_the_progress_of_a_running_batch(tmp_path):
    outcomes = [
        finished(tmp_path, "a"),
        finished(tmp_path, "b"),
        Outcome(Job(Path("c"), Outputs(Path("m"))), error="c: bad"),
    ]
    write_index(tmp_path / "i.html", outcomes, total=14)
    text = " ".join(read(tmp_path / "i.html").text.split())
    assert "14 scans" in text
    assert "3 of 14 done" in text
    assert "2 segmented" in text
    assert "1 failed" in text
    write_index(tmp_path / "i.html", outcomes, total=3)
    text = read(tmp_path / "i.html").text
    assert " of 3 done" not in text
    # Before the first scan is finished.
    write_index(tmp_path / "i.html", [], total=14)
    assert "0 of 14 done" in read(tmp_path / "i.html").text


def test_a_failed_scan_links_to_nothing_that_an_earlier_run_left(tmp_path):
    done = finished(tmp_path, "a")
    write_index(tmp_path / "i.html", [Outcome(done.job, error="a: bad")])
    assert read(tmp_path / "i.html").links() == []


def test_reports_of_other_versions_have_a_row_too(tmp_path):
    """The index contains reports of earlier runs, which other versions may have written."""
    incomplete = [{}, {"lesion_ml": "x", "brain": None, "warnings": None, "components": [1]}, {"brain": {"ml": 0}}]
    outcomes = [
        Outcome(Job(Path(f"{n}.nii"), Outputs(Path("m"))), one) for n, one in enumerate([*incomplete, *[report()] * 9])
    ]
    write_index(tmp_path / "i.html", outcomes)
    assert len([tag for tag, each in read(tmp_path / "i.html").elements if tag == "tr" and "id" in each]) == 12


def test_the_bars_are_proportional_to_the_volumes_and_link_to_the_scans(tmp_path):
    volumes = [40.0, 0.0, 10.0]
    write_index(tmp_path / "i.html", [finished(tmp_path, f"s{n}", ml) for n, ml in enumerate(volumes)])
    elements = read(tmp_path / "i.html").elements
    heights = [float(each["height"]) for tag, each in elements if tag == "rect" and each["class"].startswith("bar")]
    # The chart ends at 50 ml. The bar of an empty mask has the smallest height.
    assert heights == [1.0, 20.0, 80.0]
    at = next(n for n, (tag, _) in enumerate(elements) if tag == "svg")
    assert [each["href"] for tag, each in elements[at:] if tag == "a"][:3] == ["./s1.html", "./s2.html", "./s0.html"]


def test_the_time_for_an_index_grows_linearly_with_the_scans(tmp_path):
    outcomes = [finished(tmp_path, f"scan-{n}", float(n)) for n in range(1000)]

    def seconds(count: int) -> float:
        """The shortest of three runs. Processor time is measured, because other processes run at the same time."""
        times = []
        for _ in range(3):
            start = time.process_time()
            write_index(tmp_path / "i.html", outcomes[:count], total=1000)
            times.append(time.process_time() - start)
        return min(times)

    seconds(10)
    # Ten times as many scans; a quadratic part would make it up to a hundred times.
    assert seconds(1000) < 25 * seconds(100)


def test_the_policy_allows_only_the_scripts_of_the_page(page, tmp_path):
    write_index(tmp_path / "i.html", [finished(tmp_path, "a")])
    for file in (page, tmp_path / "i.html"):
        text = file.read_text(encoding="utf-8")
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
        rules = dict(part.strip().partition(" ")[::2] for part in policy.split(";") if part.strip())
        assert rules["default-src"] == "'none'"
        # The policy contains no network address.
        assert not re.search(r"https?:|\*|unsafe-eval", policy)
        assert "unsafe" not in rules["script-src"]
        bodies = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies]
        assert rules["script-src"].split() == hashes


PYTHON = re.compile(r"None|True|False|nan|[{}\[\]]|\(\d+, |Options\(|_[a-z]+\b|'[a-z_]+':")


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        replace(
            OPTIONS,
            median=None,
            components=(3,),
            healthy_threshold=0.2,
            match_range=True,
            correct_bias_field=True,
            closing_mm=0.0,
        ),
        replace(
            OPTIONS, score="positive", mixture=MixtureOptions(1, spread="free", lesion="smallest"), boundary_mm=0.0
        ),
    ],
)
def test_the_processing_table_has_sentences_with_units(options, scan, tmp_path):
    job = Job(scan, Outputs(tmp_path / "m.nii.gz", page=tmp_path / "p.html", report=tmp_path / "r.json"))
    written = predictor(options).run(job)
    found = read(job.outputs.page)
    text = found.text[found.text.index("Processing") : found.text.index("Viewer: NiiVue")]
    assert not PYTHON.search(text), PYTHON.search(text)
    for expected in (
        f"brain volume {written['brain']['ml']:.0f} ml",
        "Model perfect, version 1: context variational autoencoder",
        "Axial slices of 48 x 48 pixels of 5 mm, 5 mm apart",
        "Components below 3 ml were removed",
        "The outermost 3.75 mm of the brain were excluded",
        "s in total: ",
    ):
        assert expected in text
    assert ("a ball with a radius of 3 mm" in text) == (options.closing_mm == 3.0)
    assert ("a threshold set by the user" in text) == (options.healthy_threshold is not None)


def test_the_texts_follow_the_options(tmp_path, scan):
    """The median filter and the bias field correction of a probability differ from those of other scores."""
    from brainseg_tf.images.volume import read_volume
    from brainseg_tf.segmentation import segment

    levels = {"probability": 0.5, "weighted": 0.4}
    model_card = card(score="probability", healthy_levels=levels, modalities=("flair",))
    options = replace(OPTIONS, median=None, correct_bias_field=None)
    volume = read_volume(scan)
    result = segment([volume], Pointing(), model_card, options)
    written = Predictor(model_card, Pointing, PredictOptions(options)).run(Job(scan, Outputs(tmp_path / "m.nii")))
    table = dict(wording.processing_table(written, result, model_card))
    assert "Lesions were detected in the network's probability of a lesion" in table["Score"]
    assert "The bias field was removed from the slices" in table["Score"]
    assert any("7 slices x 3 x 3 pixels (35 x 15 x 15 mm)" in one for one in table["Score"])
    text = wording.methods(written, result, model_card, {"python": "3.11.7", "tensorflow": "2.21.0"})
    for expected in (f"brainseg-tf {__version__}", "model perfect, version 1", "FLAIR", "bias field", "Python 3.11.7"):
        assert expected in text
    assert not PYTHON.search(text)
    sliced = {**written, "options": {**written["options"], "mixture_region": "slice"}}
    mixture = dict(wording.processing_table(sliced, result, model_card))["Mixture"]
    assert any(", fitted to whole slices, weighted over 3 x 3 x 3 voxels, separated lesion" in one for one in mixture)
    kept = replace(options, correct_bias_field=False)
    written = Predictor(model_card, Pointing, PredictOptions(kept)).run(Job(scan, Outputs(tmp_path / "n.nii")))
    assert "bias field" not in str(wording.processing_table(written, result, model_card))


def test_format_value_has_no_python_syntax():
    assert wording.format_value((2, 3)) == "2 and 3"
    assert wording.format_value({"some_name": None, "b": [True, 0.1]}) == "some name automatic, b yes and 0.1"


def test_the_citations_agree_with_the_citation_file():
    yaml = pytest.importorskip("yaml")
    file = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8"))
    text = " ".join(wording.citations(card(terms=terms_of(["BraTS19_CBICA_ABM_1"]))))
    assert f"{file['authors'][0]['name']}. {file['title']} (version {__version__})" in text
    assert str(file["date-released"].year) in text
    for reference in file["references"]:
        assert reference["title"] in text
        assert reference["authors"][0]["family-names"] in text
        assert reference.get("doi", "") in text
    # A model that was not trained on BraTS does not cite it.
    assert "Menze" not in " ".join(wording.citations(card(terms=terms_of(["sub-01"]))))


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


def wait(browser, script: str, seconds: float = 60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := browser.execute_script(f"return {script}"):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{script} stayed false; console: {browser.get_log('browser')}")


def picture(browser) -> np.ndarray:
    """A screenshot of the viewer, (H, W, 3)."""
    import io

    from matplotlib import image

    time.sleep(0.3)
    element = browser.find_element("id", "canvas")
    return image.imread(io.BytesIO(element.screenshot_as_png))[..., :3]


def red(pixels: np.ndarray) -> int:
    """Number of red pixels, which show the lesion."""
    return int(((pixels[..., 0] > 0.35) & (pixels[..., 0] > 1.4 * pixels[..., 1])).sum())


def at_width(browser, width: int, place: str) -> None:
    """Opens a page in a window of a width in CSS pixels."""
    # An empty page, so that the previous page is not drawn again when the size changes.
    browser.get("about:blank")
    browser.get_log("browser")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get(place)


def screenshot(browser, name: str) -> np.ndarray:
    """A screenshot of the whole page; saved in the folder BRAINSEG_SCREENSHOTS if that variable is set."""
    import io

    from matplotlib import image

    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    content = base64.b64decode(taken["data"])
    if folder := os.environ.get("BRAINSEG_SCREENSHOTS"):
        Path(folder, f"{name}.png").write_bytes(content)
    return image.imread(io.BytesIO(content))


def sizes(browser, selector: str) -> list[dict[str, float]]:
    """Position, size and font size of the elements, in CSS pixels."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => ({...one.getBoundingClientRect().toJSON(),"
        " font: parseFloat(getComputedStyle(one).fontSize)}))",
        selector,
    )


def overflow(browser) -> list[str]:
    """Elements that extend beyond the window's right edge, if the page can be scrolled horizontally."""
    return browser.execute_script(
        "const width = document.documentElement.clientWidth;"
        "return document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll('body *')]"
        ".filter((one) => one.getBoundingClientRect().right > width).map((one) => one.outerHTML.slice(0, 80))"
    )


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Path:
    """The index of six scans: one has failed, one has a name of 180 letters, and one is not finished yet."""
    folder = tmp_path_factory.mktemp("batch")
    names = ["a.nii.gz", "b.nii.gz", "bad.nii.gz", f"{'long' * 45}.nii.gz", "e #1?.nii.gz", "f.nii.gz"]
    out = folder / "out"
    out.mkdir()
    index = folder / "index.html"
    jobs = [
        Job(
            folder / n,
            Outputs(
                out / f"{n}_m.nii.gz",
                page=out / f"{n}.html",
                thumbnail=out / f"{n}.png",
                report=out / f"{n}.json",
            ),
        )
        for n in names
    ]
    outcomes = []
    around = pages.navigation([job.outputs.page for job in jobs], index)
    from brainseg_tf.prediction.figures import Backdrop
    from brainseg_tf.prediction.pages.scan import write_page

    for number, (job, navigation) in enumerate(zip(jobs[:-1], around, strict=False)):
        if number == 2:
            outcomes.append(Outcome(job, error=f"{job.scan}: is empty; copy or convert it again"))
            continue
        save(make_brain(number, lesion=number != 1)[0], job.scan)
        written = predictor().run(replace(job, outputs=replace(job.outputs, page=None)))
        volume, result = segmented(job.scan)
        write_page(job.outputs.page, volume, result, card(), written, Backdrop(), navigation)
        outcomes.append(Outcome(job, written))
    write_index(index, outcomes, total=len(jobs))
    return index


@pytest.mark.parametrize("width", WIDTHS)
def test_the_index_fits_any_screen(batch, browser, width):
    at_width(browser, width, batch.as_uri())
    assert browser.execute_script("return innerWidth") == width
    wait(browser, "[...document.images].every((one) => one.complete || one.loading === 'lazy')")
    pixels = screenshot(browser, f"index-{width}")
    assert pixels.std() > 0.02
    assert overflow(browser) == []
    thumbnails = sizes(browser, "td img")
    assert len(thumbnails) == 4
    for one in thumbnails:
        assert one["width"] >= 80 and one["height"] >= 60
        assert one["left"] >= 0 and one["right"] <= width
    names = sizes(browser, "td.scan")
    assert len(names) == 5
    for one in names:
        assert one["font"] >= 14
        # Names are not broken into lines of single letters.
        assert one["width"] >= 150
        assert one["right"] <= width
    assert "failed: " in browser.find_element("id", "scans").text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_scans_page_fits_any_screen(batch, browser, width):
    place = batch.parent / "out" / f"{'long' * 45}.nii.gz.html"
    at_width(browser, width, place.as_uri())
    wait(browser, "document.getElementById('viewer').dataset.ready")
    time.sleep(0.5)
    assert browser.get_log("browser") == []
    assert screenshot(browser, f"scan-{width}").std() > 0.02
    assert overflow(browser) == []
    (canvas,) = sizes(browser, "#canvas")
    assert canvas["width"] >= 0.85 * min(width, 1100) and canvas["height"] >= 300
    assert all(one["right"] <= width and one["font"] >= 13 for one in sizes(browser, "td, th, p, label, a, button"))
    assert sizes(browser, "#slices img")[0]["right"] <= width
    # In full size, the figure scrolls within its own box.
    browser.execute_script("document.getElementById('enlarge').click()")
    assert sizes(browser, "#slices img")[0]["width"] >= 700
    assert overflow(browser) == []


def column(browser, number: int) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#scans tbody tr')]"
        ".map((row) => row.cells[arguments[0]].textContent.trim())",
        number,
    )


def test_the_index_is_sorted_by_mouse_and_keyboard(batch, browser):
    from selenium.webdriver.common.keys import Keys

    at_width(browser, 1200, batch.as_uri())
    first = column(browser, 1)
    assert first[0] == "bad.nii.gz"
    _, lesion, *_ = buttons = browser.find_elements("css selector", "th button")
    assert [button.text for button in buttons] == ["scan", "lesion, ml", "lesions", "brain, ml", "remarks"]
    lesion.click()
    *filled, failed = column(browser, 2)
    # The values are sorted as numbers. A failed scan has no value and is last in both directions.
    assert [float(one) for one in filled] == sorted(float(one) for one in filled)
    assert failed == ""
    assert len({len(one) for one in filled}) > 1
    assert lesion.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    lesion.click()
    assert column(browser, 2) == [*filled[::-1], ""]
    assert lesion.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    buttons[0].send_keys(Keys.ENTER)
    assert column(browser, 1) == sorted(first)
    buttons[0].send_keys(Keys.SPACE)
    assert column(browser, 1) == sorted(first, reverse=True)
    assert lesion.find_element("xpath", "..").get_attribute("aria-sort") is None
    assert browser.get_log("browser") == []


@pytest.fixture
def without_webgl(browser):
    """Disables WebGL, because the viewer takes seconds to draw without a GPU."""
    added = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "HTMLCanvasElement.prototype.getContext = () => null"}
    )
    yield
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]})


def title(browser) -> str:
    return wait(browser, "document.readyState === 'complete' && document.title").split(" \u00b7 ")[0]


@pytest.mark.usefixtures("without_webgl")
def test_navigation_skips_failed_and_unfinished_scans(batch, browser):
    out = batch.parent / "out"
    at_width(browser, 1200, (out / "a.nii.gz.html").as_uri())
    assert not browser.find_elements("css selector", "a[rel=prev]")

    def follow(rel: str) -> None:
        before = browser.current_url
        browser.find_element("css selector", f"a[rel={rel}]").click()
        wait(browser, f"location.href !== {json.dumps(before)} && document.readyState === 'complete'")
        time.sleep(0.3)

    follow("next")
    assert title(browser) == "b.nii.gz"
    # The next scan has failed, so the one after it is opened.
    follow("next")
    assert title(browser) == f"{'long' * 45}.nii.gz"
    follow("prev")
    assert title(browser) == "b.nii.gz"
    follow("next")
    follow("next")
    assert title(browser) == "e #1?.nii.gz"
    # The last scan is not finished yet, so the index is opened with a notice.
    follow("next")
    assert title(browser) == "6 scans"
    assert "not finished yet" in browser.find_element("id", "notice").text
    assert browser.find_element("css selector", "tr.here td.scan").text == "e #1?.nii.gz"
    browser.get((out / "e%20%231%3F.nii.gz.html").as_uri().replace("%25", "%"))
    follow("up")
    assert title(browser) == "6 scans"
    assert not browser.find_element("id", "notice").is_displayed()
    # A page that is not in the index.
    browser.get(batch.as_uri() + "#after=.%2Fother.html")
    browser.refresh()
    assert "not in this index" in browser.find_element("id", "notice").text


@pytest.mark.usefixtures("without_webgl")
def test_a_bar_opens_its_scan(batch, browser):
    at_width(browser, 1200, batch.as_uri())
    bars = browser.find_elements("css selector", "#chart a")
    assert len(bars) == 4
    largest = bars[-1].find_element("css selector", "title").get_attribute("textContent").split(":")[0]
    bars[-1].click()
    wait(browser, "document.getElementById('viewer')")
    assert title(browser) == largest


@pytest.mark.usefixtures("without_webgl")
def test_methods_and_citation_are_copied_or_selected(page, browser):
    at_width(browser, 1200, page.as_uri())
    assert "The viewer needs WebGL2" in browser.find_element("id", "location").text
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    read_back = "const done = arguments[0]; navigator.clipboard.readText().then(done, (error) => done(String(error)))"
    for name, begin in (("methods", "Lesions were segmented in the FLAIR image"), ("citation", "The brainseg-tf dev")):
        button = browser.find_element("css selector", f"button[data-copy={name}]")
        button.click()
        wait(
            browser, f"document.querySelector('button[data-copy={name}]').nextElementSibling.textContent === 'Copied.'"
        )
        assert browser.execute_async_script(read_back).startswith(begin)
    # If copying is not possible, the text is selected.
    browser.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined}); document.execCommand = () => false"
    )
    button.click()
    wait(
        browser, "document.querySelector('button[data-copy=citation]').nextElementSibling.textContent.includes('Ctrl')"
    )
    assert browser.execute_script("return String(getSelection())").strip().startswith("The brainseg-tf developers")


def test_lesion_styles_and_direction_labels_of_the_viewer(page, browser):
    at_width(browser, 1200, page.as_uri())
    wait(browser, "document.getElementById('viewer').dataset.ready")
    select = browser.find_element("id", "style")
    # A single large plane, in which the outline is small compared with the filled area.
    browser.execute_script(
        "const view = document.getElementById('view'); view.value = '0'; view.dispatchEvent(new Event('change'))"
    )
    shown = picture(browser)
    filled = red(shown)
    # There is a yellow letter on each side of the plane.
    rows, columns = np.nonzero((shown.min(axis=-1) < 0.6) & (shown[..., 0] > 0.8) & (shown[..., 1] > 0.7))
    height, width = shown.shape[:2]
    assert rows.min() < 0.2 * height and rows.max() > 0.8 * height
    middle = np.abs(rows - height / 2) < 0.1 * height
    assert columns[middle].min() < width / 2 - 0.3 * height and columns[middle].max() > width / 2 + 0.3 * height

    def choose(value: str) -> None:
        browser.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))", select, value
        )

    choose("outline")
    outlined = picture(browser)
    assert 20 < red(outlined) < filled / 3
    # Inside the outline, the scan is unchanged.
    box = browser.find_element("css selector", "input[type=checkbox][data-layer='1']")
    box.click()
    plain = picture(browser)
    assert red(plain) < red(outlined) / 3
    changed = np.abs(plain - outlined).max(axis=-1) > 0.05
    assert changed.sum() < filled / 3
    box.click()
    choose("fill")
    assert red(picture(browser)) == pytest.approx(filled, rel=0.1)
    assert browser.get_log("browser") == []


def test_the_viewer_draws_and_responds_to_input(page, browser):
    from selenium.webdriver.common.action_chains import ActionChains

    browser.get("about:blank")
    browser.get_log("performance")  # Discards the requests of the browser's start page.
    browser.get(page.as_uri())
    wait(browser, "document.getElementById('viewer').dataset.ready")
    before = picture(browser)
    assert before.std() > 0.05, "nothing is drawn"
    # The crosshair is initially at the largest lesion.
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
    # The lesion can be switched off and on.
    shown = red(picture(browser))
    box = browser.find_element("css selector", "input[type=checkbox][data-layer='1']")
    box.click()
    hidden = red(picture(browser))
    assert hidden < shown / 3
    box.click()
    assert red(picture(browser)) == pytest.approx(shown, rel=0.1)
    # The residual is initially hidden.
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
