"""One thing has one name in everything that is shown; the exact term comes after the plain one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from ftlab.basics.terms import TERMS, Term
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.card import LIGHT, card_svg
from ftlab.share.card_content import card_of
from ftlab.share.report import sweep_report
from tests.documents import ROOT
from tests.fakes import SWEEP, make_sweep

TYPED = {"net peak"}
"""Names that the search still knows, since people typed them before."""
SHOWING = (
    "basics", "charts", "commands", "jobs", "learn", "maintain", "methods", "models", "operations",
    "playground", "prediction", "records", "settings", "share", "tabs", "tasks", "training",
)  # fmt: skip
"""The packages that hold words for users: all of them."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """(place, text) of everything that is shown."""
    texts = [*shown_strings(), *shown_documents(tmp_path_factory.mktemp("runs"))]
    return [(place, unescape(text)) for place, text in texts]


def shown_strings() -> Iterator[tuple[str, str]]:
    """(place, text) of each string of those packages that is no docstring and no bare name."""
    for package in SHOWING:
        for path in sorted((ROOT / "ftlab" / package).rglob("*.py")):
            if path.name == "terms.py":  # lists the words themselves
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            documented = {
                id(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }
            for node in ast.walk(tree):
                if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                    continue
                is_shown = id(node) not in documented and node.value not in TYPED
                if is_shown and not re.fullmatch(r"[\w.-]*", node.value):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def shown_documents(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, text without markup) of the report and the card of a sweep."""
    make_sweep(folder)
    data = sweep_data(RunStore(folder), SWEEP)
    yield "report", re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", sweep_report(data), flags=re.S)
    yield "card", re.sub(r"<[^>]+>", " ", card_svg(card_of(data), LIGHT))


@pytest.mark.slow
def test_a_thing_has_one_name_in_everything_that_is_shown(
    shown: list[tuple[str, str]],
) -> None:
    assert len(shown) > 1000
    found = [
        f"{place}: say '{term.name}': {text[max(0, match.start() - 40) : match.end() + 40]!r}"
        for term in TERMS
        for pattern in term.replaces
        for place, text in shown
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_the_words_that_a_term_replaces_are_found(term: Term) -> None:
    examples = {
        "trainable parameters": "Parameters that learn",
        "memory while training": "Net peak memory",
        "memory needed": "predicted reserved peak",
        "61 % less memory": "0.39x the net peak memory",
        "a fair comparison": "like for like: 21 fields equal",
        "no other method was better in both": "QLoRA and LoRA are the front",
        "test examples": "the held-out loss of 20",
        "how far repeats differ is not known": "one seed: no spread is known",
        "loss, lower is better": "nats a token, less is better",
        "begins very differently from the base": "KL 2.83 nats, top-1 changed",
        "first word changed": "top-1 changed",
        "file to deliver": "9.8 MB to ship",
        "the computer was busy": "Disturbed: training took 1.2 times",
    }
    assert any(re.search(each, examples[term.name], re.IGNORECASE) for each in term.replaces)


def test_the_guide_explains_every_term() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    for term in TERMS:
        assert f"| {term.name} | {term.exact} |" in guide
