"""What keeps a variant from being trained, found without loading anything."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.basics.errors import FtlabError, NotApplicable
from ftlab.methods import capabilities, limits
from ftlab.methods.dimensions import ModelShape, shape_from
from ftlab.methods.limits import incompatible
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant, parse_variant, validate_variant
from ftlab.models.dimensions import shape_of_model
from ftlab.records.spec import RunSpec
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference
from ftlab.training.run import notes_on_settings
from ftlab.training.step import Arithmetic

SETTINGS = TrainingSettings(max_length=128)


def make_shape(
    layers: dict[str, tuple[int, int]], architecture: str = "llama", positions: int | None = 512
) -> ModelShape:
    """One block of linear layers of those (outputs, inputs)."""
    weights = {f"model.layers.0.{name}.weight": size for name, size in layers.items()}
    config = {"model_type": architecture, "hidden_size": 64, "max_position_embeddings": positions}
    return shape_from(weights, config)


SMALL = make_shape({"q_proj": (64, 64), "k_proj": (16, 64), "down_proj": (64, 96)})


@pytest.fixture(autouse=True)
def nothing_was_probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the installed versions can do does not matter here, but where a test says so."""
    table: dict[str, Any] = {}
    monkeypatch.setattr(capabilities, "capabilities", lambda: table)
    monkeypatch.setattr(limits, "capabilities", lambda: table)
    return table


def found_in(
    text: str, shape: ModelShape | None = None, settings: TrainingSettings = SETTINGS
) -> limits.Incompatible:
    """The reason why the variant cannot be trained."""
    found = incompatible(parse_variant(text), shape, settings)
    assert found is not None
    return found


@pytest.mark.parametrize("method", [id for id in METHODS if id not in ("bitfit", "vera")])
def test_every_method_fits_the_bundled_models_kind_with_its_defaults(
    method: str, tiny_model: Path
) -> None:
    shape = shape_of_model(str(tiny_model))
    variant = parse_variant("last_layers:layers=2") if method == "last_layers" else Variant(method)
    assert incompatible(variant, shape, SETTINGS) is None


@pytest.mark.parametrize(
    ("text", "field", "part"),
    [
        ("lora:r=65", "lora.r", "rank 65 is above 64, the full rank of q_proj (64 inputs, 64 out"),
        ("pissa:r=128", "pissa.r", "choose 64 or less"),
        ("adalora:init_r=70", "adalora.init_r", "rank 70 is above 64"),
        ("adalora:r=70", "adalora.r", "rank 70 is above 64"),
        ("randlora:r=65", "randlora.r", "choose 64 or less"),
        ("loha:r=65", "loha.r", "choose 64 or less"),
        ("miss:r=97", "miss.r", "rank 97 is above 96, the inputs of down_proj"),
        ("shira:r=39", "shira.r", "choose 38 or less"),
        ("fourierft:n=6145", "fourierft.n", "above 6,144, the size of the spectrum of down_proj"),
        ("hra:r=98", "hra.r", "above 96, the inputs"),
        ("hra:r=7", "hra.r", "choose 8"),
        ("oft:block=64", "oft.block", "block size 64 does not divide the 96 inputs of down_proj"),
        ("boft:block=5", "boft.block", "block size 5 does not divide the 64 inputs of q_proj"),
        ("last_layers:layers=2", "last_layers.layers", "this model has 1 blocks, not 2"),
    ],
)
def test_a_size_that_the_model_cannot_have_names_value_rule_and_way_out(
    text: str, field: str, part: str
) -> None:
    variant = parse_variant(text)
    assert validate_variant(variant) == []
    found = found_in(text, SMALL)
    assert (found.field, found.not_applicable) == (field, False)
    assert part in found.message
    assert found.message.startswith(f"{variant.spec.label}: ")
    assert found.message.endswith(".")
    with pytest.raises(FtlabError) as caught:
        found.refuse()
    assert not isinstance(caught.value, NotApplicable)


@pytest.mark.parametrize(
    "text",
    ["lora:r=64", "adalora:r=64,init_r=64", "miss:r=96", "shira:r=38", "fourierft:n=6144",
     "hra:r=96", "oft:block=32", "boft:block=8", "vera:r=4096", "lokr:r=512",
     "last_layers:layers=1"],
)  # fmt: skip
def test_the_largest_size_that_the_model_can_have_is_taken(text: str) -> None:
    assert incompatible(parse_variant(text), SMALL, SETTINGS) is None


def test_layers_that_the_model_lacks_are_named_with_those_it_has() -> None:
    shape = make_shape({"query_key_value": (192, 64)}, "bloom")
    found = found_in("lora:targets=query-value", shape)
    assert found.field == "lora.targets"
    assert "none of the layers q_proj, v_proj; it has query_key_value; choose all-linear" in (
        found.message
    )


@pytest.mark.parametrize(
    ("method", "shape", "part"),
    [
        ("bitfit", SMALL, "this model has no biases"),
        ("lora", make_shape({}), "no linear layers"),
        ("loha", make_shape({"c_attn": (64, 192)}, "gpt2"), "are transformers' Conv1D"),
        ("ia3", make_shape({"q_proj": (64, 64)}, "new"), "does not know the keys, values"),
        ("layer_norm", make_shape({"q_proj": (64, 64)}, "new"), "PEFT does not know the norms"),
    ],
)
def test_a_method_that_cannot_work_with_the_model_is_not_applicable(
    method: str, shape: ModelShape, part: str
) -> None:
    found = found_in(method, shape)
    assert (found.field, found.not_applicable) == ("", True)
    assert part in found.message
    with pytest.raises(NotApplicable):
        found.refuse()


@pytest.mark.parametrize("text", ["qlora", "lora:base=int8"])
def test_a_missing_package_is_named_with_the_way_to_install_it(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(
        limits, "find_spec", lambda name: None if name == "bitsandbytes" else whole(name)
    )
    found = found_in(text)
    assert "needs the package bitsandbytes" in found.message
    assert "pip install bitsandbytes" in found.message
    assert incompatible(Variant("lora"), None, SETTINGS) is None


def a_capability(method: str, **changes: Any) -> capabilities.Capability:
    """Of a method that was seen to do everything, but for the changes."""
    fields = dataclasses.fields(capabilities.Capability)
    return capabilities.Capability(**{f.name: True for f in fields} | {"id": method} | changes)


@pytest.mark.parametrize(
    ("text", "changes", "part"),
    [
        ("hra", {"changes_output": False, "reason": "generate ignores it"}, "generate ignores it"),
        ("qlora", {"on_4bit": False}, "does not learn on a base in nf4"),
        ("lora_int8", {"on_8bit": False}, "does not learn on a base in int8"),
        ("lora", {"with_checkpointing": False}, "under gradient checkpointing"),
    ],
)
def test_what_the_probe_saw_fail_is_not_applicable(
    text: str, changes: dict, part: str, nothing_was_probed: dict[str, Any]
) -> None:
    checkpointing = replace(SETTINGS, gradient_checkpointing=True)
    variant = parse_variant(text)
    nothing_was_probed[text] = a_capability(text)
    assert incompatible(variant, None, checkpointing) is None
    nothing_was_probed[text] = a_capability(text, **changes)
    found = found_in(text, None, checkpointing)
    assert found.not_applicable
    assert part in found.message


@pytest.mark.parametrize("text", ["dora:base=int8", "qlora"])
def test_a_failed_probe_on_quantised_weights_excludes_cpus_only(
    text: str, nothing_was_probed: dict[str, Any]
) -> None:
    variant = parse_variant(text)
    nothing_was_probed[variant.method] = a_capability(variant.method, on_4bit=False, on_8bit=False)
    assert incompatible(variant, None, SETTINGS, "cpu") is not None
    assert incompatible(variant, None, SETTINGS, "cuda:1") is None
    spec = RunSpec(
        "r-0", "r", "bundled", TaskReference("bundled", "sql"), variant, SETTINGS, "bf16", "cuda:1",
        0, variant.base_precision, None, 0.0,
    )  # fmt: skip
    notes = " ".join(notes_on_settings(spec, Arithmetic("fp32", torch.device("cuda"))))
    assert "On a CPU" in notes
    assert "on this device nobody has tried" in notes


def test_checkpointing_excludes_a_method_only_if_it_is_on(
    nothing_was_probed: dict[str, Any],
) -> None:
    nothing_was_probed["lora"] = a_capability("lora", with_checkpointing=False)
    assert incompatible(Variant("lora"), None, SETTINGS) is None


def test_lora_fa_cannot_use_another_optimizer_than_its_own() -> None:
    settings = replace(SETTINGS, optimizer="adamw_8bit")
    found = found_in("lora_fa", None, settings)
    assert (found.field, found.not_applicable) == ("settings.optimizer", True)
    assert "choose adamw, or leave LoRA-FA out" in found.message
    assert incompatible(Variant("lora"), None, settings) is None


@pytest.mark.parametrize("method", ["prompt_tuning", "prompt_tuning_text", "prefix_tuning"])
def test_soft_tokens_take_up_positions_beside_the_text(method: str) -> None:
    settings = replace(SETTINGS, max_length=492)
    assert incompatible(Variant(method), SMALL, settings) is None
    found = found_in(f"{method}:tokens=21", SMALL, settings)
    assert (found.field, found.not_applicable) == (f"{method}.tokens", False)
    assert "the model's 512 positions; choose 20 or fewer" in found.message
    found = found_in(method, SMALL, replace(SETTINGS, max_length=512))
    assert "choose a shorter maximum length" in found.message


def test_layers_are_not_checked_without_the_shape_of_the_model() -> None:
    assert incompatible(parse_variant("lora:r=512"), None, SETTINGS) is None


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 100])
def test_adalora_finds_room_for_its_budget_in_a_run_of_any_length(steps: int) -> None:
    spec = METHODS["adalora"]
    assert spec.peft_config is not None
    spec.peft_config(spec.defaults(), RunPlan(steps, ""))  # PEFT raises where there is none


def test_what_cannot_be_divided_over_gpus_says_why_and_what_to_do() -> None:
    sharded = replace(SETTINGS, shard=2)
    for text in ("qlora", "lora:base=int8"):
        assert "a 4-bit or 8-bit base" in found_in(text, None, sharded).message
    found = found_in("pissa", None, sharded)
    assert (found.field, found.not_applicable) == ("settings.shard", True)
    assert found.message == (
        "PiSSA cannot be trained over 2 GPUs: it starts from a decomposition of whole weights; "
        "choose 1 GPU in a run, or leave PiSSA out."
    )
    for method in ("full", "lora", "dora", "prompt_tuning"):
        assert incompatible(Variant(method), None, sharded) is None


def test_the_document_names_what_cannot_be_divided_over_gpus() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    [refused] = [part for part in text.split("\n\n") if part.startswith("Refused before")]
    for method in METHODS.values():
        if method.base_precision is None:
            named = re.search(rf"(?<![\w-]){re.escape(method.label)}(?![\w-])", refused)
            assert bool(named) == bool(method.not_sharded), method.id
