"""The live parts of the page: a page gets what it does not have, and when to ask again."""

from __future__ import annotations

from ftlab.tabs.live import LiveParts, News, changed_html


def test_only_html_that_the_page_does_not_have_is_sent() -> None:
    first = changed_html({}, top="<b>1</b>", queue="<i>2</i>")
    assert {name: html for name, (_, html) in first.items()} == {
        "top": "<b>1</b>",
        "queue": "<i>2</i>",
    }
    had = {name: tag for name, (tag, _) in first.items()}
    assert changed_html(had, top="<b>1</b>", queue="<i>2</i>") == {}
    assert list(changed_html(had, top="<b>1</b>", queue="<i>3</i>")) == ["queue"]


def test_a_page_asks_again_when_the_first_of_its_parts_needs_it() -> None:
    parts = LiveParts()
    parts.add(lambda query: News({"top": ("t", "bar")}))
    assert parts.answer({"page": "a"}) == {"html": {"top": ("t", "bar")}, "seconds": 3.0}
    parts.add(lambda query: News({"queue": ("q", "rows")}, {"refresh": True}, 5.0))
    answer = parts.answer({"page": "a"})
    assert answer["html"] == {"top": ("t", "bar"), "queue": ("q", "rows")}
    assert answer["refresh"] is True
    assert answer["seconds"] == 5.0


def test_many_open_pages_ask_less_often() -> None:
    parts = LiveParts()
    parts.add(lambda query: News(seconds=1.0))
    assert [parts.answer({"page": str(i)})["seconds"] for i in range(180)][-1] == 10.0
