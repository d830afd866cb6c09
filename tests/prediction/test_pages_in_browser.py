"""The display of the HTML pages in a browser, and what they do when they are clicked."""

import base64
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.prediction import pages
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.pages.index import write_index
from helpers import call, make_brain, save
from synthetic_models import card
from synthetic_pages import page_in, predictor, read, segmented, volume

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Window widths in pixels. Chromium's windows are at least 500 pixels wide; smaller ones are emulated by its debugger.
WIDTHS = (1400, 768, 390)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return page_in(tmp_path_factory.mktemp("page"))


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


def picture(browser, canvas: str = "canvas") -> np.ndarray:
    """A screenshot of a viewer, (H, W, 3)."""
    import io

    from matplotlib import image

    time.sleep(0.3)
    element = browser.find_element("id", canvas)
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


@pytest.fixture(scope="module")
def comparison_page(sessions, tmp_path_factory) -> Path:
    """The page of two time points, with HTML in the name of a scan."""
    pytest.importorskip("SimpleITK")
    folder = tmp_path_factory.mktemp("comparison")
    after = folder / "<img src=x onerror=alert(1)>.nii.gz"
    shutil.copy(sessions.after, after)
    masks = ("--before-mask", sessions.before_mask, "--after-mask", sessions.after_mask)
    result = call("compare", sessions.before, after, *masks, "--out", folder / "c.json", "--html", folder / "c.html")
    assert result.exit_code == 0, result.output
    return folder / "c.html"


def test_the_page_of_two_time_points(comparison_page):
    text = comparison_page.read_text(encoding="utf-8")
    assert "<img src=x" not in text and "&lt;img src=x onerror=alert(1)&gt;.nii.gz" in text
    report = json.loads(comparison_page.with_name("c.json").read_text())
    reader = read(comparison_page)
    assert "Two time points: before.nii.gz," in reader.text and "not a medical device" in reader.text
    rows = [attributes["data-mm"] for tag, attributes in reader.elements if tag == "tr" and "data-mm" in attributes]
    assert rows == ["{x_mm} {y_mm} {z_mm}".format(**one) for one in report["lesions"]]
    before, after = json.loads(re.search(r'id="layers">(.*?)</script>', text).group(1))
    assert [layer["name"] for layer in before] == [layer["name"] for layer in after] == ["scan", "lesion", "changes"]
    images = [volume(layer) for layer in (*before, *after)]
    assert len({image.shape for image in images}) == 1
    # Both viewers have one grid. The mask before is not resampled.
    ml = images[1].get_fdata().sum() * 2.5**3 / 1000
    assert ml == pytest.approx(report["before"]["lesion_ml"], abs=0.01)
    # The labels are exact, and each has its colour.
    changes = images[2].get_fdata()
    assert set(np.unique(changes)) == {0, 1, 2, 3}
    assert ((changes == 1) | (changes == 3)).sum() * 2.5**3 / 1000 == pytest.approx(ml)
    labels = before[2]["labels"]
    assert labels["labels"][2:4] == ["new or grown", "gone or shrunk"] and labels["A"] == [0, 255, 255, 255, 255]
    assert (labels["R"][2], labels["G"][2], labels["B"][2]) == (0xE8, 0x20, 0x2A)
    for lesion in report["lesions"]:
        assert f"<td>{lesion['side']}</td><td>{lesion['region'] or 'unknown'}</td>" in text


def test_the_viewers_of_two_time_points_move_together(comparison_page, browser):
    from selenium.webdriver import ActionChains

    at_width(browser, 1200, comparison_page.as_uri())
    wait(browser, "document.getElementById('viewers').dataset.ready")
    places = "Object.fromEntries(['before', 'after'].map((n) => [n, document.getElementById('viewers').dataset[n]]))"
    report = json.loads(comparison_page.with_name("c.json").read_text())
    for number, lesion in enumerate(report["lesions"]):
        browser.find_elements("css selector", "tr[data-mm]")[number].click()
        expected = "{x_mm:.1f}, {y_mm:.1f}, {z_mm:.1f}".format(**lesion)
        found = [float(mm) for mm in wait(browser, places)["after"].split(", ")]
        assert found == pytest.approx([float(mm) for mm in expected.split(", ")], abs=0.11)
    for name in ("before", "after"):
        earlier = wait(browser, places)
        ActionChains(browser).move_to_element_with_offset(browser.find_element("id", name), 20, 15).click().perform()
        time.sleep(0.5)
        now = wait(browser, places)
        assert now["before"] == now["after"] != earlier[name]
        ActionChains(browser).move_to_element_with_offset(browser.find_element("id", name), -30, 5).click().perform()
        time.sleep(0.5)
    assert browser.get_log("browser") == []


def test_the_viewers_of_two_time_points_show_the_changes(comparison_page, browser):
    """The new lesion is red in both viewers, the one that is gone is blue."""
    at_width(browser, 1200, comparison_page.as_uri())
    wait(browser, "document.getElementById('viewers').dataset.ready")
    report = json.loads(comparison_page.with_name("c.json").read_text())
    for status, channel in (("new", 0), ("gone", 2)):
        number = next(k for k, one in enumerate(report["lesions"]) if one["status"] == status)
        browser.find_elements("css selector", "tr[data-mm]")[number].click()
        for name in ("before", "after"):
            shown = []
            for _ in range(2):
                pixels = picture(browser, name)
                others = np.delete(pixels, channel, axis=2).max(axis=2)
                shown.append(int((pixels[..., channel] > others + 0.2).sum()))
                browser.find_element("id", "changes-shown").click()
            assert shown[1] > shown[0] + 200, (status, name, shown)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_two_time_points_fits_any_screen(comparison_page, browser, width):
    at_width(browser, width, comparison_page.as_uri())
    wait(browser, "document.getElementById('viewers').dataset.ready")
    screenshot(browser, f"comparison-{width}")
    assert overflow(browser) == []
