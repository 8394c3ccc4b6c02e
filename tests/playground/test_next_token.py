"""How far a pane's first token is from the base's, and adapters that change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ftlab.playground.engine import Engine
from ftlab.playground.requests import GenerateRequest
from ftlab.tasks.spec import Message
from tests.playground.asking import finals
from tests.playground.conftest import AddAdapter, AddRun, NewEngine

IDENTITY: dict[str, dict[str, Any]] = {
    "ia3": {},
    "loha": {"init_weights": True},
    "lokr": {"init_weights": True},
    "oft": {"init_weights": True},
    "adalora": {},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_an_adapter_that_changes_nothing_is_told_from_one_that_does(
    precision: Any, new_engine: NewEngine, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    """Rows of the shared batch and lanes of their own, beside each other and one by one."""
    engine = new_engine(precision)
    request = replace(ask, precision=precision)
    zeros = {"init_lora_weights": True, "noise": 0.0}
    nothing = [
        add_adapter("lora", **more, **zeros).name for more in ({}, {"modules_to_save": ["norm"]})
    ]
    if precision != "nf4":  # PEFT computes others on 4 bits in other precisions than the base
        nothing += [add_adapter(kind, noise=0.0, **start).name for kind, start in IDENTITY.items()]
    something = [add_adapter(kind, seed=2).name for kind in ("lora", "dora", "prompt_tuning")]
    for first in range(0, len(nothing), 2):
        names = nothing[first : first + 2]
        base, *found = finals(engine, request, "base", *names, *something)
        assert base.next_token is None
        assert not base.changes_nothing
        flat = [update.changes_nothing for update in found]
        assert flat == [True] * len(names) + [False] * len(something), names
        for name in names:
            (alone,) = finals(engine, request, name)
            assert alone.changes_nothing
    for found in finals(engine, request, *something):
        assert not found.changes_nothing
        assert found.next_token is not None
        assert found.next_token.kl_nats > 1e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_untrained_full_fine_tuning_changes_nothing(
    precision: Any, new_engine: NewEngine, add_run: AddRun, ask: GenerateRequest
) -> None:
    engine = new_engine(precision)
    same, other = add_run("full", noise=0.0).run_id, add_run("full").run_id
    request = replace(ask, precision=precision)
    _, first, second = finals(engine, request, "base", same, other)
    assert first.changes_nothing
    assert not second.changes_nothing


def test_the_likeliest_tokens_are_given_as_text(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    names = [add_adapter("lora", seed, noise=0.5).name for seed in (1, 2, 3)]
    base, *found = finals(engine, ask, "base", *names)
    told = [update.next_token for update in found]
    assert all(one is not None and base.text.startswith(one.base_token) for one in told)
    for update, one in zip(found, told, strict=True):
        assert one is not None
        assert update.text.startswith(one.token.strip())
        assert one.top1_changed == (one.token != one.base_token)
    assert any(one.top1_changed for one in told if one)


def test_chats_of_different_length_are_compared_with_the_base_on_the_same_chat(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    zero = add_adapter("lora", init_lora_weights=True, noise=0.0).name
    chat = (Message("user", "a longer question than the first"), Message("assistant", "so"))
    request = replace(ask, panes=("base", zero, zero), histories=((), chat, ()))
    _, longer, same = finals(engine, request)
    assert longer.changes_nothing
    assert same.changes_nothing
