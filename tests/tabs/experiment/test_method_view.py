"""The table of methods and its settings, matched parameters, PEFT's answer on a PeftConfig."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.peft_check import Checked
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.spec import FAMILIES
from ftlab.methods.variant import Variant
from ftlab.tabs.experiment import method_view
from ftlab.tabs.experiment.method_view import (
    known_settings,
    known_ticks,
    matches_html,
    method_facts,
    method_table,
    more_summary,
    peft_html,
)
from ftlab.tabs.widgets import escape
from tests.tabs.experiment.test_request import C3A, read


def row(table: str, method_id: str) -> str:
    found = re.search(f'<tbody data-method="{method_id}">.*?</tbody>', table, re.S)
    assert found is not None
    return found.group()


def test_the_settings_of_a_method_begin_with_what_it_is_good_for_and_weak_at() -> None:
    table = method_table(["lora"])
    for method in METHODS.values():
        own = row(table, method.id).split('<tr class="own"')[1]
        advice, fields = own.split('<div class="fields">')
        assert f"<b>Good for:</b> {escape(method.good_for)}" in advice
        assert f"<b>Weak at:</b> {escape(method.weak_at)}" in advice
        assert "advice" not in fields


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


def test_the_base_precision_is_offered_for_adapters_without_one_of_their_own() -> None:
    table = method_table(())
    assert 'data-name="oft.base"' in table
    for method_id in ("full", "last_layers", "qlora", "lora_int8"):
        assert f"{method_id}.base" not in table


def test_a_method_that_is_not_offered_says_why_and_cannot_be_ticked(
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


def test_the_facts_are_of_the_chosen_model_and_settings(tiny_model: Path) -> None:
    default = method_facts(read(model=tiny_model).request)
    wider = method_facts(read(model=tiny_model, lora__r="16").request)
    assert default.counts["lora"] == default.counts["qlora"] != wider.counts["lora"]
    assert wider.counts["qlora"] == default.counts["qlora"]
    assert default.reasons["bitfit"].startswith("This model has no biases")
    assert default.counts["bitfit"] == "–"
    assert "data-facts" in default.html()


def test_a_model_that_is_not_on_this_machine_has_no_counts() -> None:
    facts = method_facts(read([], "owner/never-fetched").request)
    assert set(facts.counts.values()) == {"–"}
    assert facts.reasons == {}


def test_each_match_is_a_line_with_the_reason_if_it_misses_the_budget(tiny_model: Path) -> None:
    reading = read(["lora", "ia3"], tiny_model, match="10k")
    html = matches_html(reading.matches, reading.budget)
    assert html.count("<li") == 2
    assert html.count('class="off"') == 1
    assert "not within 10 %" in html
    assert matches_html((), 0) == ""


def test_peft_s_answer_is_below_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(variants: list[Variant], request: Any) -> list[Checked]:
        good, bad = variants
        return [Checked(good, 1_700_000), Checked(bad, None, "No <field> 'rr'.")]

    monkeypatch.setattr(method_view, "check_variants", answer)
    text = f'[{C3A}, {{"peft_type": "LORA", "rr": 3}}]'
    html = peft_html({"task": "sql", "peft_json": text})
    assert "C3A block_size=32: PEFT takes it, 1.7 M trainable parameters." in html
    assert "No &lt;field&gt;" in html
    assert html.count('role="alert"') == 1


def test_a_failed_check_by_peft_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> list[Checked]:
        raise FtlabError("No <memory>.")

    monkeypatch.setattr(method_view, "check_variants", refuse)
    assert "No &lt;memory&gt;." in peft_html({"task": "sql", "peft_json": C3A})


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"extra": "lora:r=4\n\nlora:r=16"}, "More: 2 further variants"),
        ({"match": " 2.4M "}, "More: parameters matched to 2.4M"),
        ({"peft_json": C3A, "extra": "lora:r=4"}, "More: 1 further variant, a PeftConfig by hand"),
        ({}, "More: a method at several settings, matched parameters, any other PEFT type"),
    ],
)
def test_the_label_names_what_is_filled_in_or_can_be(values: dict[str, str], label: str) -> None:
    assert more_summary(values) == label
