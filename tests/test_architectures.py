"""Models of every architecture are trained, saved, loaded and answered with as they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.methods.dimensions import ModelShape, is_router
from ftlab.methods.limits import incompatible_with_model
from ftlab.methods.registry import METHODS as ALL_METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.targets import reach_words
from ftlab.methods.variant import parse_variant, trainable_parameters
from ftlab.models.dimensions import shape_of_model
from ftlab.models.files import read_header
from ftlab.playground.fitting import Tensors, misfit
from ftlab.training.model import apply_method, count_parameters, own_optimizer, shape_of
from ftlab.training.probe import TinyModel
from tests.architectures import FAMILIES, METHODS, Trial, make_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "architectures.md"

Made = Callable[[str], TinyModel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Makes the model of a family once."""
    kept: dict[str, TinyModel] = {}

    def make(family: str) -> TinyModel:
        if family not in kept:
            kept[family] = make_model(family, tmp_path_factory.mktemp(family))
        return kept[family]

    return make


def shape_at(tiny: TinyModel) -> ModelShape:
    shape = shape_of_model(str(tiny.folder))
    assert shape is not None
    return shape


ROWS = [
    ("llama", "lora"),
    *(
        pytest.param(family, "lora", marks=pytest.mark.slow)
        for family in FAMILIES
        if family != "llama"
    ),
    *(
        pytest.param(family, method, marks=pytest.mark.slow)
        for family in ("llama", "gemma2", "gpt2", "mixtral", "mamba")
        for method in METHODS
        if method != "lora"
    ),
]
"""LoRA on each family, and the other methods on families that differ in their layers."""


@pytest.mark.parametrize(("family", "method"), ROWS)
def test_a_method_is_right_on_every_architecture(
    family: str, method: str, made: Made, tmp_path: Path
) -> None:
    trial = Trial(family, made(family), method, tmp_path)
    assert trial.refusal() == ""
    assert [wrong for wrong in trial.answers().items() if wrong[1]] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_document_has_what_is_adapted_in_every_family(family: str, made: Made) -> None:
    lora = parse_variant("lora")
    reach = reach_words(lora.spec, shape_at(made(family)), lora.values())
    words = reach.removeprefix("Adapts ").rstrip(".") or "all linear layers"
    row = f"| {family} | ✓ | ✓ | ✓ | ✓ | {words} |"
    assert row in DOCUMENT.read_text(encoding="utf-8").splitlines()


def laid_over(text: str, tiny: TinyModel) -> Any:
    """The model with the variant on it, its own optimizer made."""
    variant = parse_variant(text)
    plan = RunPlan(20, str(tiny.folder))
    base = tiny.load(variant.base_precision)
    model: Any = apply_method(base, variant, "fp32", False, plan)
    own_optimizer(variant, model, torch.optim.AdamW, {"lr": 1e-3})
    return model


@pytest.mark.slow
@pytest.mark.parametrize("method", [id for id, spec in ALL_METHODS.items() if spec.is_adapter])
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "mamba"])
def test_no_router_is_adapted_and_what_learns_is_counted_or_it_is_refused(
    family: str, method: str, made: Made
) -> None:
    tiny = made(family)
    variant = parse_variant({"vera": "vera:r=16"}.get(method, method))
    shape = shape_at(tiny)
    if incompatible_with_model(variant, shape) is not None:
        return
    model = laid_over("vera:r=16" if method == "vera" else method, tiny)
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learning
    assert not [name for name in learning if is_router(name)]
    assert trainable_parameters(variant, shape) in (count_parameters(model)[0], None)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_experts_are_the_same_in_the_file_and_in_memory(family: str, made: Made) -> None:
    in_file, in_memory = shape_at(made(family)), shape_of(made(family).load())

    def sizes(shape: ModelShape) -> tuple[list[Any], list[Any]]:
        layers = sorted((x.short_name, x.outputs, x.inputs) for x in shape.adaptable)
        return layers, sorted((x.short_name, x.number, x.outputs, x.inputs) for x in shape.experts)

    assert sizes(in_file) == sizes(in_memory)


@pytest.mark.parametrize(
    ("text", "scale"),
    [("lora:r=40", 16 / 40), ("rslora:r=40", 16 / 40**0.5), ("loha:r=40", 8 / 40)],
)
def test_a_layer_narrower_than_the_rank_gets_a_smaller_one_at_the_same_scale(
    text: str, scale: float, made: Made
) -> None:
    layers = laid_over(text, made("llama")).get_base_model().model.layers[0].self_attn
    ranks = {name: getattr(layers, name).r["default"] for name in ("q_proj", "k_proj", "v_proj")}
    assert ranks == {"q_proj": 40, "k_proj": 32, "v_proj": 32}
    for name in ranks:
        assert getattr(layers, name).scaling["default"] == pytest.approx(scale)


@pytest.mark.parametrize(
    "text", ["lora:r=40", "dora:r=40", "pissa:r=40", "lora_fa:r=40", "loha:r=40", "miss:r=80",
             "shira:r=25", "hra:r=80", "adalora:r=40,init_r=40", "randlora:r=40", "oft:block=128",
             "fourierft:n=3000"],
)  # fmt: skip
def test_what_learns_is_counted_where_layers_are_narrower(text: str, made: Made) -> None:
    variant, tiny = parse_variant(text), made("llama")
    assert incompatible_with_model(variant, shape_at(tiny)) is None
    expected = trainable_parameters(variant, shape_at(tiny))
    assert expected == count_parameters(laid_over(text, tiny))[0]


def test_a_method_with_one_rank_for_all_leaves_narrower_layers_out_and_says_so(made: Made) -> None:
    miss = parse_variant("miss:r=80")
    assert reach_words(miss.spec, shape_at(made("llama")), miss.values()) == (
        "Layers too narrow for rank 80 are left out: "
        "gate_proj, k_proj, o_proj, q_proj, up_proj and v_proj."
    )
    learning = [n for n, p in laid_over("miss:r=80", made("llama")).named_parameters()
                if p.requires_grad]  # fmt: skip
    assert learning
    assert all("down_proj" in name for name in learning)


@pytest.mark.parametrize(
    ("family", "method", "words"),
    [
        ("llama", "lora", ""),
        ("llama", "lora:r=40", "Layers narrower than rank 40 get a smaller one, with alpha to "
         "match: k_proj (32) and v_proj (32)."),
        ("mixtral", "lora", "Adapts attention and experts, not the router."),
        ("mixtral", "dora", "Adapts attention, not the router and the experts."),
        ("mixtral", "lora:targets=attention", ""),
        ("qwen2_moe", "qlora", "Adapts attention and experts, not the router and the shared "
         "expert."),
        ("mamba", "lora", "Adapts in_proj alone: the model reads the weights of dt_proj, out_proj "
         "and x_proj by itself."),
        ("mixtral", "prompt_tuning", ""),
        ("mixtral", "full", ""),
    ],
)  # fmt: skip
def test_what_is_adapted_is_said_where_it_is_not_plain(
    family: str, method: str, words: str, made: Made
) -> None:
    variant = parse_variant(method)
    assert reach_words(variant.spec, shape_at(made(family)), variant.values()) == words


def test_dropout_is_refused_on_experts_with_the_way_out(made: Made) -> None:
    found = incompatible_with_model(parse_variant("lora:dropout=0.1"), shape_at(made("mixtral")))
    assert found is not None
    assert found.field == "lora.dropout"
    assert "choose dropout 0, or the layers attention" in found.message
    on_attention = parse_variant("lora:dropout=0.1,targets=attention")
    assert incompatible_with_model(on_attention, shape_at(made("mixtral"))) is None


@pytest.mark.slow
@pytest.mark.parametrize("text", ["lora:r=40", "dora", "prompt_tuning"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "deepseek_v3", "mamba"])
def test_what_is_saved_is_taken_for_an_adapter_of_its_base(
    family: str, text: str, made: Made, tmp_path: Path
) -> None:
    tiny = made(family)
    laid_over(text, tiny).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    with (tmp_path / "adapter_model.safetensors").open("rb") as stream:
        shapes = read_header(stream, "adapter_model.safetensors").shapes
    assert misfit(Tensors(config, shapes), shape_at(tiny)) == ""
