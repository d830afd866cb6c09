"""The display of the index in a browser, and the way from it to the pages and back."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from brainseg_tf.prediction import pages
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.pages.index import write_index
from browsing import WIDTHS, at_width, overflow, screenshot, sizes, wait
from helpers import make_brain, save
from synthetic_models import card
from synthetic_pages import predictor, segmented


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
