"""Hooks of mkdocs, which mkdocs.yml names: what of the site does not lie in docs/.

README.md becomes the first page and SECURITY.md a page beside the others, with their links
rewritten to where they then lie, so that one text serves GitHub and the site. The reference is
written into build/reference by `python -m tests.site.reference` beforehand, as it is made from the
code itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = {"README.md": "index.md", "SECURITY.md": "security.md"}
"""Documents of the repository's root, and the pages that they become."""

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_TARGET = re.compile(r'(\]\(|(?:src|srcset)=")(?!https?://|#)([^)"\s]+)')
_PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">\s*'
    r'<img alt="([^"]*)" src="([^"]+)">\s*</picture>'
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents of the root, and the reference."""
    from mkdocs.structure.files import File  # here, so that tests need no mkdocs

    for name, page in OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        content = from_root(_FRONT_MATTER.sub("", text))
        files.append(File.generated(config, page, content=content))
    for path in sorted((ROOT / "build" / "reference").glob("*.md")):
        content = path.read_text(encoding="utf-8")
        files.append(File.generated(config, f"reference/{path.name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page of docs/ as the site needs it."""
    return both_pictures(to_root(markdown))


def from_root(text: str) -> str:
    """Links of a document of the root, as they are from docs/."""

    def moved(match: re.Match[str]) -> str:
        path, mark, anchor = match[2].partition("#")
        return match[1] + OUTSIDE.get(path, path.removeprefix("docs/")) + mark + anchor

    return _TARGET.sub(moved, text)


def to_root(text: str) -> str:
    """Links of a page of docs/ to documents of the root, as they are on the site."""

    def moved(match: re.Match[str]) -> str:
        path, mark, anchor = match[2].partition("#")
        return match[1] + OUTSIDE.get(path.removeprefix("../"), path) + mark + anchor

    return _TARGET.sub(moved, text)


def both_pictures(text: str) -> str:
    """Pictures for light and dark: those of the reader's choice on the page, not of the system."""

    def pair(match: re.Match[str]) -> str:
        dark, words, light = match.groups()
        return "\n".join(
            f'<img alt="{words}" src="{source}#only-{scheme}">'
            for source, scheme in ((light, "light"), (dark, "dark"))
        )

    return _PICTURE.sub(pair, text)
