"""A report is one file that fetches nothing."""

from __future__ import annotations

import re

from ftlab.report.page import standalone


def test_the_page_holds_its_sections_and_escapes_its_title() -> None:
    page = standalone("a <b> & c", ["<h2>one</h2>", "<h2>two</h2>"])
    assert "<title>a &lt;b&gt; &amp; c</title>" in page
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in page
    assert page.index("<section><h2>one</h2></section>") < page.index("<section><h2>two</h2>")


def test_the_page_needs_no_network_and_runs_no_script() -> None:
    page = standalone("title", [])
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)


def test_the_page_is_light_or_dark_as_the_reader_prefers_and_fits_a_phone() -> None:
    page = standalone("title", [])
    assert "prefers-color-scheme: dark" in page
    assert '<meta name="viewport" content="width=device-width' in page
