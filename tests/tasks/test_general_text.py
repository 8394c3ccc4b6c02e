"""The unrelated text that forgetting is measured on."""

from __future__ import annotations

import pytest

from ftlab.tasks import general_text
from ftlab.tasks.general_text import PASSAGES
from ftlab.tasks.registry import TASKS


def test_there_are_forty_short_passages_and_none_twice() -> None:
    assert len(PASSAGES) == len(set(PASSAGES)) == 40
    assert all(100 < len(passage) < 250 for passage in PASSAGES)


def _phrases(text: str, words: int = 5) -> set[tuple[str, ...]]:
    split = text.lower().split()
    return {tuple(split[i : i + words]) for i in range(len(split) - words + 1)}


@pytest.mark.parametrize("task", TASKS)
def test_no_phrase_of_it_stands_in_a_bundled_task(task: str) -> None:
    data = TASKS[task].load(0)
    seen = set().union(*(_phrases(passage) for passage in PASSAGES))
    for example in (*data.train, *data.held_out):
        text = " ".join([*(message.content for message in example.prompt), example.completion])
        assert not seen & _phrases(text), text


def test_its_fingerprint_changes_with_any_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    before = general_text.fingerprint()
    monkeypatch.setattr(general_text, "PASSAGES", (*PASSAGES[:-1], PASSAGES[-1] + " "))
    assert general_text.fingerprint() != before
