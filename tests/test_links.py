"""Every link of every document leads somewhere, on GitHub and on the site.

`make docs` checks the built site as well; this needs no mkdocs, only the files.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.documents import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} (.+?)\s*#*$", re.MULTILINE)


def links(text: str) -> list[str]:
    """The targets of the links and pictures of a Markdown text, but for those in code."""
    prose = _CODE.sub("", _FENCE.sub("", text))
    return [one or other for one, other in _LINK.findall(prose)]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them: a repeated one ends in -1, -2 …

    The site makes the same ones of headings that are not repeated: mkdocs.yml names the rule.
    """
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def wrong(document: Path, target: str) -> str:
    """Why a link of a document leads nowhere; "" if it leads somewhere or to another host."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        is_web = parts.scheme in ("http", "https") and bool(parts.netloc)
        return "" if is_web else "is no address of a web page"
    path = (document.parent / parts.path).resolve() if parts.path else document
    if not path.is_relative_to(ROOT):
        return "leads out of the repository"
    if not path.exists():
        return "is not there"
    if parts.fragment and path.suffix == ".md":
        known = anchors(path.read_text(encoding="utf-8"))
        return "" if parts.fragment in known else "has no such heading"
    return ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    targets = links(document.read_text(encoding="utf-8"))
    found = {target: wrong(document, target) for target in targets}
    assert {target: why for target, why in found.items() if why} == {}


def test_links_in_documents_lead_to_documents_that_the_site_has_too() -> None:
    """Of the root only README.md and SECURITY.md are pages (docs/site/hooks.py)."""
    for document in ROOT.glob("docs/**/*.md"):
        for target in links(document.read_text(encoding="utf-8")):
            if target.startswith("../"):
                assert target.partition("#")[0] in ("../README.md", "../SECURITY.md"), document


def test_a_wrong_link_is_found(tmp_path: Path) -> None:
    page = ROOT / "docs" / "guide.md"
    assert wrong(page, "nothing.md") == "is not there"
    assert wrong(page, "guide.md#no-such-part") == "has no such heading"
    assert wrong(page, "#installing") == ""
    assert wrong(page, "../../elsewhere.md") == "leads out of the repository"
    assert wrong(page, "htp://a.example/b") == "is no address of a web page"


def test_anchors_are_those_of_github() -> None:
    text = "# For others than yourself\n## Tools for agents (MCP)\n## `a` & [b](c.md)\n## A\n## A\n"
    assert anchors(text) == {
        "for-others-than-yourself", "tools-for-agents-mcp", "a--b", "a", "a-1",
    }  # fmt: skip
    assert anchors("```\n# no heading\n```\n") == set()


def test_links_in_code_are_none() -> None:
    assert links('`[a](b.md)` [c](d.md)\n```\n[e](f.md)\n```\n<img src="g.png">') == [
        "d.md",
        "g.png",
    ]
