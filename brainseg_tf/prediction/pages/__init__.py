"""Pages to look at: of one scan with its viewer, and an index of many. Needs the extra ``[report]``.

A page is one file that asks nothing of any network: its Content-Security-Policy names the scripts it may run by their
hashes and forbids all else. Names and messages come from files: they are escaped, and shown on one line.
"""

import base64
import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing

# The viewer (NiiVue, BSD-2-Clause) as nilearn carries it; setup.py keeps to versions that do.
_VIEWER = Path("_assets", "js", "niivue.umd.js")


@dataclass(frozen=True)
class Navigation:
    """Where the page of one of many scans lies among the others.

    A scan's page is written before the next scan is done, and a scan that fails has no page. So a page does not link
    to its neighbours: it asks the index, which is renewed with each scan, for the nearest one that has a page.

    Attributes:
        index: the index page.
        previous, next: the pages of the scans before and after it, in the order of the jobs, whether they are there
            yet or not; None at the ends.
    """

    index: Path
    previous: Path | None = None
    next: Path | None = None


def navigation(pages: Sequence[Path], index: Path) -> list[Navigation]:
    """The navigation of each page, in the order of ``pages``."""
    around = [None, *pages, None]
    return [Navigation(index, before, after) for before, after in zip(around, around[2:], strict=False)]


def link(file: Path, folder: Path) -> str:
    """The URL of a file for a page in ``folder``: relative, and whatever bytes the file's name has."""
    relative = os.path.relpath(file, folder)
    # Without "./" a name like "javascript:x" would be a scheme.
    return "./" + quote(os.fsencode(relative).replace(os.sep.encode(), b"/"))


def check_installed() -> None:
    """Refuses before any work what could not be written after it.

    Raises:
        InputError: the packages of the extra are not there.
    """
    for package in ("jinja2", "nilearn"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--html: {package} is not installed; pip install 'brainseg-tf[report]'")
    if not _viewer().is_file():
        raise InputError("--html: this version of nilearn has no NiiVue; pip install 'brainseg-tf[report]'")


def viewer_source() -> str:
    """NiiVue's JavaScript."""
    return _viewer().read_text(encoding="utf-8")


def write(path: Path, template: str, scripts: Sequence[str] = (), **content: Any) -> None:
    """Fills a template and writes the page; all content is escaped.

    Args:
        path: of the page.
        template: its name.
        scripts: JavaScript, the only that the page may run.
        content: for the template.

    Raises:
        InputError: the place cannot be written to.
    """
    # A browser takes the ends of lines for \n before it computes a hash.
    sources = [script.replace("\r\n", "\n").replace("\r", "\n") for script in scripts]
    text = (
        _environment()
        .get_template(template)
        .render(content, scripts=sources, script_policy=" ".join(_hash(source) for source in sources) or "'none'")
    )
    with replacing(path) as beside:
        # What is shown is printable by now; this is for what a later template may forget.
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


def script(name: str) -> str:
    """One of this package's own scripts."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@lru_cache(1)
def _environment() -> Any:
    """Of the templates; made once, since an index is written again and again."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    # Reports and file names are data: autoescape keeps them from becoming HTML.
    return Environment(
        loader=PackageLoader("brainseg_tf.prediction.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=shown,
    )


def _viewer() -> Path:
    # Found, not imported: nilearn takes seconds to import and nothing else of it is used.
    spec = importlib.util.find_spec("nilearn")
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0] if folders else "", _VIEWER)
