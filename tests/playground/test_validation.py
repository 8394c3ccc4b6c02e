"""What a request may ask, said in sentences; what is wrong with one pane is said there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ftlab.playground.requests import GenerateRequest, validate_generate
from ftlab.tasks.spec import Message

ASK = GenerateRequest(("base",), "How many singers are over 30?")


def sentences(request: GenerateRequest) -> dict[str, str]:
    return {error.field: error.message for error in validate_generate(request)}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"panes": ("base",) * 6},
        {"panes": ("no-such-run",)},
        {"temperature": 2, "top_p": 0.5, "repetition_penalty": 1.3, "seed": 2**32 - 1},
        {"mode": "completion", "precision": "nf4", "model": "bundled", "system": "Be brief."},
        {"histories": ((Message("user", "hi"), Message("assistant", "ho")),)},
        {"max_new_tokens": 1024, "prompt": "x" * 100_000},
    ],
)
def test_what_is_in_range_is_valid(change: dict[str, object]) -> None:
    assert sentences(replace(ASK, **change)) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "field", "part"),
    [
        ({"panes": ()}, "panes", "0 panes are chosen; choose 1 to 6"),
        ({"panes": ("base",) * 7}, "panes", "7 panes are chosen; choose 1 to 6"),
        ({"histories": ((), ())}, "histories", "2 histories for 1 panes; give one a pane, or none"),
        ({"prompt": "  \n"}, "prompt", "The prompt is empty"),
        ({"prompt": "x" * 100_001}, "prompt", "100,001 characters; at most 100,000"),
        (
            {"system": "x" * 100_001},
            "system",
            "System prompt has 100,001 characters",
        ),
        ({"precision": "int3"}, "precision", "'int3' is none of: bf16, fp32, nf4"),
        ({"precision": ["bf16"]}, "precision", "is none of: bf16, fp32, nf4"),
        ({"mode": "poem"}, "mode", "'poem' is none of: chat, completion"),
        ({"max_new_tokens": 0}, "max_new_tokens", "is 0; it must lie between 1 and 1,024"),
        ({"max_new_tokens": 2000}, "max_new_tokens", "New tokens is 2,000; it must"),
        ({"temperature": 2.5}, "temperature", "is 2.5; it must lie between 0 and 2"),
        ({"temperature": float("nan")}, "temperature", "Temperature is nan; it must"),
        ({"top_p": 0}, "top_p", "is 0; it must lie between 0.01 and 1"),
        ({"top_p": float("inf")}, "top_p", "Top-p is inf; it must"),
        ({"repetition_penalty": 0.5}, "repetition_penalty", "is 0.5; it must lie between 1 and 2"),
        ({"seed": -1}, "seed", "is -1; it must lie between 0 and 4,294,967,295"),
        ({"model": "/no/such/folder"}, "model", "There is no model folder '/no/such/folder'"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(
    change: dict[str, object], field: str, part: str
) -> None:
    found = sentences(replace(ASK, **change))  # type: ignore[arg-type]
    assert list(found) == [field]
    assert part in found[field]


def test_every_wrong_field_is_named_at_once() -> None:
    wrong = replace(ASK, prompt="", seed=-1, temperature=9.0)
    assert sorted(sentences(wrong)) == ["prompt", "seed", "temperature"]
