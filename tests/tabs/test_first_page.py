"""The page as it is sent: scripts before gradio's own, compressed where the browser accepts it;
and how long its assets may be kept."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ftlab.tabs.first_page import FirstPage

PAGE = f"<html><script>window.gradio_config = 1</script>{'<p>text</p>' * 1000}</html>"

site = Starlette(
    routes=[
        Route("/", lambda request: HTMLResponse(PAGE), methods=["GET", "POST"]),
        Route("/other", lambda request: PlainTextResponse(PAGE)),
        Route("/assets/index-DphvyggB.js", lambda request: PlainTextResponse(PAGE)),
    ]
)


def answer(accepted: str, path: str = "/", method: str = "GET") -> Any:
    with TestClient(FirstPage(site)) as client:
        return client.request(method, path, headers={"Accept-Encoding": accepted})


@pytest.mark.parametrize("accepted", ["gzip, br", "identity"])
def test_the_scripts_come_before_those_of_the_page(accepted: str) -> None:
    text = answer(accepted).text
    own = text.index("requestAnimationFrame"), text.index('defineProperty(window, "gradio_config"')
    assert max(own) < text.index("window.gradio_config = 1")
    assert text.endswith(PAGE.removeprefix("<html>"))


def test_the_page_is_compressed_where_that_is_accepted() -> None:
    small, plain = answer("gzip, br"), answer("identity")
    assert small.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"]) / 5
    assert int(plain.headers["content-length"]) == len(plain.content)
    assert small.text == plain.text
    assert {small.headers["vary"], plain.headers["vary"]} == {"Accept-Encoding"}


@pytest.mark.parametrize(("path", "method"), [("/other", "GET"), ("/", "POST")])
def test_what_is_not_the_page_is_sent_as_it_is(path: str, method: str) -> None:
    sent = answer("gzip", path, method)
    assert sent.text == PAGE
    assert "content-encoding" not in sent.headers


def test_an_answer_that_is_no_html_gets_no_script() -> None:
    told = Starlette(routes=[Route("/", lambda request: JSONResponse("<script>"))])
    with TestClient(FirstPage(told)) as client:
        assert client.get("/").json() == "<script>"


def test_a_file_that_is_named_by_its_content_is_kept_and_nothing_else_is() -> None:
    assert "immutable" in answer("gzip", "/assets/index-DphvyggB.js").headers["cache-control"]
    for path in ("/", "/other", "/assets/missing.js"):
        assert "cache-control" not in answer("gzip", path).headers
