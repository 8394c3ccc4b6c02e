"""Patterns of layers' names: what is matched, in what time, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import time
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.methods.by_hand import canonical_config
from ftlab.methods.peft_rules import MAX_STRINGS, BadPattern, compiled, foreign_part, wrong_pattern

LAYERS = [
    f"{start}layers.{number}.{name}"
    for start in ("", "model.", "model.visual.", "model.language_model.", "base_model.model.model.")
    for number in (0, 1, 11)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "mlp.experts.3.w1")
] + ["lm_head", "model.embed_tokens", "transformer.h.3.attn.c_attn", "decoder.SelfAttention.q"]

UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj)))"
)
HONEST = [
    UNSLOTH,
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$",
    r".*(language_model).*\.(q_proj|v_proj)$",
    r"^(?!.*vis).*(?:q_proj|k_proj).*",
    r"^(model)(?!.*(lm_head|output|emb|wte|shared)).*",
    r"(?=model)(?!.*mlp).*proj",
    r".*(?!visual)layers\.\d+\.self_attn\.q_proj$",
    r"model\.layers\.(?:[0-9]|1[0-5])\.self_attn\.[qv]_proj",
    "model.layers.1.mlp.down_proj",
    r".*\.[^.]*\.(?P<idx>\d+)\..*",
    r"(.*\.)?(self_attn.q_proj)$",
    r"(?i).*Q_PROJ",
    "|".join(f"model.layers.{i}.self_attn.{n}_proj" for i in range(80) for n in "qkvo"),
]


@pytest.mark.parametrize("text", HONEST, ids=lambda text: text[:40])
def test_what_people_write_matches_the_layers_that_re_matches(text: str) -> None:
    assert wrong_pattern({"target_modules": text}) == ""
    found = [name for name in LAYERS if compiled(text).fullmatch(name)]
    assert found == [name for name in LAYERS if re.fullmatch(text, name)]
    assert found


def test_every_configuration_of_pefts_own_comparison_is_taken() -> None:
    data = Path(__file__).parents[1] / "prediction" / "data"
    configs = [
        json.loads(row["peft_config"])
        for path in sorted(data.glob("peft_metamathqa_*.csv"))
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        if row["peft_config"]
    ]
    assert len(configs) > 55
    assert {(wrong_pattern(config), foreign_part(config)) for config in configs} == {("", "")}


def test_the_groups_of_a_match_are_those_of_re() -> None:
    text = r".*?\.[^.]*\.(?P<idx>\d+)\."
    for name in LAYERS:
        ours, theirs = compiled(text).match(name), re.match(text, name)
        assert (ours and ours.groupdict()) == (theirs and theirs.groupdict())
        assert (ours and ours.group(0)) == (theirs and theirs.group(0))


def test_a_match_is_replaced_as_re_does() -> None:
    text = r"[^.]+\.base_layer\."
    for name in (*LAYERS, "model.q_proj.base_layer.weight", "a.base_layer.b.base_layer.c"):
        assert compiled(text).sub("", name) == re.sub(text, "", name)


SLOW_WITH_RE = [
    ".?" * 45 + "Z", "((.+)+)+Z", "(.|.)" * 30 + "Z", "(a+)+$", "(a|a)*b", "(.*)*x", "(x+x+)+y",
    "^(([a-z])+.)+[A-Z]([a-z])+$", "(?:.*?){40}$", ".*" * 500 + "x", "(?!.*Z)" + ".?" * 10 + "Z",
    "(?:.?){1000}x", "(?:\\w?\\W?){400}Z", "(a|b|c|.)*" * 300 + "Z", "([\\w.]*){9,}$",
]  # fmt: skip


@pytest.mark.hostile("patterns of layers")
@pytest.mark.parametrize("text", SLOW_WITH_RE, ids=lambda text: text[:20])
def test_a_pattern_that_re_would_run_for_years_is_through_a_model_in_a_moment(text: str) -> None:
    began = time.process_time()
    for name in LAYERS:
        compiled(text).fullmatch(name + "a" * 40)
    assert time.process_time() - began < 3


NOT_TAKEN = {
    r"(a)\1": "refers back to a group",
    "(?<!a)b": "looks behind",
    "(?<=a)b": "looks behind",
    "(a(?!b))*": "a look-around may only stand",
    "a(?!b)*c": "a look-around may only stand",
    "(?!a)x|y": "a look-around may only stand",
    "a(?!b)c(?!d)e": "a look-around may only stand",
    r"a(?!\bb)c": "a look-around may only stand",
    "(?i)(?!a)b": "a look-around may only stand",
    "(?!a": "opens a group that it does not close",
    "(?!a))": "closes a group that it does not open",
    "a{1001}": "repeats too much",
    "((a{1,99}){1,99}){1,99}": "repeats too much",
    "*.q_proj": "no regular expression",
    "a" * 20_001: "20,001 characters",
    "\ud800": "no regular expression",
}


@pytest.mark.hostile("patterns of layers")
@pytest.mark.parametrize("text", NOT_TAKEN, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("shape", ["text", "list", "key", "inner list"])
def test_a_pattern_that_is_not_taken_is_named_with_its_field_and_the_rule(
    text: str, shape: str
) -> None:
    value = {"text": text, "list": [text], "key": {text: 2}, "inner list": {"a": [[text]]}}[shape]
    said = wrong_pattern({"a_field_of_tomorrow": value})
    assert "'a_field_of_tomorrow'" in said
    if text.isascii() and len(text) <= 20_000:
        assert NOT_TAKEN[text] in said
    if text.isprintable():
        with pytest.raises(FtlabError, match="name the layers in a list"):
            canonical_config(json.dumps({"peft_type": "LORA", "target_modules": value}))


def test_only_whole_names_are_matched_with_a_look_around() -> None:
    pattern = compiled("(?!.*vision).*q_proj")
    assert pattern.fullmatch("model.q_proj")
    for matched in (pattern.match, pattern.search):
        with pytest.raises(BadPattern, match="only stand in a pattern of whole names"):
            matched("model.q_proj")


@pytest.mark.parametrize("value", [["(?!a)b"], {"(?!a)b": 2}])
def test_a_look_around_in_what_peft_puts_into_a_group_is_refused(value: object) -> None:
    assert "a look-around may only stand" in wrong_pattern({"rank_pattern": value})


@pytest.mark.hostile("patterns of layers")
def test_too_many_patterns_are_refused() -> None:
    names = [f"layer_{number}" for number in range(MAX_STRINGS + 1)]
    assert "has 5,001 texts in 'modules_to_save'" in wrong_pattern({"modules_to_save": names})
    assert "has 5,001 texts" in wrong_pattern({"rank_pattern": dict.fromkeys(names, 2)})
    slow = {f"{number}(?:.?){{500}}": 2 for number in range(50)}
    assert "would take too long, as in 'rank_pattern'" in wrong_pattern({"rank_pattern": slow})


@pytest.mark.parametrize("field", ["base_model_name_or_path", "prompt_tuning_init_text"])
def test_names_of_models_and_free_text_are_no_patterns(field: str) -> None:
    assert wrong_pattern({field: "C:\\models\\(x :-) *bold*"}) == ""


def test_the_layers_of_many_experts_may_be_listed() -> None:
    names = [f"model.layers.{i}.mlp.experts.{e}.w1" for i in range(48) for e in range(128)]
    assert wrong_pattern({"target_modules": names}) == ""


@pytest.mark.hostile("patterns of layers")
def test_a_config_of_many_texts_is_checked_within_two_seconds() -> None:
    began = time.process_time()
    for text in ("(a|b)*", "\\pL{1,9}", "[", "(?!a)b"):
        texts = [f"{text}{number}" for number in range(4_999)]
        wrong_pattern({"a": texts, "b": texts, "c": texts, "d": texts})
    assert time.process_time() - began < 2
