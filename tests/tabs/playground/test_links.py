"""The panes and the prompt of an address: what they open, and what is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.panes import BASE, uploaded_sources
from ftlab.playground.requests import MAX_PANES
from ftlab.records.store import RunStore
from ftlab.tabs.address import read_address
from ftlab.tabs.context import Asked, Links, taken
from ftlab.tabs.playground import tab as playground
from ftlab.tabs.playground.links import (
    LONGEST_PANES,
    LONGEST_PROMPT,
    link_notes,
    panes_value,
    read_panes,
)
from ftlab.tabs.playground.session import Session
from ftlab.tabs.playground.share import link_html
from ftlab.tabs.playground.view import upload_files
from tests.fakes import make_run, make_sweep
from tests.playground.adapters import adapter_zip
from tests.security.servers import tree
from tests.tabs.page_fakes import page_context

OPEN_RUN = "20261125-120000-ab12-09-lora"
SHIPPED = ("shipped:sql", "shipped:shakespeare", "shipped:medical")


class Tab:
    """The Playground's handlers on a folder; `warned` has what stands in the page's corner."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.warned: list[str] = []
        patch.setattr(playground, "warn", self.warned.append)
        with gr.Blocks() as self.page, gr.Tabs() as tabs, gr.Tab("Playground"):
            playground.build(page_context(folder), Links.between(tabs))

    def handler(self, name: str) -> Callable[..., Any]:
        (found,) = (fn.fn for fn in self.page.fns.values() if fn.fn and fn.name == name)
        return found

    def open(
        self,
        link: str | None,
        chosen: tuple[str, ...] = (),
        had_runs: bool | None = None,
        model: str = BUNDLED_ID,
    ) -> tuple[str, ...]:
        """What the panes hold afterwards; checks that the link is opened once."""
        chosen = (*chosen, *[""] * (6 - len(chosen)))
        enter = self.handler("enter")
        asked = None if link is None else Asked(link)
        count, had, *rest = enter(asked, had_runs, Session(), model, 4, *chosen)
        assert taken(asked) is None
        self.count, self.had_runs, self.model = count, had, rest[0]["value"]
        return tuple(update["value"] for update in rest[4:10])


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tab:
    return Tab(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def of_others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A folder with the upload of another visitor, an open run, and a run of another folder."""
    folder = tmp_path_factory.mktemp("runs")
    zipped = adapter_zip(tmp_path_factory.mktemp("ann") / "secret-of-ann.zip")
    upload_files([str(zipped)], folder, BUNDLED_ID)
    make_run(folder, "lora", "running", run_id=OPEN_RUN)
    outside = make_run(tmp_path_factory.mktemp("outside"), "lora")
    (folder / "linked-run").symlink_to(outside.path)
    with pytest.MonkeyPatch.context() as patch:
        yield Tab(folder, patch)


def test_panes_are_named_in_their_order_and_uploads_and_empty_ends_are_not() -> None:
    names = [BASE, None, "run-1", "adapter:mine", "shipped:sql", ""]
    assert panes_value(names) == "base,,run-1,,shipped:sql"
    assert 'data-address="panes=base%2C%2Crun-1%2C%2Cshipped%3Asql"' in link_html(names, "")
    assert panes_value(["", None]) == ""
    assert link_html([""], "") == ""


def test_six_of_the_longest_run_ids_fit_into_an_address_beside_a_prompt() -> None:
    value = panes_value(["r" * 81] * 6)
    assert len(value) <= LONGEST_PANES
    prompt = "x" * LONGEST_PROMPT
    sent = urlencode({"tab": "playground", "panes": value, "prompt": prompt})
    assert read_address(sent)[1] == {"panes": value, "prompt": prompt}


def test_a_link_opens_base_runs_and_shipped_adapters_on_their_base(
    tab: Tab, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "lora").run_id
    other = make_run(tmp_path, "lora", model="someone/other", sweep_id="20261126-120000-bbbb")
    panes = (BASE, "", run, "shipped:sql", BASE)
    assert tab.open(panes_value(panes)) == (*panes, "")
    assert (tab.count, tab.model, tab.warned) == (5, BUNDLED_ID, [])
    assert tab.open(f"{BASE},{other.run_id}")[:2] == (BASE, other.run_id)
    assert tab.model == "someone/other"
    assert tab.open(BASE, model="someone/other") == (BASE, *[""] * 5), "nobody is added to it"
    assert tab.model == "someone/other"


def test_opening_the_tab_again_keeps_what_the_link_opened(tab: Tab, tmp_path: Path) -> None:
    make_run(tmp_path, "lora", model="someone/other")
    for panes in ((BASE,), (BASE, "shipped:sql")):
        assert tab.open(panes_value(panes))[: len(panes)] == panes
        again = tab.open(None, panes, had_runs=tab.had_runs)
        assert again == (*panes, *[""] * (6 - len(panes)))
    assert tab.open("base,shipped:sql", (BASE, "shipped:sql", "adapter:x"), True)[2] == ""


def test_the_tab_opened_again_redraws_no_answer_while_the_panes_stay(tab: Tab) -> None:
    """What it would draw may be older than an answer that ended meanwhile."""
    (function,) = (fn for fn in tab.page.fns.values() if fn.name == "enter")
    drawn = [
        place
        for place, part in enumerate(function.outputs)
        if str(part.elem_id).startswith(("pg-answer-", "pg-file"))
    ]
    assert len(drawn) == MAX_PANES + 2

    session, chosen, two = Session(), [BASE, *SHIPPED, "", ""], [BASE, "shipped:sql", *[""] * 4]
    enter = function.fn
    first, again, other, nobody = (
        enter(None, None, session, BUNDLED_ID, 4, *chosen),
        enter(None, False, session, BUNDLED_ID, 4, *chosen),
        enter(None, False, session, BUNDLED_ID, 2, *two),
        enter(Asked("gone"), None, Session(), BUNDLED_ID, 4, *chosen),
    )
    assert all(again[place] == gr.skip() for place in drawn)
    for updates in (first, other, nobody):
        assert all(updates[place] != gr.skip() for place in drawn)


def test_the_first_time_without_a_link_has_the_first_panes_and_a_link_to_them_changes_nothing(
    tab: Tab, tmp_path: Path
) -> None:
    for link in (None, ""):
        assert tab.open(link, ("run-of-the-build",)) == (BASE, *SHIPPED, "", "")
    source = upload_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, BUNDLED_ID)
    shown = (BASE, source.name, "shipped:sql")
    assert tab.open("base,,shipped:sql", shown, had_runs=True)[:3] == shown
    assert tab.warned == []


def test_what_is_not_there_is_said_and_the_rest_is_shown(tab: Tab, tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora").run_id
    failed = make_run(tmp_path, "lora", "failed").run_id
    other = make_run(tmp_path, "lora", model="someone/other", sweep_id="20261126-120000-bbbb")
    panes = tab.open(f"gone,{run},{failed},{other.run_id},adapter:x")
    assert panes == ("", run, "", "", "", "")
    private, gone, base = tab.warned
    assert "uploaded adapter is in no link" in private
    assert gone == f"Nobody by the name of 'gone' and '{failed}' can answer here."
    assert base == "All panes share one base model; LoRA is not of the first one's."


def test_a_link_says_what_it_leaves_out() -> None:
    assert link_notes([BASE, "run-1"], "") == []
    (private,) = link_notes([BASE, "adapter:mine-1234"], "")
    assert "uploads are private" in private
    (long,) = link_notes([BASE], "x" * 9_000)
    assert "more than 3,000 characters" in long
    assert 'role="status"' in link_html(["adapter:<b>"], "")
    assert "<b>" not in link_html(["adapter:<b>"], "<b>" * 2_000)


def test_the_prompt_of_a_link_is_filled_in_and_sent_by_nobody(tab: Tab) -> None:
    assert tab.handler("fill_in")(Asked("Who <b>?")) == "Who <b>?"
    for nothing in (None, Asked("")):
        assert tab.handler("fill_in")(nothing) == gr.skip()
    listening = [fn for fn in tab.page.fns.values() if fn.name == "fill_in"]
    after = {fn.trigger_after for fn in tab.page.fns.values()}
    assert len(listening) == 1
    assert listening[0]._id not in after


HOSTILE = [
    "nobody-here",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "shipped:../../recorded",
    "shipped:..%2Fsql",
    "shipped:sql/../medical",
    "UPLOAD",
    "UPLOAD,UPLOAD",
    "adapter:secret-of-ann",
    "adapter:../.ftlab",
    "<img src=x onerror=alert(1)>",
    '" onload="x',
    "a\x00b",
    "base\x00",
    "\u202eesab",
    "BASE",
    "base;shipped:sql",
    ",".join(["gone"] * 100),
    "," * 500,
    OPEN_RUN,
    "linked-run",
    "ü" * 599,
]


@pytest.mark.hostile("addresses")
@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("had_runs", [None, True])
def test_a_hostile_link_changes_nothing_and_shows_nothing_of_others(
    value: str, had_runs: bool | None, of_others: Tab
) -> None:
    (upload,) = uploaded_sources(of_others.folder)
    value = value.replace("UPLOAD", upload.name)
    before = tree(of_others.folder)
    of_others.warned.clear()
    values = read_address("?" + urlencode({"tab": "playground", "panes": value}))[1]
    chosen = ("shipped:medical", BASE) if had_runs else ()
    shown = of_others.open(values["panes"], chosen, had_runs)
    assert shown == ((*chosen, *[""] * 4) if had_runs else (BASE, *SHIPPED, "", ""))
    said = " ".join(of_others.warned)
    assert upload.label not in said.replace(value, "")
    assert len(said) < 700
    assert tree(of_others.folder) == before


@pytest.mark.hostile("addresses")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (",".join([BASE] * 100), (BASE,) * 6),
        ("base,base,<b>", (BASE, BASE)),
        ("  base , shipped:sql ", (BASE, "shipped:sql")),
        (",,,,,base", ("", "", "", "", "", BASE)),
        ("base,adapter:x,shipped:sql", (BASE, "", "shipped:sql")),
    ],
)
def test_of_an_odd_link_the_panes_that_are_there_are_shown(
    value: str, shown: tuple[str, ...], of_others: Tab
) -> None:
    assert of_others.open(value) == (*shown, *[""] * (6 - len(shown)))
    assert of_others.count <= 6


@pytest.mark.hostile("addresses")
@pytest.mark.parametrize(
    "query",
    [{"panes": "b" * 601}, {"prompt": "x" * 3_001}, {"panes": "base", "prompt": "ü" * 2_000}],
)
def test_a_link_that_is_too_long_opens_nothing(query: dict[str, str]) -> None:
    with pytest.raises(FtlabError, match=r"at most|no text of"):
        read_address(urlencode({"tab": "playground", **query}))


def test_a_sweep_is_opened_by_the_ids_of_its_runs(tmp_path: Path) -> None:
    runs = [run.run_id for run in make_sweep(tmp_path, ("full", "lora", "qlora"))]
    found = read_panes(panes_value([BASE, *runs[-3:]]), RunStore(tmp_path).runs(), tmp_path)
    assert (found.panes, found.said) == ((BASE, *runs[-3:]), ())
