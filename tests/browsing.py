"""A page in a browser: its size, its pictures, and waiting for it."""

import base64
import os
import shutil
import time
from pathlib import Path

import numpy as np

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Window widths in pixels. Chromium's windows are at least 500 pixels wide; smaller ones are emulated by its debugger.
WIDTHS = (1400, 768, 390)


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
