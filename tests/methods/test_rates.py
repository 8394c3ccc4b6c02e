"""The rules by which a starting rate goes with the model's size, against their sources."""

from __future__ import annotations

import pytest

from ftlab.methods.rates import (
    BY_WIDTH,
    TUNED_ON,
    ModelSize,
    how_scaled,
    size_of,
    what_is_done,
)
from ftlab.methods.registry import METHODS, get_method, on_base, rates_kept
from ftlab.models.dimensions import catalogue, known_model
from ftlab.models.reference import BUNDLED_ID
from ftlab.settings.training import HIGHEST_RATE

UNSCALED = ("prompt_tuning", "prompt_tuning_text", "ia3", "randlora", "fourierft")
LLAMA_8B = ModelSize("llama", 4096)


def published(hidden: int, exponent: float, multiplier: float = 10) -> float:
    """LR = 5e-5 * M * (2000 / hidden size)^P, as it is published."""
    return 5e-5 * multiplier * (2000 / hidden) ** exponent


@pytest.mark.parametrize("method", METHODS)
def test_on_the_bundled_model_or_one_of_unknown_width_every_method_has_its_tuned_rate(
    method: str,
) -> None:
    spec = METHODS[method]
    for size in (TUNED_ON, ModelSize("llama", 0)):
        assert spec.rate_for(size) == spec.learning_rate


def test_the_bundled_model_is_the_size_that_the_rates_were_tuned_on() -> None:
    bundled = known_model(BUNDLED_ID)
    assert bundled is not None
    assert size_of(bundled.config) == TUNED_ON


@pytest.mark.parametrize(
    ("method", "hidden", "rate"),
    [
        ("lora", 2048, 7.4e-4),  # Llama 3.2 1B: 2e-3 * (576 / 2048)^0.781
        ("lora", 4096, 4.3e-4),  # Llama 3.1 8B
        ("lora", 8192, 2.5e-4),  # Llama 3.1 70B
        ("full", 4096, 6.5e-5),
        ("adalora", 4096, 3.2e-3),
    ],
)
def test_a_wider_llama_gets_a_lower_rate_of_two_digits(
    method: str, hidden: int, rate: float
) -> None:
    assert METHODS[method].rate_for(ModelSize("llama", hidden)) == rate


@pytest.mark.parametrize("multiplier", [10, 1])
@pytest.mark.parametrize(("family", "exponent"), [("llama", 0.781), ("qwen3", 0.0775)])
def test_the_rule_is_the_published_formula_of_the_family_over_that_of_the_bundled_model(
    family: str, exponent: float, multiplier: float
) -> None:
    for hidden in (576, 896, 2048, 5120):
        wanted = published(hidden, exponent, multiplier) / published(576, 0.781, multiplier)
        assert BY_WIDTH.rate(1.0, ModelSize(family, hidden)) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gpt2", "", "phi3"])
def test_a_family_that_nobody_fitted_is_scaled_as_a_llama(family: str) -> None:
    lora = METHODS["lora"]
    assert lora.rate_for(ModelSize(family, 4096)) == lora.rate_for(LLAMA_8B)


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_of_a_methods_own_paper_keeps_the_rate_and_all_others_scale_it(method: str) -> None:
    spec, rule = METHODS[method], METHODS[method].rate_rule
    is_kept = spec.rate_for(LLAMA_8B) == spec.learning_rate
    assert is_kept == (method in UNSCALED) == (rule is not BY_WIDTH)
    assert rule.url.startswith("https://")
    assert rule.words
    assert rule.source[-1] not in ".;,"
    if method in UNSCALED:
        assert rule.url == spec.paper.url


def test_an_adapter_by_its_config_is_scaled_as_most_are() -> None:
    assert get_method("peft").rate_for(LLAMA_8B) == 2.2e-4


@pytest.mark.parametrize("model", catalogue(), ids=lambda model: model.id)
def test_every_model_of_the_catalogue_has_a_size_and_rates_that_may_be_used(model: object) -> None:
    size = size_of(model.config)  # type: ignore[attr-defined]
    assert size.hidden >= 576
    for spec in METHODS.values():
        assert 0 < spec.rate_for(size) <= spec.learning_rate


def test_a_very_narrow_model_gets_no_rate_that_would_be_refused() -> None:
    assert METHODS["prefix_tuning"].rate_for(ModelSize("llama", 1)) == HIGHEST_RATE


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"model_type": "llama", "hidden_size": 64}, ModelSize("llama", 64)),
        ({"model_type": "gpt2", "n_embd": 768}, ModelSize("gpt2", 768)),
        ({"model_type": "mpt", "d_model": 512}, ModelSize("mpt", 512)),
        (
            {"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 9, "model_type": "qwen2"}},
            ModelSize("qwen2", 9),
        ),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 9}}, ModelSize("gemma3", 9)),
        ({}, ModelSize("", 0)),
        ({"hidden_size": "many"}, ModelSize("", 0)),
        ({"hidden_size": True}, ModelSize("", 0)),
        ({"hidden_size": -4}, ModelSize("", 0)),
        ({"hidden_size": 10**400}, ModelSize("", 0)),
    ],
)
def test_the_size_is_read_from_a_config(config: dict[str, object], size: ModelSize) -> None:
    assert size_of(config) == size


def test_what_is_done_with_the_tuned_rates_is_said_with_the_factor() -> None:
    wide = ModelSize("qwen3", 5120)
    assert what_is_done(wide) == "scaled to its size"
    said = how_scaled(wide, ["IA3", "FourierFT"])
    # (2000 / 5120)^0.0775 over (2000 / 576)^0.781 of the bundled model
    assert "is 576 numbers wide, this one 5,120: most rates are 0.35 times the tuned ones" in said
    assert "(2000 / hidden size)^0.0775" in said
    assert said.endswith("IA3 and FourierFT keep theirs, as their papers do.")
    for unchanged in (TUNED_ON, ModelSize("", 0)):
        assert what_is_done(unchanged) == "used unchanged"
        assert how_scaled(unchanged, []).endswith("so they are used unchanged.")
    assert rates_kept() == [METHODS[method].label for method in METHODS if method in UNSCALED]


def test_a_method_on_a_quantised_base_is_found_by_that_base() -> None:
    assert (on_base("lora", "nf4"), on_base("lora", "int8")) == ("qlora", "lora_int8")
    assert on_base("pissa", "nf4") == ""
