"""Pages to look at: of one scan with its viewer, and an index of many. Needs the extra ``[report]``."""

import importlib.util
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import replacing

# The viewer (NiiVue, BSD-2-Clause) as nilearn carries it; setup.py keeps to versions that do.
_VIEWER = Path("_assets", "js", "niivue.umd.js")


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


def write(path: Path, template: str, **content: Any) -> None:
    """Fills a template and writes the page; all content is escaped.

    Raises:
        InputError: the place cannot be written to.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Reports and file names are data: autoescape keeps them from becoming HTML.
    environment = Environment(
        loader=PackageLoader("brainseg_tf.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template(template).render(content)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _viewer() -> Path:
    # Found, not imported: nilearn takes seconds to import and nothing else of it is used.
    spec = importlib.util.find_spec("nilearn")
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0] if folders else "", _VIEWER)
