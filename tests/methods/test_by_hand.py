"""PeftConfigs written by hand: what is taken, what is refused and why, and what they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.methods.by_hand import CONFIG, MAX_CHARACTERS, PEFT, canonical_config
from ftlab.methods.peft_rules import CANNOT_ANSWER, PEFT_TYPES
from ftlab.methods.registry import METHODS, get_method, label_of, look_of
from ftlab.methods.variant import (
    MAX_VARIANTS,
    Variant,
    format_variant,
    parse_variant,
    read_option,
    read_variants,
    validate_variant,
    with_setting,
    write_variants,
)
from ftlab.playground.adapter_files import check_config
from ftlab.prediction.adapters import read_adapter


def by_hand(**fields: Any) -> Variant:
    return with_setting(Variant(PEFT.id), CONFIG, json.dumps({"peft_type": "C3A"} | fields))


def lora(**fields: Any) -> str:
    return json.dumps({"peft_type": "LORA"} | fields)


def test_peft_can_be_named_but_is_not_among_all_methods() -> None:
    assert get_method("peft") is PEFT
    assert label_of("peft") == "PEFT"
    assert look_of("peft") == PEFT.look
    assert "peft" not in METHODS


def test_one_configuration_has_one_text_however_it_was_written() -> None:
    spaced = ' { "block_size" : 64,\n "peft_type": "C3A", "task_type": "CAUSAL_LM" } '
    full = lora(r=4, base_model_name_or_path=None, inference_mode=False, peft_version="0.21.2")
    assert canonical_config(spaced) == '{"block_size":64,"peft_type":"C3A"}'
    assert canonical_config(full) == '{"peft_type":"LORA","r":4}'
    assert canonical_config(canonical_config(full)) == canonical_config(full)


def test_the_method_without_a_configuration_is_refused() -> None:
    (error,) = validate_variant(Variant("peft"))
    assert error.field == "peft.config"
    assert "No PeftConfig is given" in error.message
    assert validate_variant(by_hand()) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "No PeftConfig is given"),
        ("{", "not valid JSON"),
        ("c3a", "not valid JSON"),
        ("[]", "holds no JSON object"),
        ('{"peft_type": "C3A", "r": NaN}', "not valid JSON"),
        ('{"peft_type": "C3A", "r": -Infinity}', "not valid JSON"),
        ('{"peft_type": "C3A", "r": 1e999}', "a number that is too large"),
        ('{"peft_type": "C3A", "peft_type": "LORA"}', "names 'peft_type' twice"),
        ("{" * 300_000, "300,000 characters"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "nested"),
        ('{"peft_type": "C3A", "a": ' + "[" * 40 + "]" * 40 + "}", "more than 32 levels"),
        (lora(a="x" * MAX_CHARACTERS), "are taken; leave out what has its default value"),
        ("{}", "peft_type None"),
        ('{"peft_type": ["C3A"]}', r"peft_type \['C3A'\]"),
        ('{"peft_type": "c3b"}', r"does not know. Did you mean 'C3A'\?"),
        ('{"peft_type": "<script>"}', "does not know. Name one that it has."),
        ('{"peft_type": "XLORA"}', "mixes other LoRA adapters"),
        ('{"peft_type": "POLY"}', "number of a task"),
        (lora(task_type="SEQ_CLS"), "only CAUSAL_LM is trained here"),
        (lora(base_model_name_or_path="/home/me/model"), "the sweep's own model"),
        (lora(auto_mapping={"parent_library": "os"}), "names a class to import"),
        (lora(inference_mode=True), "learns nothing"),
        (lora(megatron_config={"a": 1}), "code of its own"),
        (lora(custom_modules={"a": "b"}), "code of its own"),
        (lora(arrow_config={"top_k": 1}), "routes between other adapters"),
        (json.dumps({"peft_type": "SHADOW", "shadow_model": "a/b"}), "second model"),
        (lora(init_lora_weights="EVA"), "needs activations before the run"),
        (lora(init_lora_weights="loftq"), "needs a base quantised anew"),
        (lora(corda_config={"cache_file": "/tmp/x"}), "covariances"),
        (lora(bias="all"), "would fit no base that others have"),
        (lora(layer_replication=[[0, 2]]), "repeats layers"),
        (lora(init_lora_weights="pissa", kasa_config={"beta": 1}), "KaSA"),
        (
            json.dumps({"peft_type": "PROMPT_TUNING", "tokenizer_name_or_path": "evil/x"}),
            "names a tokenizer",
        ),
        (
            json.dumps({"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"a": True}}),
            "how to load a tokenizer",
        ),
        (lora(anything="/etc/passwd"), "names a file or an address in 'anything'"),
        (lora(anything={"deep": ["~/x"]}), "names a file or an address"),
        (lora(target_modules="https://x.y"), "names a file or an address"),
        (lora(target_modules="a\u001b[31m"), "characters that cannot be shown"),
        (lora(target_modules="a\ud800"), "characters that cannot be shown"),
        (lora(r=10**12), "which is too large"),
        (lora(r=-(10**12)), "which is too large"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FtlabError, match=sentence) as error:
        canonical_config(text)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "LORA", "target_modules": r".*\.(q|v)_proj"},
        {"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"},
        {"peft_type": "LORA", "init_lora_weights": "gaussian"},
        {"peft_type": "LORA", "rank_pattern": {r"layers\.0\..*": 4}},
        {"peft_type": "PROMPT_TUNING", "prompt_tuning_init_text": "either/or ~ see http://x"},
    ],
)
def test_patterns_starts_that_need_no_data_and_free_text_are_taken(config: dict[str, Any]) -> None:
    assert json.loads(canonical_config(json.dumps(config))) == config


@pytest.mark.parametrize(
    ("variant", "label"),
    [
        (by_hand(), "C3A"),
        (by_hand(block_size=64), "C3A block_size=64"),
        (by_hand(init_weights=True, scale=0.5), "C3A init_weights=True scale=0.5"),
        (by_hand(target_modules=["q_proj", "v_proj"]), "C3A target_modules=q_proj+v_proj"),
        (with_setting(by_hand(), "base", "nf4"), "C3A on nf4"),
        (
            with_setting(by_hand(block_size=64), "learning_rate", "1e-3"),
            "C3A block_size=64 lr=0.001",
        ),
    ],
)
def test_the_label_is_the_kind_and_what_was_set(variant: Variant, label: str) -> None:
    assert variant.label == label


def test_labels_of_settings_with_other_characters_are_distinct_and_have_no_markup() -> None:
    texts = ["<b onclick=x>", "<b onclick=y>"]
    labels = [by_hand(target_modules=f".*{text}").label for text in texts]
    labels += [by_hand(**{text: 1}).label for text in texts]
    labels += [by_hand(target_modules=[f"layer_{n}" for n in range(k)]).label for k in (20, 21)]
    assert len(set(labels)) == len(labels)
    assert all(len(label) <= 55 for label in labels)
    assert not any(set(label) & set("<>&'\"%{}") for label in labels)


def test_a_record_that_holds_nonsense_still_has_a_label() -> None:
    assert Variant("peft", {"config": "{torn"}).label == "PEFT"
    assert Variant("peft", {"config": '{"peft_type": "<i>"}'}).label == "PEFT"


@pytest.mark.parametrize("kind", [kind for kind in PEFT_TYPES if kind not in CANNOT_ANSWER])
def test_every_kind_of_peft_that_answers_can_be_named(kind: str) -> None:
    assert by_hand(peft_type=kind).label == kind


def test_a_variant_is_written_on_one_line_and_read_again() -> None:
    for variant in (
        with_setting(by_hand(target_modules=r".*, \"x\""), "base", "nf4"),
        by_hand(target_modules=["a", "b"]),
        parse_variant("oft:block=16,base=int8,learning_rate=1e-3"),
        with_setting(Variant("prompt_tuning_text"), "text", 'Say "a, b" = c: {1}'),
        Variant("lora"),
    ):
        line = format_variant(variant)
        assert "\n" not in line
        assert parse_variant(line) == variant


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('peft:config={"peft_type":"C3A"', "is not valid JSON; close its quotes"),
        ('peft:config={"peft_type":"C3A"}x', "not of the form name=value"),
        ("peft:config=C3A", "not valid JSON"),
        ('peft:config={"peft_type":"C3B"}', "Did you mean 'C3A'"),
        ('lora:r="8', "close its quotes"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(text: str, sentence: str) -> None:
    with pytest.raises(FtlabError, match=sentence):
        parse_variant(text)


def test_a_field_holds_one_object_or_a_list_with_rate_and_base_beside_each() -> None:
    one = read_variants('{"peft_type": "C3A", "learning_rate": 0.01, "base": "nf4"}')
    assert one == [Variant("peft", {"config": '{"peft_type":"C3A"}'}, 0.01, "nf4")]
    two = read_variants('[{"peft_type": "C3A"}, {"peft_type": "ROAD", "learning_rate": 1}]')
    assert [variant.label for variant in two] == ["C3A", "ROAD lr=1"]
    assert read_variants("  ") == []
    assert write_variants([]) == ""
    for variants in (one, two):
        assert read_variants(write_variants(variants)) == variants


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[{"peft_type": "C3A"}, {"peft_type": "C3A"}]', "C3A is there twice"),
        ('["C3A"]', "is no JSON object"),
        ("[[1]]", "is no JSON object"),
        ('[{"peft_type": "C3A"},]', "not valid JSON"),
        (json.dumps([{"peft_type": "C3A", "r": n} for n in range(MAX_VARIANTS + 1)]), "17 Peft"),
        ("[" + "1," * MAX_CHARACTERS * MAX_VARIANTS + "1]", "characters"),
        ('{"peft_type": "C3A", "base": "nf5"}', "none of: nf4, int8"),
        ('{"peft_type": "C3A", "base": {"a": 1}}', "none of: nf4, int8"),
        ('{"peft_type": "C3A", "learning_rate": "much"}', "not a number"),
        ('{"peft_type": "C3A", "learning_rate": [1]}', "not a number"),
    ],
)
def test_a_field_that_cannot_be_read_says_why(text: str, sentence: str) -> None:
    with pytest.raises(FtlabError, match=sentence):
        read_variants(text)


def test_an_option_names_a_file_and_settings_after_a_colon(tmp_path: Any) -> None:
    file = tmp_path / "c3a.json"
    file.write_text('{"peft_type": "C3A"}', encoding="utf-8")
    assert read_option(str(file)).label == "C3A"
    assert read_option(f"{file}:learning_rate=1e-3,base=nf4").label == "C3A on nf4 lr=0.001"
    odd = tmp_path / "a:b=c.json"
    odd.write_text('{"peft_type": "ROAD"}', encoding="utf-8")
    assert read_option(str(odd)).label == "ROAD"


@pytest.mark.parametrize(
    ("content", "settings", "sentence"),
    [
        (None, "", "cannot be read"),
        (b"\xff\xfe", "", "no text in UTF-8"),
        (b"[]", "", "holds 0 PeftConfigs"),
        (b'[{"peft_type": "C3A"}, {"peft_type": "ROAD"}]', "", "holds 2 PeftConfigs"),
        (b"{", "", "x.json: The PeftConfig is not valid JSON"),
        (b'{"peft_type": "C3A"}', ":bass=nf4", "Did you mean 'base'"),
        (b" " * 10**6, "", "x.json: it is longer than 800,000 bytes"),
    ],
)
def test_an_option_that_cannot_be_read_says_why(
    content: bytes | None, settings: str, sentence: str, tmp_path: Any
) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FtlabError, match=sentence):
        read_option(f"{file}{settings}")


def test_a_configuration_as_long_as_adaloras_rank_pattern_is_read_everywhere(
    tmp_path: Path,
) -> None:
    """PEFT writes a truth value for each rank of each layer, as in its own comparison's result."""
    pattern = {f"model.layers.{n}.self_attn.q_proj.lora_E": [True] * 64 for n in range(80)}
    config = {"peft_type": "ADALORA", "target_r": 32, "init_r": 64, "rank_pattern": pattern}
    text = json.dumps(config | {"base_model_name_or_path": None})
    assert 20_000 < len(text) < MAX_CHARACTERS
    (from_field,) = read_variants(text)
    file = tmp_path / "adapter_config.json"
    file.write_text(text, encoding="utf-8")
    assert read_option(str(file)) == from_field
    assert read_adapter(str(file)) == from_field
    assert validate_variant(from_field) == []
    assert check_config(json.dumps(config | {"base_model_name_or_path": "a/b"}).encode()).method
