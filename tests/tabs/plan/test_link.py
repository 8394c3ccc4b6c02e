"""Plan's address: it opens what the fields hold, and a wrong one is a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.inputs import EVERYTHING, demo_access
from ftlab.tabs.address import address_of
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.plan import tab
from ftlab.tabs.plan.request import ADDRESS, ON_FORM, PREFIX, START, link_of, read_link, read_plan
from ftlab.tabs.plan.share import _NO_LINK, share_file, updates
from ftlab.tabs.plan.tab import link_updates, make_plan
from tests.prediction.fakes import SizedPredictor
from tests.tabs.page_fakes import page_context
from tests.tabs.plan.test_tab import values

OTHERS: dict[str, Any] = {
    "model": "Qwen/Qwen2.5-7B", "card": "h100", "price": "0.8", "method": "dora",
    "length": 2048, "batch": 1,
    "accumulation": 8, "completion_tokens": "40", "weights": "fp16", "optimizer": "adamw_8bit",
    "checkpointing": False, "shard": 2,
}  # fmt: skip
"""A value for each input that is not the one of a new form."""


def fields(**changes: Any) -> dict[str, Any]:
    return {PREFIX + name: value for name, value in (START | {"config": ""} | changes).items()}


def asked(**given: str) -> dict[str, str]:
    return dict.fromkeys(ADDRESS, "") | given


def test_a_new_form_is_the_bare_address_and_a_plan() -> None:
    plan = read_plan(fields())
    assert plan.link == {}
    assert plan.model.label == "Llama 3.1 8B"
    assert round(plan.card.memory_bytes / 2**30) == 24
    assert read_link(asked()) == (fields(), [])


def test_every_input_has_a_value_here() -> None:
    assert set(OTHERS) == set(ADDRESS)
    assert all(OTHERS[name] != START[name] for name in ADDRESS)


@pytest.mark.parametrize("name", ADDRESS)
def test_an_input_is_in_the_address_and_is_read_from_it(name: str) -> None:
    changed = fields(**{name: OTHERS[name]})
    link = read_plan(changed).link
    assert link is not None
    assert list(link) == [name]
    assert read_link(asked(**link)) == (changed, [])


def test_all_inputs_together_are_read_from_their_address() -> None:
    others = OTHERS | {"shard": START["shard"]}  # 8-bit states and one row are not divided
    link = read_plan(fields(**others)).link
    assert link is not None
    assert read_link(asked(**link)) == (fields(**others), [])


def test_a_model_goes_by_its_id_however_it_is_named() -> None:
    assert link_of(fields(model="llama 3.1 70b")) == {"model": "meta-llama/Llama-3.1-70B"}
    assert link_of(fields(model="somebody/own-8B")) == {"model": "somebody/own-8B"}
    given, wrong = read_link(asked(model="somebody/own-8B"))
    assert (given["plan_model"], wrong) == ("somebody/own-8B", [])


@pytest.mark.hostile("addresses")
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("model", "../../etc/passwd", "is no model for an address"),
        ("model", "/etc/passwd", "is no model for an address"),
        ("model", "~/model", "is no model for an address"),
        ("model", "assets", "is no model for an address"),  # a folder here
        ("model", '{"model_type": "llama"}', "is no model for an address"),
        ("model", "<img src=x onerror=alert(1)>", "is no model for an address"),
        ("model", "a\x00b", "is no model for an address"),
        ("model", "https://evil.example/config.json", "is no model for an address"),
        ("card", "abacus", "There is no card 'abacus'"),
        ("card", "<b>4090</b>", "There is no card"),
        ("method", "lorra", "There is no method 'lorra'"),
        ("method", "['lora','full']", "There is no method"),
        ("method", "peft", "method"),
        ("length", "many", "Longest example is 'many'"),
        ("length", "10^30", "Longest example is '10^30'"),
        ("length", "1e300", "Longest example is 1,000"),
        ("length", "nan", "Longest example is 'nan'"),
        ("length", "-1", "Longest example is -1"),
        ("batch", "[4, 8]", "Batch is '[4, 8]'"),
        ("batch", "1.5", "Batch is '1.5'"),
        ("accumulation", "0", "Accumulation is 0"),
        ("completion_tokens", "1000", "can carry loss"),
        ("weights", "fp8", "'fp8' is none of: bf16, fp16, fp32"),
        ("optimizer", "' OR 1=1 --", "is none of: adamw"),
        ("checkpointing", "True", "it must be true or false"),
    ],
)
def test_a_wrong_value_is_a_sentence_and_the_rest_is_shown(
    name: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    other = "batch" if name != "batch" else "length"
    given, (sentence,) = read_link(asked(**{name: text, other: "2"}))
    assert said in sentence
    assert len(sentence) <= 200
    assert given == fields(**{other: 2})
    read_plan(given)


def test_a_demo_names_no_model_of_the_hub_by_an_address() -> None:
    given, (sentence,) = read_link(asked(model="somebody/own-8B"), demo_access())
    assert given == fields()
    assert "demo" in sentence


def test_wrong_values_are_warned_of_once_and_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(tab, "warn", warned.append)
    given = list(asked(card="abacus", length="x", batch="8").values())
    now = dict(zip(fields(), link_updates(given, fields(), EVERYTHING), strict=True))
    (sentence,) = warned
    assert "abacus" in sentence
    assert "Longest example is 'x'" in sentence
    assert (now["plan_card"], now["plan_length"], now["plan_batch"]) == ("rtx-4090", 896, 8)


def test_going_back_to_a_pasted_config_does_not_lose_it() -> None:
    pasted = fields(config='{"model_type": "llama"}')
    bare = list(asked().values())
    kept = link_updates(bare, pasted, EVERYTHING)
    assert all(update.get("__type__") == "update" and len(update) == 1 for update in kept)
    assert link_updates(bare, fields(batch=8), EVERYTHING) == list(fields().values())
    named = list(asked(batch="8").values())
    assert link_updates(named, pasted, EVERYTHING) == list(fields(batch=8).values())


@pytest.mark.parametrize("changes", [{"config": "{pasted}"}, {"model": "folder"}])
def test_a_pasted_config_and_a_folder_have_no_link_and_that_is_said(
    changes: dict[str, str], tmp_path: Path
) -> None:
    config = json.dumps({"model_type": "gpt2", "n_positions": 512})
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    given = {name: config if name == "config" else str(tmp_path) for name in changes}
    plan = read_plan(fields(**given))
    assert plan.link is None
    assert str(tmp_path) not in plan.model_name
    *_, link, note, _ = updates(plan, None)
    assert link["interactive"] is False
    assert "a pasted config.json is too long" in note
    assert "There is no link" in _NO_LINK


def states(tmp_path: Path, **changes: Any) -> list[list[Any]]:
    predictor = SizedPredictor(lambda question: 10)
    context = page_context(tmp_path, predictor)
    return list(make_plan(context, Form(), values(**changes), predictor.ask))


def test_the_verdict_names_its_address_and_a_wrong_field_leaves_it(tmp_path: Path) -> None:
    shown = states(tmp_path, method="qlora", batch=4, length=512, checkpointing=True)
    named = address_of(method="qlora", length="512")
    assert all(named in state[0] for state in shown)
    (wrong,) = states(tmp_path, batch=0)
    assert wrong[-1] == wrong[0]  # neither the verdict nor the card is changed


def test_the_card_is_shown_and_files_are_offered_when_all_is_predicted(tmp_path: Path) -> None:
    *before, last = states(tmp_path)
    for state in before:
        assert [button["interactive"] for button in state[-6:-3]] == [False] * 3
        assert "<svg" not in state[-1]
    assert [button["interactive"] for button in last[-6:-2]] == [True] * 4
    assert "Predicted: one GeForce RTX 4090 is enough" in last[-1]


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_a_file_is_made_of_what_the_page_shows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    predictor = SizedPredictor(lambda question: 20 if question.step.checkpointing else 40)
    context = page_context(tmp_path / "runs", predictor)
    given = values(method="dora")
    with pytest.raises(FtlabError, match="Not every method of this plan is predicted yet"):
        share_file(context, kind, given)
    *_, last = make_plan(context, Form(), given, predictor.ask)
    path = share_file(context, kind, given)
    assert share_file(context, kind, given) != path, "a file of one's own, not of all who ask"
    what = "report" if kind == "html" else "card"
    assert path.name == f"ftlab-plan-{what}-rtx-4090-DoRA-Llama-3-1-8B.{kind}"
    assert path.is_relative_to(tmp_path / "gradio")
    if kind == "svg":
        assert path.read_text(encoding="utf-8") in last[-1]
    if kind == "html":
        assert "Gradient checkpointing: predicted peak" in path.read_text(encoding="utf-8")


def test_the_model_of_a_file_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    folder = tmp_path / "..x<b>" / ("y" * 200)
    folder.mkdir(parents=True)
    config = json.dumps({"model_type": "gpt2"})
    (folder / "config.json").write_text(config, encoding="utf-8")
    predictor = SizedPredictor(lambda question: 10)
    context = page_context(tmp_path / "runs", predictor)
    given = values(model=str(folder))
    list(make_plan(context, Form(), given, predictor.ask))
    path = share_file(context, "svg", given)
    assert path.parent.parent == tmp_path / "gradio" / "ftlab"
    assert len(path.name) < 140


def test_the_form_has_a_start_for_each_of_its_inputs() -> None:
    assert set(START) == {"model", "card", "price", "method", *ON_FORM}
