"""mkdocs hooks that add pages: those from outside ``docs/`` (benchmarks, changes, model cards), and notebooks."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
# Pages of the site by their file in the repository.
ELSEWHERE = {
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
LINK = re.compile(
    r"(?<!!)\[([^\]]+)\]\(((?:(?:\.\./)?(?:docs|benchmarks|examples|saved_models)/|\.\./|C[A-Z]+\.md)[^)#]*)(#[^)]*)?\)"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in ``docs/``, and those of the notebooks."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    cards = sorted((ROOT / "saved_models").glob("*/*/assets.extra/model_card.md"))
    # The headings of a card are moved one level down, below the title of the page.
    texts = [re.sub(r"^#", "##", card.read_text(encoding="utf-8"), flags=re.M) for card in cards]
    files.append(File.generated(config, "models.md", content="\n".join(["# Shipped models", "", *texts])))
    for notebook in sorted((ROOT / "docs").glob("gallery/*.ipynb")):
        for file in _pages_of(notebook, config):
            files.append(file)
    return files


def _pages_of(notebook: Path, config: MkDocsConfig) -> Iterator[File]:
    """The page of a notebook with the outputs that are kept in it, and the files of its figures."""
    text, resources = MarkdownExporter().from_filename(str(notebook), {"unique_key": notebook.stem})
    yield File.generated(config, f"gallery/{notebook.stem}.md", content=text)
    for name, content in resources["outputs"].items():
        yield File.generated(config, f"gallery/{name}", content=content)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Redirects links to files of the repository to their page on the site; without one, only the text remains."""

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2].removeprefix("../"), found[3] or ""
        target = target.removeprefix("docs/")
        target = ELSEWHERE.get(target, target)
        if files.get_file_from_path(target) is None:
            return text
        return f"[{text}]({posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return LINK.sub(link, markdown).replace(".ipynb)", ".md)")
