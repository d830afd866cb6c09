"""The page of two time points in a browser."""

import json
import re
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from browsing import WIDTHS, at_width, overflow, picture, screenshot, wait
from helpers import call
from synthetic_pages import read, volume


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


def test_rows_in_tilted_slices_and_outside_the_scan_before(sessions, tmp_path, browser):
    """The scan before is tilted, and ends before the lesion that is new."""
    pytest.importorskip("SimpleITK")
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", [25, 10, 15], degrees=True).as_matrix()
    for name in ("before", "before_mask", "after", "after_mask"):
        image = nib.load(getattr(sessions, name))
        tilted = nib.Nifti1Image(np.asarray(image.dataobj), tilt @ image.affine)
        nib.save(tilted.slicer[:42] if "before" in name else tilted, tmp_path / f"{name}.nii.gz")
    masks = ("--before-mask", tmp_path / "before_mask.nii.gz", "--after-mask", tmp_path / "after_mask.nii.gz")
    scans = (tmp_path / "before.nii.gz", tmp_path / "after.nii.gz")
    result = call("compare", *scans, *masks, "--out", tmp_path / "c.json", "--html", tmp_path / "c.html")
    assert result.exit_code == 0, result.output
    at_width(browser, 1200, (tmp_path / "c.html").as_uri())
    wait(browser, "document.getElementById('viewers').dataset.ready")
    lesions = json.loads((tmp_path / "c.json").read_text())["lesions"]
    place = "document.getElementById('viewers').dataset.after"
    inside = [number for number, one in enumerate(lesions) if one["status"] != "not covered"]
    for number in inside:
        browser.find_elements("css selector", "tr[data-mm]")[number].click()
        expected = [lesions[number][f"{axis}_mm"] for axis in "xyz"]
        found = [float(mm) for mm in wait(browser, place).split(", ")]
        assert found == pytest.approx(expected, abs=0.11)
    (outside,) = set(range(len(lesions))) - set(inside)
    browser.find_elements("css selector", "tr[data-mm]")[outside].click()
    assert browser.find_element("id", "location").text.endswith("mm: outside the scan that is shown")
    assert [float(mm) for mm in wait(browser, place).split(", ")] == found  # The crosshair has not moved.


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
