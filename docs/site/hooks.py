"""mkdocs hooks: pages that stand elsewhere in the repository, and the models' cards, become pages of the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./|docs/|benchmarks/|examples/|saved_models/)[^)#]*)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in ``docs/``."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    cards = sorted((ROOT / "saved_models").glob("*/*/assets.extra/model_card.md"))
    # Below the page's own title; a card's headings go one down.
    texts = [re.sub(r"^#", "##", card.read_text(encoding="utf-8"), flags=re.M) for card in cards]
    files.append(File.generated(config, "models.md", content="\n".join(["# The shipped models", "", *texts])))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of the site lead to the site's copy, or nowhere."""

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2].removeprefix("../"), found[3] or ""
        target = target.removeprefix("docs/")
        target = ELSEWHERE.get(target, target)
        return f"[{text}]({target}{anchor})" if files.get_file_from_path(target) else text

    return LINK.sub(link, markdown)
