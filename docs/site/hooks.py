"""mkdocs hooks that add pages from outside ``docs/``: benchmarks, contributing, changes and the model cards."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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
    """Adds the pages that are not in ``docs/``."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    cards = sorted((ROOT / "saved_models").glob("*/*/assets.extra/model_card.md"))
    # The headings of a card are moved one level down, below the title of the page.
    texts = [re.sub(r"^#", "##", card.read_text(encoding="utf-8"), flags=re.M) for card in cards]
    files.append(File.generated(config, "models.md", content="\n".join(["# Shipped models", "", *texts])))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Redirects links to files of the repository to their page on the site; without one, only the text remains."""

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2].removeprefix("../"), found[3] or ""
        target = target.removeprefix("docs/")
        target = ELSEWHERE.get(target, target)
        return f"[{text}]({target}{anchor})" if files.get_file_from_path(target) else text

    return LINK.sub(link, markdown)
