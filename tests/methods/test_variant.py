"""Reading and checking variants."""

from __future__ import annotations

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant, apply_settings, parse_variant, validate_variant


def test_a_bare_method_has_the_defaults() -> None:
    variant = parse_variant("lora")
    assert variant.values() == METHODS["lora"].defaults()
    assert variant.label == "LoRA"


def test_hyperparameters_are_converted_and_named_in_the_label() -> None:
    variant = parse_variant("lora:r=4, learning_rate=1e-3")
    assert variant.values()["r"] == 4
    assert variant.learning_rate == 1e-3
    assert variant.label == "LoRA r=4 lr=0.001"


def test_a_value_equal_to_the_default_leaves_no_trace() -> None:
    assert parse_variant("lora:r=8") == parse_variant("lora")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lorra", "Did you mean 'lora'?"),
        ("lora:rank=4", "LoRA has no hyperparameter 'rank'"),
        ("lora:r=four", "lora.r is 'four', which is not a whole number."),
        ("lora:r=2.5", "which is not a whole number."),
        ("lora:r=nan", "which is not a whole number."),
        ("lora:r", "not of the form name=value"),
        ("prompt_tuning:tokns=3", "Did you mean 'tokens'?"),
        ("full:base=nf4", "has no hyperparameter 'base'"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FtlabError) as caught:
        parse_variant(text)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("variant", "field", "part"),
    [
        (Variant("lora", {"r": 0}), "lora.r", "Rank r is 0; it must lie between 1 and 512"),
        (Variant("lora", {"r": 513}), "lora.r", "Rank r is 513; it must lie between 1 and 512"),
        (Variant("lora", {"r": "8"}), "lora.r", "Rank r is 8, which is not a number"),
        (Variant("lora", {"targets": "all"}), "lora.targets", "none of"),
        (Variant("lora", {"nope": 1}), "lora.nope", "no hyperparameter 'nope'"),
        (Variant("full", {}, -1.0), "full.learning_rate", "must be above 0"),
        (Variant("full", {}, 0.0), "full.learning_rate", "must be above 0"),
        (Variant("full", {}, 10.5), "full.learning_rate", "must be above 0 and at most 10"),
        (Variant("full", {}, float("nan")), "full.learning_rate", "must be above 0"),
        (Variant("nope"), "variants", "There is no method 'nope'"),
        (Variant("full", base="nf4"), "full.base", "trains weights of the base itself"),
        (Variant("qlora", base="int8"), "qlora.base", "has its base in nf4 by definition"),
        (Variant("lora", base="nf5"), "lora.base", "none of: nf4, int8"),  # type: ignore[arg-type]
    ],
)
def test_wrong_values_name_their_field_and_rule(variant: Variant, field: str, part: str) -> None:
    (error,) = validate_variant(variant)
    assert error.field == field
    assert part in error.message


@pytest.mark.parametrize(
    ("texts", "setting", "changed"),
    [
        (["lora", "lora:r=4", "full"], "lora.r=16", ["lora:r=16", "lora:r=4", "full"]),
        (["lora", "lora:base=int8"], "lora.base=nf4", ["lora:base=nf4", "lora:base=int8"]),
        (
            ["lora:learning_rate=0.1", "lora:r=4"],
            "lora.learning_rate=0.2",
            ["lora:learning_rate=0.1", "lora:r=4,learning_rate=0.2"],
        ),
    ],
)
def test_a_setting_reaches_every_variant_of_its_method_that_has_no_own(
    texts: list[str], setting: str, changed: list[str]
) -> None:
    variants = apply_settings([parse_variant(text) for text in texts], [setting])
    assert variants == [parse_variant(text) for text in changed]


@pytest.mark.parametrize("variant", [Variant("lora", {"r": 512}), Variant("lora", {"r": 1}, 10.0)])
def test_values_at_the_ends_of_their_range_are_taken(variant: Variant) -> None:
    assert validate_variant(variant) == []


def test_a_setting_of_a_method_outside_the_sweep_is_refused() -> None:
    with pytest.raises(FtlabError, match="not in this sweep"):
        apply_settings([parse_variant("full")], ["lora.r=16"])


def test_every_method_says_what_it_is_good_for_and_weak_at_and_none_what_another_says() -> None:
    said = [text for method in METHODS.values() for text in (method.good_for, method.weak_at)]
    assert all(text.endswith(".") and text[0].isupper() for text in said)
    good = [method.good_for for method in METHODS.values()]
    assert len(set(good)) == len(good)  # `replace` of another method takes its sentence too


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.id)
def test_every_method_is_described_and_its_defaults_are_valid(method) -> None:
    assert method.summary.endswith(".")
    assert method.paper.url.startswith("https://")
    assert validate_variant(Variant(method.id, method.defaults())) == []
    for parameter in method.hyperparameters:
        assert parameter.help.endswith(".")


def test_an_adapter_can_be_laid_over_a_base_in_fewer_bits() -> None:
    variant = parse_variant("oft:base=nf4")
    assert variant.label == "OFT on nf4"
    assert variant.base_precision == "nf4"
    assert Variant("qlora").base_precision == "nf4"
    assert Variant("lora").base_precision is None
    assert parse_variant("qlora:base=nf4") == Variant("qlora")
    assert validate_variant(variant) == []
