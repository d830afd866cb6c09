"""The display of a scan's page in a browser, and what it does when it is clicked."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from browsing import at_width, picture, red, wait
from helpers import AFFINE
from synthetic_pages import page_in


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return page_in(tmp_path_factory.mktemp("page"))


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


def test_the_crosshair_is_at_the_lesion_in_tilted_slices(tmp_path, browser):
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", [15, 5, 5], degrees=True).as_matrix()
    browser.get(page_in(tmp_path, tilt @ AFFINE).as_uri())
    wait(browser, "document.getElementById('viewer').dataset.ready")
    lesion = browser.find_element("css selector", "tr[data-mm]").get_attribute("data-mm")
    place = browser.execute_script("return document.getElementById('viewer').dataset.mm")
    np.testing.assert_allclose(np.array(place.split(", "), float), np.array(lesion.split(), float), atol=0.11)
    assert "lesion 1.00" in browser.find_element("id", "location").text


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
