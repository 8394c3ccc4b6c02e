"""The answers to a prompt as one file: what is in it, what is left out, and when there is none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground.panes import PaneSource
from ftlab.playground.requests import GenerateRequest, PaneUpdate
from ftlab.tabs.playground.answers import answers_file, answers_page, why_no_file
from ftlab.tabs.playground.session import Session, ask, choose, compare, reveal, stop
from ftlab.tabs.playground.share import ShareRow, share_updates
from tests.share.fakes import HOSTILE
from tests.tabs.playground.fakes import (
    BASE_SOURCE,
    HELD_OUT,
    SHA,
    ScriptedClient,
    done,
    failed,
    lora,
    next_token,
    session_of,
    text,
)
from tests.tabs.playground.test_pane_html import parts_of

ONE = lora("run-1", "LoRA r=4", detail="SQL · 25 Nov")
TWO = lora("run-2", "QLoRA", method="qlora")
THREE = (
    done(0, "The age column"),
    done(1, "The name column", adapter_sha256=SHA, next_token=next_token(0.25), swap_seconds=0.02),
    done(2, "The age column"),
)


def answered(
    *updates: PaneUpdate,
    sources: tuple[PaneSource | None, ...] = (BASE_SOURCE, ONE, TWO),
    prompt: str = "Which column?",
    chat: bool = False,
    blind: int | None = None,
    session: Session | None = None,
    **settings: object,
) -> Session:
    session = session or session_of(*sources)
    request = GenerateRequest((), prompt, **settings)  # type: ignore[arg-type]
    for _ in ask(session, request, chat, ScriptedClient(*updates), HELD_OUT, blind):
        pass
    return session


def words_of(page: str) -> str:
    """The page without markup, as it is read."""
    body = page.partition("<main>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("\u00a0", " ").split())


def test_a_file_has_prompt_answers_differences_proof_and_settings() -> None:
    page = answers_page(answered(*THREE, temperature=0.7, seed=11, system="Be brief."))
    words = words_of(page)
    assert words.startswith("3 answers to “Which column?” Prompt Which column? ")
    for part in (
        "SmolLM2-135M-Instruct (bundled)", "base in 16 bits", "temperature 0.7", "seed 11",
        "at most 96 tokens", "system prompt “Be brief.”", "ftlab 0.", "peft ", "torch ",
        "LoRA r=4 SQL · 25 Nov run-1", f"SHA-256 {SHA}", "begins differently from the base",
        "&#39;SELECT&#39;; in the base &#39;The&#39;", "What differs from Base",
        "QLoRA the same text", "LoRA r=4 33.3 % of words differ",
    ):  # fmt: skip
        assert part in words, part
    assert "<del> age</del><ins> name</ins>" in page
    assert page.count('<article class="pane" style="--c:') == 5
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|url\(", page), "it loads nothing"


def test_the_pane_that_the_page_compares_with_is_the_one_of_the_file() -> None:
    session = compare(answered(*THREE), 1)
    assert "What differs from LoRA r=4" in answers_page(session, 1)
    for other in (-1, 4, 99, None):  # off, an empty pane, no pane
        assert "What differs from Base" in answers_page(session, other)
    alone = answered(done(0, "Paris"), sources=(BASE_SOURCE,))
    assert "What differs" not in answers_page(alone)


def test_a_chat_has_its_earlier_turns_in_each_pane_and_the_last_as_prompt() -> None:
    session = answered(done(0, "Ann"), done(1, "Bob"), sources=(BASE_SOURCE, ONE), chat=True)
    answered(done(0, "40"), done(1, "50"), session=session, prompt="How old?", chat=True)
    page = answers_page(session)
    words = words_of(page)
    assert "Prompt, turn 2 of a chat How old?" in words
    assert words.index("Which column? Ann 40") < words.index("Which column? Bob 50")


def test_the_file_is_of_the_answers_that_are_shown_whoever_was_chosen_since(
    tmp_path: Path,
) -> None:
    session = answered(*THREE)
    choose(session, ["base", "run-1", "gone"], tmp_path)
    assert why_no_file(session) == ""
    words = words_of(answers_page(session))
    assert words.startswith("2 answers to “Which column?”")
    assert "gone" not in words


def test_why_a_pane_failed_stays_on_the_page_with_its_paths() -> None:
    error = "There is no run 'run-2' in /home/ann/secret."
    session = answered(done(0, "Paris"), done(1, "Rome"), failed(2, error, partial="Half"))
    page = answers_page(session)
    assert "secret" not in page
    assert "Half This pane gave no answer." in words_of(page)


def test_while_answers_come_there_is_no_file() -> None:
    session = session_of(BASE_SOURCE, ONE)
    assert "once a prompt is answered" in why_no_file(session)
    client = ScriptedClient(text(0, "Pa"), done(0, "Paris"), text(1, "Ro"), done(1, "Rome"))
    said = [
        why_no_file(now)
        for now in ask(session, GenerateRequest((), "Which?"), False, client, HELD_OUT)
    ]
    assert said.pop() == ""
    assert {*said[:-1]} == {"The answers can be downloaded as HTML when all panes have ended."}
    button, reason = share_updates(session)
    assert (button["interactive"], reason) == (True, "")
    for _ in ask(session, GenerateRequest((), "Which?"), False, client, HELD_OUT):
        if session.panes[0].answer == "Paris":
            break
    button, reason = share_updates(session)
    assert not button["interactive"]
    assert "when all panes have ended" in reason
    assert "Paris" in answers_page(stop(session))
    only_errors = answered(failed(0, "No."), sources=(BASE_SOURCE,))
    assert "once a prompt is answered" in why_no_file(only_errors)


def test_a_blind_vote_is_not_given_away_by_a_file() -> None:
    session = answered(*THREE, blind=4)
    assert "after the vote" in why_no_file(session)
    with pytest.raises(FtlabError, match="after the vote"):
        answers_page(session)
    page = answers_page(reveal(session))
    labels = [pane.source.label for pane in session.shown() if pane.source]
    places = [page.index(f"<b>{label}</b>") for label in labels]
    assert labels != ["Base", "LoRA r=4", "QLoRA"]
    assert places == sorted(places), "in the order of the page"


@pytest.mark.hostile("exports")
def test_nothing_that_a_file_is_told_becomes_html() -> None:
    evil = lora(HOSTILE, HOSTILE, detail=HOSTILE, method=HOSTILE, model=HOSTILE)
    told = next_token(0.25, HOSTILE, HOSTILE)
    more = {"adapter_sha256": HOSTILE, "next_token": told, "note": HOSTILE}
    session = answered(
        done(0, HOSTILE, **more), failed(1, HOSTILE, partial="x" + HOSTILE, **more),
        done(2, "x", **more),
        sources=(evil, evil, replace(evil, name="y")), prompt=HOSTILE, system=HOSTILE, chat=True,
    )  # fmt: skip
    page = answers_page(session)
    tags, attributes = parts_of(page)
    assert not {"script", "img", "a"} & tags
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "href")}


def test_each_file_has_a_path_that_nobody_can_guess_and_is_made_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    session = answered(*THREE)
    with gr.Blocks():
        ShareRow()
    assert list(tmp_path.iterdir()) == []
    paths = [answers_file(session, None) for _ in range(2)]
    assert paths[0].parent != paths[1].parent
    assert all(len(path.parent.name) >= 32 for path in paths)
    assert re.fullmatch(r"ftlab-answers-\d{8}-\d{6}\.html", paths[0].name)
    assert "Which column?" in paths[0].read_text(encoding="utf-8")
