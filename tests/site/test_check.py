"""The check of a built site finds what is wrong, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site.check import main, problems


def site(folder: Path, body: str, head: str = "") -> Path:
    page = f'<html><head>{head}</head><body><h2 id="part">Part</h2>{body}</body></html>'
    (folder / "index.html").write_text(page, encoding="utf-8")
    (folder / "other.html").write_text('<h1 id="there">Other</h1>', encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "link",
    ["#part", "other.html", "other.html#there", ".", "https://a.example/b#c", "http://127.0.0.1:7860",
     "mailto:a@b.example", "/other.html#there"],
)  # fmt: skip
def test_a_link_that_leads_somewhere_is_no_problem(tmp_path: Path, link: str) -> None:
    assert list(problems(site(tmp_path, f'<a href="{link}">a</a>'))) == []


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("none.html", "is not there"),
        ("#none", "has no such anchor"),
        ("other.html#none", "has no such anchor"),
        ("htp://a.example", "is no address of a web page"),
        ("https://[", "is no address"),
    ],
)
def test_a_link_that_leads_nowhere_is_named_with_its_page(
    tmp_path: Path, link: str, why: str
) -> None:
    (found,) = problems(site(tmp_path, f'<a href="{link}">a</a>'))
    assert found.startswith(f"index.html: {link} {why}")


@pytest.mark.parametrize(
    "part",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<img src="//cdn.example/a.png">',
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<source srcset="https://cdn.example/a.png 2x">',
    ],
)
def test_a_page_that_loads_from_another_host_is_named(tmp_path: Path, part: str) -> None:
    assert any("from another host" in found for found in problems(site(tmp_path, "", part)))


def test_a_stylesheet_that_loads_from_another_host_is_named(tmp_path: Path) -> None:
    site(tmp_path, "")
    (tmp_path / "a.css").write_text("a { background: url(https://cdn.example/a.png) }")
    assert list(problems(tmp_path)) == ["a.css: loads cdn.example/a.png from another host"]


def test_its_status_says_whether_all_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(site(tmp_path, "<a href='#part'>a</a>"))]) == 0
    assert main([str(site(tmp_path, "<a href='#none'>a</a>"))]) == 1
    assert "2 pages, 1 wrong addresses." in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 2
