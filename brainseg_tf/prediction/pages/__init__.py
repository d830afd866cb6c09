"""HTML pages: the page of a scan with a viewer, and an index of many scans. Needs the extra ``[report]``.

A page is a single file without network access. Its Content-Security-Policy allows only its own scripts, by their
hashes. Names and messages can come from files and are not trusted: they are escaped and shown on one line.
"""

import base64
import hashlib
import importlib.util
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, replacing

# The viewer NiiVue (BSD-2-Clause) is part of nilearn. setup.py requires versions of nilearn that contain it.
_VIEWER = Path("_assets", "js", "niivue.umd.js")


@dataclass(frozen=True)
class Navigation:
    """The index and the neighbouring pages of a scan's page.

    A page does not link directly to its neighbours: it is written before the next scan is finished, and scans that fail
    have no page. It links to the index, which is updated while the batch runs, and the script of the index opens the
    nearest scan that has a page.

    Attributes:
        index: the index page.
        previous, next: the pages of the previous and the next scan, in the order of the jobs. They need not exist. None
            for the first or the last scan.
    """

    index: Path
    previous: Path | None = None
    next: Path | None = None


def navigation(pages: Sequence[Path], index: Path) -> list[Navigation]:
    """The navigation of each page, in the order of ``pages``."""
    padded = [None, *pages, None]
    return [Navigation(index, before, after) for before, after in zip(padded, padded[2:], strict=False)]


def link(file: Path, folder: Path) -> str:
    """The relative URL of a file, for a page in ``folder``; file names with any bytes are allowed."""
    relative = os.path.relpath(file, folder)
    # Without "./", the start of a name like "javascript:x" would be read as a URL scheme.
    return "./" + quote(os.fsencode(relative).replace(os.sep.encode(), b"/"))


def distinct_names(scans: Sequence[Path]) -> list[str]:
    """The names of scans, each with as many of its folders as are needed to tell it from the others."""
    parts = [scan.absolute().parts for scan in scans]
    names = [scan.name for scan in scans]
    same = list(range(len(parts)))
    for count in range(1, max(map(len, parts), default=0)):
        ends = Counter(some[-count:] for some in parts)
        for number in same:
            names[number] = str(Path(*parts[number][-count:]))
        same = [number for number in same if ends[parts[number][-count:]] > 1]
        if not same:
            break
    return names


def check_installed() -> None:
    """Checks that the packages of the extra ``[report]`` are installed.

    Raises:
        InputError: a package or the viewer is missing.
    """
    for package in ("jinja2", "nilearn"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--html: {package} is not installed; pip install 'brainseg-tf[report]'")
    if not _viewer().is_file():
        raise InputError("--html: the installed nilearn does not contain NiiVue; pip install 'brainseg-tf[report]'")


def viewer_source() -> str:
    """The JavaScript code of the viewer."""
    return _viewer().read_text(encoding="utf-8")


def write(path: Path, template: str, scripts: Sequence[str] = (), **content: Any) -> None:
    """Renders a template and writes the page; the content is escaped.

    Args:
        path: the page.
        template: file name of the template.
        scripts: the JavaScript code of the page. The page can run no other code.
        **content: variables of the template.

    Raises:
        InputError: the page cannot be written.
    """
    # Browsers convert all line ends to \n before they compute the hash of a script.
    sources = [script.replace("\r\n", "\n").replace("\r", "\n") for script in scripts]
    text = (
        _environment()
        .get_template(template)
        .render(content, scripts=sources, script_policy=" ".join(_hash(source) for source in sources) or "'none'")
    )
    with replacing(path) as temporary:
        # Variables are printable already, see _environment. The error handler covers other parts of the page.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def script(name: str) -> str:
    """The JavaScript code of a file in the folder ``templates``."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """The hash of a script in the syntax of a Content-Security-Policy."""
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@lru_cache(1)
def _environment() -> Any:
    """The Jinja environment of the templates; cached, because the index is written many times."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def make_printable(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    # Reports and file names are data and must not be interpreted as HTML, so they are escaped automatically.
    return Environment(
        loader=PackageLoader("brainseg_tf.prediction.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=make_printable,
    )


def _viewer() -> Path:
    # nilearn is located but not imported, because the import takes seconds and only this file of it is needed.
    spec = importlib.util.find_spec("nilearn")
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0] if folders else "", _VIEWER)
