"""A report is one file that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from ftlab.share.page import standalone


def test_the_page_holds_its_sections_and_escapes_its_title() -> None:
    page = standalone("a <b> & c", ["<h2>one</h2>", "<h2>two</h2>"])
    assert "<title>a &lt;b&gt; &amp; c</title>" in page
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in page
    assert page.index("<section><h2>one</h2></section>") < page.index("<section><h2>two</h2>")


def test_the_page_needs_no_network_runs_no_script_and_fits_screen_phone_and_paper() -> None:
    page = standalone("title", [])
    assert "default-src 'none'" in page
    assert "script-src" not in page
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert '<meta name="viewport" content="width=device-width' in page
    assert "@media screen and (prefers-color-scheme: dark)" in page  # paper is light and wide
    assert "@media screen and (max-width: 700px)" in page


def test_only_the_scripts_that_the_page_was_made_with_may_run() -> None:
    page = standalone("title", ["<p>text</p>"], scripts=["let a = 1", "a += 'é'"])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    for script in ("let a = 1", "a += 'é'"):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
        assert f"<script>{script}</script>" in page
    assert "unsafe-eval" not in policy[1]
    assert page.index("<p>text</p>") < page.index("<script>")


@pytest.mark.parametrize("script", ["'</script>'", "a\r\nb", "a\0b", "'</SCRIPT '"])
def test_a_script_that_a_browser_would_read_as_another_is_refused(script: str) -> None:
    with pytest.raises(ValueError, match="would not read"):
        standalone("title", [], scripts=[script])
