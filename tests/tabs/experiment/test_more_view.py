"""Matched parameters and PeftConfigs by hand: how the form reads them, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.peft_check import Checked
from ftlab.methods.variant import Variant
from ftlab.tabs.api import api_request
from ftlab.tabs.experiment import method_view
from ftlab.tabs.experiment.method_view import has_config, matches_html, more_summary, peft_html
from ftlab.tabs.experiment.request import Reading, read_request
from ftlab.tasks.reference import TaskReference
from tests.tiny import make_tiny_model

SQL = TaskReference("bundled", "sql")
C3A = '{"peft_type": "C3A", "block_size": 32}'


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def read(model: str, *methods: str, **values: Any) -> Reading:
    return read_request(model, SQL, methods, values)


# ---------------------------------------------------------------- matched parameters


def test_every_variant_of_the_form_is_matched_to_the_budget(tiny: str) -> None:
    reading = read(tiny, "lora", "vera", "ia3", extra="dora", match="10k")
    assert reading.errors == ()
    assert reading.budget == 10_000
    assert [match.variant for match in reading.matches] == list(reading.request.variants)
    lora, _, ia3, dora = reading.matches
    assert lora.variant.values()["r"] != Variant("lora").values()["r"]
    assert ia3.reason
    assert not lora.reason
    assert dora.variant.method == "dora"


def test_each_match_is_a_line_and_one_that_is_off_says_why(tiny: str) -> None:
    reading = read(tiny, "lora", "ia3", match="10k")
    html = matches_html(reading.matches, reading.budget)
    assert html.count("<li") == 2
    assert html.count('class="off"') == 1
    assert "not within 10 %" in html
    assert matches_html((), 0) == ""


@pytest.mark.parametrize("text", ["", "  ", None])
def test_an_empty_budget_leaves_the_variants_alone(tiny: str, text: str | None) -> None:
    reading = read(tiny, "lora", match=text)
    assert reading.request.variants == (Variant("lora"),)
    assert reading.matches == ()


@pytest.mark.parametrize("text", ["much", "0", "-3", "<b>"])
def test_a_budget_that_is_none_is_told_at_its_field(tiny: str, text: str) -> None:
    assert [error.field for error in read(tiny, "lora", match=text).errors] == ["match"]


def test_on_a_model_that_is_not_here_nothing_can_be_matched() -> None:
    errors = read("owner/never-fetched", "lora", match="1M").errors
    assert [error.field for error in errors] == ["match"]


def test_the_api_matches_too(tiny: str) -> None:
    request = api_request(tiny, SQL, ["lora"], "0", {}, {"match": "10k"})
    assert request.variants == read(tiny, "lora", match="10k").request.variants


@pytest.mark.parametrize("name", ["eval_split", "eval_answers", "matsch"])
def test_the_api_takes_no_setting_that_it_would_pass_over(tiny: str, name: str) -> None:
    with pytest.raises(FtlabError, match=f"no setting '{name}'"):
        api_request(tiny, SQL, ["lora"], "0", {}, {name: "tuning"})


# ---------------------------------------------------------------- PeftConfigs by hand


def test_a_config_by_hand_is_a_variant_beside_the_ticked_ones(tiny: str) -> None:
    labels = [v.label for v in read(tiny, "lora", peft_json=C3A).request.variants]
    assert labels == ["LoRA", "C3A block_size=32"]
    assert read(tiny, peft_json=C3A).errors == ()


@pytest.mark.parametrize("text", ["{", "[1]", '{"peft_type": "NONESUCH"}'])
def test_a_config_that_cannot_be_read_is_told_at_its_field_and_not_asked_about(
    tiny: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_view, "check_variants", lambda *_: pytest.fail("PEFT was asked"))
    assert [error.field for error in read(tiny, peft_json=text).errors] == ["peft_json"]
    assert not has_config({"peft_json": text})
    assert peft_html({"peft_json": text}) == ""


def test_what_peft_says_stands_below_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(variants: list[Variant], request: Any) -> list[Checked]:
        good, bad = variants
        return [Checked(good, 1_700_000), Checked(bad, None, "No <field> 'rr'.")]

    monkeypatch.setattr(method_view, "check_variants", answer)
    text = f'[{C3A}, {{"peft_type": "LORA", "rr": 3}}]'
    html = peft_html({"task": "sql", "peft_json": text})
    assert "C3A block_size=32: PEFT takes it, 1.7 M trainable parameters." in html
    assert "No &lt;field&gt;" in html
    assert html.count('role="alert"') == 1


def test_that_peft_cannot_be_asked_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> list[Checked]:
        raise FtlabError("No <memory>.")

    monkeypatch.setattr(method_view, "check_variants", refuse)
    assert "No &lt;memory&gt;." in peft_html({"task": "sql", "peft_json": C3A})


# ---------------------------------------------------------------- the label


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"extra": "lora:r=4\n\nlora:r=16"}, "More: 2 further variants"),
        ({"match": " 2.4M "}, "More: parameters matched to 2.4M"),
        ({"peft_json": C3A, "extra": "lora:r=4"}, "More: 1 further variant, a PeftConfig by hand"),
    ],
)
def test_the_label_says_what_is_filled_in(values: dict[str, str], label: str) -> None:
    assert more_summary(values) == label


def test_the_label_says_what_could_be() -> None:
    assert "any other PEFT type" in more_summary({})
