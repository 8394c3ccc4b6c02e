"""The table of methods: its rows, its settings, and what comes back from the browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.spec import FAMILIES
from ftlab.tabs.experiment import method_view
from ftlab.tabs.experiment.method_view import (
    known_settings,
    known_ticks,
    method_facts,
    method_table,
)
from ftlab.tabs.experiment.request import Reading, read_request
from ftlab.tasks.reference import TaskReference
from tests.tiny import make_tiny_model

SQL = TaskReference("bundled", "sql")


def row(table: str, method_id: str) -> str:
    found = re.search(f'<tbody data-method="{method_id}">.*?</tbody>', table, re.S)
    assert found is not None
    return found.group()


def test_the_table_has_a_row_for_every_method_and_every_family_but_one() -> None:
    table = method_table(["lora"])
    for method in METHODS.values():
        assert method.paper.url in row(table, method.id)
    assert table.count(" checked") == 1
    rest = {method.family for method in METHODS.values() if method.id not in CORE}
    assert table.count('<details class="family"') == len(rest) < len(FAMILIES)


def test_the_few_to_start_with_come_first() -> None:
    places = [method_table(()).index(f'value="{method_id}"') for method_id in METHODS]
    first = sorted(METHODS, key=dict(zip(METHODS, places, strict=True)).__getitem__)
    assert tuple(first[: len(CORE)]) == CORE


def test_a_family_with_a_tick_is_unfolded() -> None:
    assert "family" not in re.findall(r'class="(family)" open', method_table(CORE))
    table = method_table(["dora"])
    assert table.count('<details class="family" open>') == 1
    assert table.index('family" open') < table.index('value="dora"')


def test_settings_stand_at_their_defaults_or_at_what_is_given() -> None:
    lora = row(method_table((), {"lora.r": 32, "lora.targets": "attention"}), "lora")
    assert 'data-name="lora.r" data-default="8"' in lora
    assert 'value="32"' in lora
    assert '<option value="attention" selected>' in lora
    assert 'value="16"' in lora  # alpha


def test_every_setting_has_a_name_and_a_help_text_of_its_own() -> None:
    table = method_table(())
    for name in method_view.FIELDS:
        assert table.count(f'data-name="{name}"') == 1
    described = re.findall(r'aria-describedby="([^"]+)"', table)
    assert sorted(described) == sorted(set(described))
    assert all(f'<small id="{help_id}">' in table for help_id in described)


def test_only_an_overlay_on_a_base_of_any_kind_offers_how_it_is_held() -> None:
    table = method_table(())
    assert 'data-name="oft.base"' in table
    for method_id in ("full", "last_layers", "qlora", "lora_int8"):
        assert f"{method_id}.base" not in table


def test_what_is_not_offered_says_why_and_cannot_be_ticked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        method_view, "why_not_offered", lambda name: "It <is> lost." if name == "oft" else ""
    )
    table = method_table(["oft"])
    assert "Not offered: It &lt;is&gt; lost." in row(table, "oft")
    assert " disabled" in row(table, "oft")
    assert " checked" not in table


def test_only_known_ticks_come_back_from_the_browser() -> None:
    assert known_ticks(["qlora", "evil", "full"]) == ["full", "qlora"]
    assert known_ticks("full") == []


def test_only_known_settings_come_back_from_the_browser() -> None:
    said = {"lora.r": "4", "lora.evil": "1", "seeds": "1", "lora.alpha": 3, "dora.r": "x" * 9999}
    assert known_settings(said) == {"lora.r": "4", "dora.r": "x" * 2000}
    assert known_settings([]) == {}


def read(model: str, *methods: str, **values: str) -> Reading:
    return read_request(model, SQL, methods, {k.replace("__", "."): v for k, v in values.items()})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    return str(folder)


def test_the_facts_are_of_the_chosen_model_and_settings(tiny: str) -> None:
    default = method_facts(read(tiny, "lora").request)
    wider = method_facts(read(tiny, "lora", lora__r="16").request)
    assert default.counts["lora"] == default.counts["qlora"] != wider.counts["lora"]
    assert wider.counts["qlora"] == default.counts["qlora"]
    assert default.reasons["bitfit"].startswith("This model has no biases")
    assert default.counts["bitfit"] == "–"
    assert "data-facts" in default.html()


def test_a_model_that_is_not_here_has_no_counts() -> None:
    assert set(method_facts(read("owner/never-fetched").request).counts.values()) == {"–"}
    assert method_facts(read("owner/never-fetched").request).reasons == {}
