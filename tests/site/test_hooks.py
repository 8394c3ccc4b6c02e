"""How documents of the root become pages of the site, without mkdocs."""

from __future__ import annotations

import re
import runpy
from typing import Any

import pytest

from tests.documents import ROOT
from tests.site.reference import PAGES

HOOKS: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "site" / "hooks.py"))
SETTINGS = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
NAVIGATION = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", SETTINGS.partition("\nnav:")[2], re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("[a](docs/guide.md#installing)", "[a](guide.md#installing)"),
        ("[a](SECURITY.md)", "[a](security.md)"),
        ('<img src="docs/images/a.png">', '<img src="images/a.png">'),
        ("[a](#part)", "[a](#part)"),
        ("[a](https://a.example/docs/b.md)", "[a](https://a.example/docs/b.md)"),
    ],
)
def test_links_of_the_readme_lead_to_the_same_pages_on_the_site(text: str, moved: str) -> None:
    assert HOOKS["from_root"](text) == moved


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("[a](../README.md#measured)", "[a](index.md#measured)"),
        ("[a](../SECURITY.md)", "[a](security.md)"),
        ("[a](guide.md)", "[a](guide.md)"),
        ("[a](images/b.png)", "[a](images/b.png)"),
    ],
)
def test_links_of_a_page_to_the_root_lead_to_its_page_of_the_site(text: str, moved: str) -> None:
    assert HOOKS["to_root"](text) == moved


def test_a_picture_for_light_and_dark_follows_the_button_of_the_site() -> None:
    text = (
        '<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="a-dark.png">\n'
        '  <img alt="What it shows" src="a-light.png">\n</picture>\n'
    )
    assert HOOKS["both_pictures"](text) == (
        '<img alt="What it shows" src="a-light.png#only-light">\n'
        '<img alt="What it shows" src="a-dark.png#only-dark">\n'
    )


def test_the_navigation_has_every_page_once_and_no_other() -> None:
    of_docs = {path.name for path in (ROOT / "docs").glob("*.md")}
    made = {*HOOKS["OUTSIDE"].values(), *(f"reference/{name}" for name in PAGES)}
    assert sorted(NAVIGATION) == sorted(of_docs | made)
