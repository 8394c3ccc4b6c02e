"""Adapters as other people make them: each answers as plain PEFT does, or is refused on arrival."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftlab.playground.attach import marks
from ftlab.playground.engine import Engine
from ftlab.playground.panes import base_doubt, wrong_base
from ftlab.playground.requests import GenerateRequest
from ftlab.playground.uploaded import bring_adapter, vouch_for_base
from tests.playground.adapters import refused
from tests.playground.asking import finals
from tests.playground.conftest import PROMPT
from tests.playground.kinds import KINDS, chat_ids, forwarded, generated, load_plain, spelt

Save = Callable[..., None]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
SOFT = ("prompt_tuning", "p_tuning", "prefix_tuning", "cpt")


def edit_config(folder: Path, **changes: Any) -> None:
    """A value of `...` takes its key away."""
    file = folder / CONFIG
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    file.write_text(json.dumps(kept), encoding="utf-8")


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file({name: t.contiguous() for name, t in weights.items()}, folder / WEIGHTS)


def zipped(folder: Path, below: str = "") -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{below}{file.name}")
    return folder.with_suffix(".zip")


# ---- good ones


KIND_AND_CONFIG: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA on attention": ("lora", ATTENTION),
    "LoRA on all layers": ("lora", {}),
    "LoRA on layers by a pattern": ("lora", {"target_modules": r".*\.(q_proj|up_proj)"}),
    "LoRA on the last layer alone": ("lora", {**ATTENTION, "layers_to_transform": [1]}),
    "LoRA on the output layer": ("lora", {"target_modules": ["lm_head", "q_proj"]}),
    "LoRA on the embeddings": ("lora", {"target_modules": ["embed_tokens", "q_proj"]}),
    "a rank pattern": ("lora", {**ATTENTION, "rank_pattern": {"layers.1.self_attn.q_proj": 2}}),
    "a rank pattern as a regular expression": (
        "lora", {**ATTENTION, "rank_pattern": {r"layers\.[01]\.self_attn\.q_proj": 2}},
    ),
    "an alpha pattern": ("lora", {**ATTENTION, "alpha_pattern": {"v_proj": 3}}),
    "modules_to_save": ("lora", {**ATTENTION, "modules_to_save": ["lm_head", "norm"]}),
    "LoRA and tokens": ("lora", {**ATTENTION, "trainable_token_indices": [40, 70]}),
    "a LoRA with a bias": ("lora", {**ATTENTION, "lora_bias": True}),
    "DoRA": ("dora", {}),
    "rsLoRA": ("lora", {**ATTENTION, "use_rslora": True}),
    "AdaLoRA": ("adalora", {}),
    "IA3": ("ia3", {}),
    "LoHa": ("loha", {}),
    "LoKr": ("lokr", {}),
    "OFT": ("oft", {}),
    "VeRA": ("vera", {}),
    "trainable tokens": ("tokens", {}),
    "prompt tuning": ("prompt_tuning", {}),
    "P-tuning": ("p_tuning", {}),
    "prefix tuning": ("prefix_tuning", {}),
}  # fmt: skip


def answers_as_peft_does(
    source: Path, adapter: Path, kind: str, engine: Engine, ask: GenerateRequest, model: Path
) -> None:
    """Brings `source` for the engine's base; `adapter` is what PEFT itself loads."""
    pane = bring_adapter(source, engine.runs_folder, base=str(model))
    assert wrong_base(pane, str(model)) == ""
    before = marks(engine.base)
    base, answer = finals(engine, ask, "base", pane.name)
    greedy = forwarded if kind in SOFT else generated
    ids, plain = chat_ids(model, PROMPT), load_plain(model, adapter)
    assert (answer.kind, answer.text) == ("done", spelt(model, greedy(plain, ids, 12)))
    assert answer.text != base.text
    assert answer.note == "", "nobody knows how it was trained"
    assert marks(engine.base) == before


@pytest.mark.parametrize(("kind", "config"), KIND_AND_CONFIG.values(), ids=KIND_AND_CONFIG)
def test_every_kind_of_adapter_that_plain_peft_saves_is_taken_and_answers_as_there(
    kind: str, config: dict[str, Any], tmp_path: Path, engine: Engine, ask: GenerateRequest,
    tiny_model: Path, save_adapter: Save,
) -> None:  # fmt: skip
    noise = 1.0 if kind in (*SOFT, "adalora") else 0.1
    save_adapter(kind, tmp_path / "mine", noise=noise, **config)
    answers_as_peft_does(tmp_path / "mine", tmp_path / "mine", kind, engine, ask, tiny_model)


def _by_id(adapter: Path, model: Path) -> Path:
    edit_config(adapter, base_model_name_or_path=f"someone/{model.name}")
    return adapter


def _by_a_folder_of_the_same_name(adapter: Path, model: Path) -> Path:
    edit_config(adapter, base_model_name_or_path=f"/home/alice/models/{model.name}/")
    return adapter


def _by_a_renamed_copy(adapter: Path, model: Path) -> Path:
    copy = adapter.parent / "renamed-base"
    shutil.copytree(model, copy)
    edit_config(adapter, base_model_name_or_path=str(copy))
    return adapter


def _as_a_zip(adapter: Path, model: Path) -> Path:
    return zipped(adapter)


def _as_a_zip_with_a_folder_in_it(adapter: Path, model: Path) -> Path:
    return zipped(adapter, "my-adapter/")


def _in_16_bits(adapter: Path, model: Path) -> Path:
    def narrow(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()})

    edit_weights(adapter, narrow)
    return adapter


def _of_an_older_peft(adapter: Path, model: Path) -> Path:
    old = ("base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode",
           "init_lora_weights", "lora_alpha", "lora_dropout", "modules_to_save", "peft_type", "r",
           "target_modules", "task_type")  # fmt: skip
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    kept = {name: config[name] for name in old}
    kept |= {"enable_lora": None, "merge_weights": False}
    (adapter / CONFIG).write_text(json.dumps(kept), encoding="utf-8")
    return adapter


@pytest.mark.parametrize(
    "changed",
    [
        _by_id, _by_a_folder_of_the_same_name, _by_a_renamed_copy, _as_a_zip,
        _as_a_zip_with_a_folder_in_it, _in_16_bits, _of_an_older_peft,
    ],
)  # fmt: skip
def test_however_a_good_adapter_comes_it_answers_as_plain_peft_does(
    changed: Callable[[Path, Path], Path], tmp_path: Path, engine: Engine, ask: GenerateRequest,
    tiny_model: Path, save_adapter: Save,
) -> None:  # fmt: skip
    adapter = tmp_path / "mine"
    save_adapter("lora", adapter, **ATTENTION)
    source = changed(adapter, tiny_model)
    answers_as_peft_does(source, adapter, "lora", engine, ask, tiny_model)


@pytest.mark.parametrize("named", ["/data/my-base", "someone/else", "my-base"])
def test_under_another_name_it_answers_once_somebody_vouches_for_its_base(
    named: str, tmp_path: Path, engine: Engine, ask: GenerateRequest, tiny_model: Path,
    save_adapter: Save,
) -> None:  # fmt: skip
    adapter = tmp_path / "mine"
    save_adapter("lora", adapter, **ATTENTION)
    edit_config(adapter, base_model_name_or_path=named)
    pane = bring_adapter(adapter, engine.runs_folder, base=str(tiny_model))
    said = f"says it was trained on {named.removeprefix('/data/')}; its 8 tensors fit tiny-llama"
    assert said in base_doubt(pane, str(tiny_model))
    (refusal,) = finals(engine, ask, pane.name)
    assert (refusal.kind, said in refusal.text) == ("error", True)
    vouch_for_base(engine.runs_folder, pane.name, str(tiny_model))
    answers_as_peft_does(adapter, adapter, "lora", engine, ask, tiny_model)


def test_what_trl_saves_answers_as_plain_peft_does(
    tmp_path: Path, engine: Engine, ask: GenerateRequest, tiny_model: Path
) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig

    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, learning_rate=0.05, report_to=[],
        use_cpu=True, bf16=False, per_device_train_batch_size=2, max_length=64,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        str(tiny_model),
        args=arguments,
        train_dataset=Dataset.from_dict({"text": ["the sea is blue"] * 4}),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, **ATTENTION),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "mine"))
    adapter = tmp_path / "mine"
    answers_as_peft_does(adapter, adapter, "lora", engine, ask, tiny_model)


# ---- other things that people have


def _merged(folder: Path, model: Path) -> Path:
    from transformers import AutoModelForCausalLM

    made = KINDS["lora"](AutoModelForCausalLM.from_pretrained(model))
    made.merge_and_unload().save_pretrained(folder)  # type: ignore[operator]
    return folder


def _merged_in_shards(folder: Path, model: Path) -> Path:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def _adapter_in_shards(folder: Path, model: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG).write_text("{}")
    for number in (1, 2):
        (folder / f"adapter_model-0000{number}-of-00002.safetensors").write_bytes(b"")
    return folder


def _a_zip_in_a_folder(folder: Path, model: Path) -> Path:
    folder.mkdir()
    (folder / "my-adapter.zip").write_bytes(b"")
    return folder


def _a_pickle(folder: Path, model: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG).write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (_merged, "holds a full model, not an adapter"),
        (_merged_in_shards, "holds a full model, not an adapter"),
        (_adapter_in_shards, "weights in several files, which PEFT does not read; join them into"),
        (_a_zip_in_a_folder, "but 'my-adapter.zip'; bring that zip itself"),
        (_a_pickle, "save it again with safe_serialization=True"),
    ],
)
def test_what_is_no_adapter_is_told_what_it_is(
    made: Callable[[Path, Path], Path], sentence: str, tmp_path: Path, runs_folder: Path,
    tiny_model: Path,
) -> None:  # fmt: skip
    assert sentence in refused(made(tmp_path / "mine", tiny_model), runs_folder, str(tiny_model))


# ---- broken ones


LAYER = "base_model.model.model.layers.0.self_attn"
Weights = dict[str, torch.Tensor]


def _misspelt(weights: Weights) -> None:
    key = f"{LAYER}.q_proj.lora_A.weight"
    weights[key.replace("q_proj", "q_porj")] = weights.pop(key)


def _of_a_wider_model(weights: Weights) -> None:
    weights[f"{LAYER}.q_proj.lora_A.weight"] = torch.ones(4, 576)


def _transposed(weights: Weights) -> None:
    key = f"{LAYER}.v_proj.lora_B.weight"
    weights[key] = weights[key].T


def _of_another_rank(weights: Weights) -> None:
    weights[f"{LAYER}.q_proj.lora_A.weight"] = torch.ones(2, 64)
    weights[f"{LAYER}.q_proj.lora_B.weight"] = torch.ones(64, 2)


def _without_a_layer(weights: Weights) -> None:
    for key in [key for key in weights if "layers.1.self_attn.v_proj" in key]:
        del weights[key]


def _without_half_a_layer(weights: Weights) -> None:
    del weights[f"{LAYER}.v_proj.lora_B.weight"]


def _with_a_layer_too_many(weights: Weights) -> None:
    for name, shape in (("A", (4, 64)), ("B", (64, 4))):
        weights[f"{LAYER}.o_proj.lora_{name}.weight"] = torch.ones(shape)


def _of_a_deeper_model(weights: Weights) -> None:
    for key in [key for key in weights if "layers.0" in key]:
        weights[key.replace("layers.0", "layers.7")] = weights[key].clone()


def _of_the_bare_state(weights: Weights) -> None:
    for key in list(weights):
        weights[key.replace(".weight", ".default.weight")] = weights.pop(key)


def _without_a_prefix(weights: Weights) -> None:
    for key in list(weights):
        weights[key.removeprefix("base_model.model.")] = weights.pop(key)


def _with_magnitudes(weights: Weights) -> None:
    weights[f"{LAYER}.q_proj.lora_magnitude_vector"] = torch.ones(64)


def _with_a_larger_vocabulary(weights: Weights) -> None:
    weights["base_model.model.lm_head.weight"] = torch.ones(400, 64)


def _of_longer_tokens(weights: Weights) -> None:
    weights["prompt_embeddings"] = torch.ones(5, 576)


def _of_more_tokens(weights: Weights) -> None:
    weights["prompt_embeddings"] = torch.ones(9, 64)


Q = "model.layers.0.self_attn.q_proj"
WEIGHTS_ARE: dict[str, tuple[str, Callable[[Weights], None], str]] = {
    "a layer's name misspelt": (
        "lora", _misspelt,
        "no layer model.layers.0.self_attn.q_porj (did you mean 'q_proj'?)",
    ),
    "those of a wider model": (
        "lora", _of_a_wider_model,
        f"{Q}.lora_A.weight is (4, 576), and that layer has 64 inputs and 64 outputs",
    ),
    "transposed": ("lora", _transposed, "v_proj.lora_B.weight is (4, 32), and that layer has 64"),
    "of another rank": ("lora", _of_another_rank, f"{Q}.lora_A.weight has rank 2, and its r "),
    "without a layer": (
        "lora", _without_a_layer,
        "ask for 4 layers, and the weights hold nothing for 1 of them, as "
        "model.layers.1.self_attn.v_proj",
    ),
    "without half a layer": (
        "lora", _without_half_a_layer, "hold no lora_B for model.layers.0.self_attn.v_proj",
    ),
    "for a layer too many": (
        "lora", _with_a_layer_too_many,
        "the weights are for model.layers.0.self_attn.o_proj too, which its target_modules leave",
    ),
    "those of a deeper model": ("lora", _of_a_deeper_model, "model has no layer model.layers.7"),
    "the bare state of a model": ("lora", _of_the_bare_state, "with the name of an adapter in it"),
    "without PEFT's prefix": ("lora", _without_a_prefix, "PEFT's names begin with base_model.mod"),
    "with magnitudes of a DoRA": (
        "lora", _with_magnitudes, f"hold {Q}.lora_magnitude_vector, and its configuration asks",
    ),
    "with a larger vocabulary": (
        "lora", _with_a_larger_vocabulary,
        "lm_head.weight is (400, 64), and the base's is (320, 64)",
    ),
    "soft tokens of a wider model": (
        "prompt_tuning", _of_longer_tokens,
        "prompt_embeddings is (5, 576), and a token of the model has 64 numbers",
    ),
    "more soft tokens than are said": (
        "prompt_tuning", _of_more_tokens, "is (9, 64), and num_virtual_tokens=5",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "edit", "sentence"), WEIGHTS_ARE.values(), ids=WEIGHTS_ARE)
def test_weights_that_do_not_fit_are_refused_on_arrival_with_what_and_where(
    kind: str, edit: Callable[[Weights], None], sentence: str, tmp_path: Path, runs_folder: Path,
    tiny_model: Path, save_adapter: Save,
) -> None:  # fmt: skip
    save_adapter(kind, tmp_path / "mine", **(ATTENTION if kind == "lora" else {}))
    edit_weights(tmp_path / "mine", edit)
    said = refused(tmp_path / "mine", runs_folder, str(tiny_model))
    assert sentence in said
    assert said.startswith("'mine' does not fit tiny-llama: ")


CONFIG_SAYS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": (
        {"lora_alhpa": 32}, "has the key 'lora_alhpa', which PEFT 0.21 does not know and passes "
        "over. Did you mean 'lora_alpha'? Correct it",
    ),
    "a key of a later PEFT": ({"telepathy": 1}, "has the key 'telepathy', which PEFT 0.21 does"),
    "a target misspelt": (
        {"target_modules": ["q_porj", "v_proj"]},
        "its target_modules name 'q_porj', and no layer is called so (did you mean 'q_proj'?)",
    ),
    "a target of another family": (
        {"target_modules": ["c_attn"]}, "its target_modules name 'c_attn', and no layer",
    ),
    "a single target misspelt": ({"target_modules": "q_porj"}, "target_modules name 'q_porj'"),
    "a rank pattern misspelt": (
        {"rank_pattern": {"q_porj": 4}},
        "its rank_pattern names 'q_porj', and no layer is called so (did you mean 'q_proj'?)",
    ),
    "an alpha pattern misspelt": (
        {"alpha_pattern": {"model.layers.0.self_attn.v_porj": 4}},
        "alpha_pattern names 'model.layers.0.self_attn.v_porj', and no layer is called so (did "
        "you mean 'v_proj'?)",
    ),
    "a layer to save misspelt": (
        {"modules_to_save": ["lm_haed"]},
        "its modules_to_save name 'lm_haed', and no layer is called so (did you mean 'lm_head'?)",
    ),
    "more layers than there are weights for": (
        {"target_modules": ["q_proj", "v_proj", "up_proj"]},
        "ask for 6 layers, and the weights hold nothing for 2 of them, as model.layers.0.mlp.up_",
    ),
    "fewer layers": (
        {"target_modules": ["q_proj"]}, "are for model.layers.0.self_attn.v_proj too",
    ),
    "a layer that is not there": ({"layers_to_transform": [5]}, "are for model.layers.0.self_attn"),
    "another rank": ({"r": 2}, "q_proj.lora_A.weight has rank 4, and its r there is 2"),
    "a larger rank": ({"r": 64}, "says LORA with r=64, but the weights have 4"),
    "a rank that is none": ({"r": "8"}, "has r='8', which is no whole number above 0"),
    "DoRA without magnitudes": (
        {"use_dora": True}, "hold no lora_magnitude_vector for model.layers.0.self_attn.q_proj",
    ),
    "another kind": ({"peft_type": "LORRA"}, "has the peft_type 'LORRA', which PEFT 0.21 does not"),
    "another task": ({"task_type": "SEQ_CLS"}, "only CAUSAL_LM writes text"),
    "no base": ({"base_model_name_or_path": None}, "does not say which model it was trained on"),
    "a start that changes the base": ({"init_lora_weights": "pissa"}, "changed base weights"),
    "biases of the base": ({"bias": "all"}, "replaces biases of the base (bias='all')"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), CONFIG_SAYS.values(), ids=CONFIG_SAYS)
def test_a_configuration_that_is_wrong_is_refused_on_arrival_with_what_and_where(
    changes: dict[str, Any], sentence: str, tmp_path: Path, runs_folder: Path, tiny_model: Path,
    save_adapter: Save,
) -> None:  # fmt: skip
    save_adapter("lora", tmp_path / "mine", **ATTENTION)
    edit_config(tmp_path / "mine", **changes)
    assert sentence in refused(tmp_path / "mine", runs_folder, str(tiny_model))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_no_numbers_are_refused_on_arrival(
    dtype: torch.dtype, value: float, tmp_path: Path, runs_folder: Path, tiny_model: Path,
    save_adapter: Save,
) -> None:  # fmt: skip
    save_adapter("lora", tmp_path / "mine", **ATTENTION)

    def spoil(weights: Weights) -> None:
        weights.update({name: tensor.to(dtype) for name, tensor in weights.items()})
        weights[f"{LAYER}.q_proj.lora_B.weight"][-1, -1] = value

    edit_weights(tmp_path / "mine", spoil)
    said = refused(tmp_path / "mine", runs_folder, str(tiny_model))
    assert f"holds values in {LAYER}.q_proj.lora_B.weight that are no numbers" in said


@pytest.mark.parametrize("base", ["bundled", "HuggingFaceTB/SmolLM2-135M-Instruct"])
@pytest.mark.model
def test_a_tiny_models_weights_under_the_bundled_models_id_are_refused(
    base: str, tmp_path: Path, runs_folder: Path, save_adapter: Save
) -> None:
    for kind in ("lora", "ia3", "vera", "lokr", "prompt_tuning", "prefix_tuning"):
        adapter = tmp_path / kind
        save_adapter(kind, adapter)
        edit_config(adapter, base_model_name_or_path="HuggingFaceTB/SmolLM2-135M-Instruct")
        said = refused(adapter, runs_folder, base)
        assert said.startswith(f"'{kind}' does not fit SmolLM2-135M-Instruct: ")


def test_the_keys_that_are_known_are_those_of_the_installed_peft() -> None:
    from dataclasses import fields

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from ftlab.playground.adapter_files import KEYS

    found = {f.name for config in PEFT_TYPE_TO_CONFIG_MAPPING.values() for f in fields(config)}
    assert found == KEYS
