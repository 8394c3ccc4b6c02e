"""Messages between client and worker, and the properties of an update."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from ftlab.basics.processes import Line, parse_line
from ftlab.playground.requests import (
    KL_OF_ROUNDING,
    GenerateRequest,
    NextToken,
    PaneUpdate,
    request_from_json,
    update_from_json,
)
from ftlab.tasks.spec import Message

ASK = GenerateRequest(("base",), "How many singers are over 30?")
TOLD = NextToken(kl_nats=0.25, token=" SELECT", base_token="ü\n", top1_changed=True)


def test_messages_come_back_as_they_were_sent() -> None:
    chat = (Message("user", "Who?"), Message("assistant", "He.\n"))
    request = replace(
        ASK,
        prompt="ünï\n\u2028 \ud800",
        panes=("base", "r-1"),
        model="/a/folder",
        precision="nf4",
        mode="completion",
        system="Be brief.",
        histories=((), chat),
        top_p=0.5,
        repetition_penalty=1.2,
    )
    update = PaneUpdate(
        1, "error", "line\nline", tokens=4, tokens_per_second=1.5, swap_seconds=0.1,
        note="n", adapter_sha256="ab", next_token=TOLD, partial="half",
    )  # fmt: skip
    for asked in (request, ASK):
        line = parse_line(Line(3, asked).dump())
        assert (line.number, request_from_json(line.content)) == (3, asked)
    for said in (update, PaneUpdate(0, "text", "")):
        assert update_from_json(parse_line(Line(3, said).dump()).content) == said
    assert parse_line(Line(3).dump()) == Line(3)
    assert Line(3, request).dump().count(b"\n") == 1
    assert Line(3, request).dump().isascii()
    assert request_from_json(json.loads(json.dumps(asdict(request)))) == request, "as a page does"


@pytest.mark.parametrize("line", ['["generate"]', "3", "{", '{"content": null}', ""])
def test_a_line_that_is_no_message_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"not a line of a worker|Expecting"):
        parse_line(line)


def test_a_pane_without_history_begins_a_chat() -> None:
    assert ASK.history(0) == ()
    chat = (Message("user", "a"), Message("assistant", "b"))
    assert replace(ASK, panes=("base", "x"), histories=((), chat)).history(1) == chat


@pytest.mark.parametrize(
    ("kl_nats", "nothing"),
    [(0.0, True), (KL_OF_ROUNDING / 2, True), (KL_OF_ROUNDING * 2, False), (float("nan"), False)],
)
def test_an_adapter_within_rounding_of_the_base_changes_nothing(
    kl_nats: float, nothing: bool
) -> None:
    told = replace(TOLD, kl_nats=kl_nats)
    assert PaneUpdate(1, "done", "x", next_token=told).changes_nothing == nothing
    assert not PaneUpdate(0, "done", "x").changes_nothing, "the base has no next token"


@pytest.mark.parametrize(
    ("nats", "words"),
    [
        (None, "not comparably with"), (0.0, "much like"), (0.099, "much like"),
        (0.1, "differently from"), (0.99, "differently from"), (1.0, "very differently from"),
    ],
)  # fmt: skip
def test_how_far_a_first_token_is_from_the_bases_has_a_name(nats: float | None, words: str) -> None:
    assert NextToken(nats, "a", "b", True).difference == words


def test_only_an_end_is_final() -> None:
    kinds = ("status", "text", "done", "error")
    assert [PaneUpdate(0, kind, "").is_final for kind in kinds] == [False, False, True, True]


def test_client_and_protocol_import_neither_torch_nor_gradio() -> None:
    code = (
        "import sys, ftlab.playground.client, ftlab.playground.panes, ftlab.playground.requests; "
        "print([m for m in ('torch', 'transformers', 'peft', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
