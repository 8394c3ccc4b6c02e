"""Adapters saved by other programs: each answers as with plain PEFT, or its upload is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.playground.attach import marks
from ftlab.playground.engine import Engine
from ftlab.playground.panes import CONFIG_FILE, base_doubt, wrong_base
from ftlab.playground.requests import GenerateRequest
from ftlab.playground.uploaded import upload_adapter, vouch_for_base
from tests.playground.adapters import edit_config, edit_weights, refused
from tests.playground.asking import finals
from tests.playground.conftest import PROMPT, SaveAdapter
from tests.playground.kinds import KINDS, chat_ids, forwarded, generated, load_plain, spelt

ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
SOFT = ("prompt_tuning", "p_tuning", "prefix_tuning", "cpt")


def zipped(folder: Path, below: str = "") -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{below}{file.name}")
    return folder.with_suffix(".zip")


# ---- good ones


ROWS: dict[str, dict[str, Any]] = {
    "attention": ATTENTION,
    "all layers": {},
    "layers by a pattern": {"target_modules": r".*\.(q_proj|up_proj)"},
    "the last layer": {**ATTENTION, "layers_to_transform": [1]},
    "the output layer": {"target_modules": ["lm_head", "q_proj"]},
    "a rank pattern": {**ATTENTION, "rank_pattern": {"layers.1.self_attn.q_proj": 2}},
    "a rank pattern as a regular expression": {
        **ATTENTION, "rank_pattern": {r"layers\.[01]\.self_attn\.q_proj": 2},
    },
    "an alpha pattern": {**ATTENTION, "alpha_pattern": {"v_proj": 3}},
    "rank 1": {"r": 1},
    "rank 16": {"r": 16, "lora_alpha": 4},
    "rsLoRA": {"r": 8, "use_rslora": True},
}  # fmt: skip
"""Plain LoRA: rows of the shared batch."""

LANES: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA on the embeddings": ("lora", {"target_modules": ["embed_tokens", "q_proj"]}),
    "LoRA and modules_to_save": ("lora", {**ATTENTION, "modules_to_save": ["lm_head", "norm"]}),
    "LoRA and tokens": ("lora", {**ATTENTION, "trainable_token_indices": [40, 70]}),
    "LoRA with a bias": ("lora", {**ATTENTION, "lora_bias": True}),
    **{
        kind: (kind, {})
        for kind in ("dora", "adalora", "ia3", "loha", "lokr", "oft", "vera", "tokens", *SOFT[:3])
    },
}
"""Every other kind: a lane of its own."""


def answers_as_peft_does(
    source: Path, adapter: Path, engine: Engine, ask: GenerateRequest, model: Path,
    kind: str = "lora", is_row: bool = True,
) -> None:  # fmt: skip
    """Uploads `source` for the engine's base; `adapter` is what PEFT itself loads."""
    pane = upload_adapter(source, engine.runs_folder, base=str(model))
    assert wrong_base(pane, str(model)) == ""
    before = marks(engine.base)
    base, answer = finals(engine, ask, "base", pane.name)
    greedy = forwarded if kind in SOFT else generated
    ids, plain = chat_ids(model, PROMPT), load_plain(model, adapter)
    assert (answer.kind, answer.text) == ("done", spelt(model, greedy(plain, ids, 12)))
    assert answer.text != base.text
    assert answer.note == "", "the training precision is unknown"
    assert (engine.attached(pane).low_rank is not None) == is_row
    assert marks(engine.base) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config"),
    [*(("lora", config) for config in ROWS.values()), *LANES.values()],
    ids=[*ROWS, *LANES],
)
def test_every_kind_of_adapter_that_plain_peft_saves_answers_as_with_peft(
    kind: str, config: dict[str, Any], tmp_path: Path, engine: Engine, ask: GenerateRequest,
    tiny_model: Path, save_adapter: SaveAdapter,
) -> None:  # fmt: skip
    noise = 1.0 if kind in (*SOFT, "adalora") else 0.1
    adapter, is_row = tmp_path / "mine", config in ROWS.values() and kind == "lora"
    save_adapter(kind, adapter, noise=noise, **config)
    answers_as_peft_does(adapter, adapter, engine, ask, tiny_model, kind, is_row)


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
    config = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    kept = {name: config[name] for name in old}
    kept |= {"enable_lora": None, "merge_weights": False}
    (adapter / CONFIG_FILE).write_text(json.dumps(kept), encoding="utf-8")
    return adapter


@pytest.mark.parametrize(
    "changed",
    [
        _by_id, _by_a_folder_of_the_same_name, _by_a_renamed_copy, _as_a_zip,
        _as_a_zip_with_a_folder_in_it, _in_16_bits, _of_an_older_peft,
    ],
)  # fmt: skip
def test_the_packaging_of_an_adapter_does_not_change_its_answer(
    changed: Callable[[Path, Path], Path], tmp_path: Path, engine: Engine, ask: GenerateRequest,
    tiny_model: Path, save_adapter: SaveAdapter,
) -> None:  # fmt: skip
    adapter = tmp_path / "mine"
    save_adapter("lora", adapter, **ATTENTION)
    source = changed(adapter, tiny_model)
    answers_as_peft_does(source, adapter, engine, ask, tiny_model)


@pytest.mark.parametrize("named", ["/data/my-base", "someone/else", "my-base"])
def test_an_adapter_that_names_another_base_answers_once_its_base_is_confirmed(
    named: str, tmp_path: Path, engine: Engine, ask: GenerateRequest, tiny_model: Path,
    save_adapter: SaveAdapter,
) -> None:  # fmt: skip
    adapter = tmp_path / "mine"
    save_adapter("lora", adapter, **ATTENTION)
    edit_config(adapter, base_model_name_or_path=named)
    pane = upload_adapter(adapter, engine.runs_folder, base=str(tiny_model))
    said = f"names {named.removeprefix('/data/')} as its base; its 8 tensors fit tiny-llama"
    assert said in base_doubt(pane, str(tiny_model))
    (refusal,) = finals(engine, ask, pane.name)
    assert (refusal.kind, said in refusal.text) == ("error", True)
    vouch_for_base(engine.runs_folder, pane.name, str(tiny_model))
    answers_as_peft_does(adapter, adapter, engine, ask, tiny_model)


def test_an_adapter_saved_by_trl_answers_as_with_peft(
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
    answers_as_peft_does(adapter, adapter, engine, ask, tiny_model)


# ---- broken or no adapters


@pytest.mark.parametrize("in_shards", [False, True])
def test_a_full_model_is_refused_as_one(
    in_shards: bool, tmp_path: Path, runs_folder: Path, tiny_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    if in_shards:
        model.save_pretrained(tmp_path / "mine", max_shard_size="60KB")
        assert (tmp_path / "mine" / "model.safetensors.index.json").is_file()
    else:
        merged: Any = KINDS["lora"](model)
        merged.merge_and_unload().save_pretrained(tmp_path / "mine")
    said = refused(tmp_path / "mine", runs_folder, str(tiny_model))
    assert "holds a full model, not an adapter" in said


LAYER = "base_model.model.model.layers.0.self_attn"
Q = "model.layers.0.self_attn.q_proj"
Q_A, Q_B = (f"base_model.model.{Q}.lora_{side}.weight" for side in "AB")
Shapes = dict[str, tuple[int, ...]]

WEIGHTS_ARE: dict[str, tuple[str, Shapes, str]] = {
    "a layer's name misspelt": (
        "lora", {Q_A: (), Q_A.replace("q_proj", "q_porj"): (4, 64)},
        "no layer model.layers.0.self_attn.q_porj (did you mean 'q_proj'?)",
    ),
    "those of a wider model": (
        "lora", {Q_A: (4, 576)},
        f"{Q}.lora_A.weight is (4, 576), and that layer has 64 inputs and 64 outputs",
    ),
    "transposed": (
        "lora", {f"{LAYER}.v_proj.lora_B.weight": (4, 32)},
        "v_proj.lora_B.weight is (4, 32), and that layer has 64",
    ),
    "of another rank": (
        "lora", {Q_A: (2, 64), Q_B: (64, 2)}, f"{Q}.lora_A.weight has rank 2, and its r ",
    ),
    "without a layer": (
        "lora", {f"{LAYER.replace('0', '1')}.v_proj.lora_{side}.weight": () for side in "AB"},
        "ask for 4 layers, and the weights hold nothing for 1 of them, as "
        "model.layers.1.self_attn.v_proj",
    ),
    "without half a layer": (
        "lora", {f"{LAYER}.v_proj.lora_B.weight": ()},
        "hold no lora_B for model.layers.0.self_attn.v_proj",
    ),
    "for a layer too many": (
        "lora",
        {f"{LAYER}.o_proj.lora_A.weight": (4, 64), f"{LAYER}.o_proj.lora_B.weight": (64, 4)},
        "the weights are for model.layers.0.self_attn.o_proj too, which its target_modules excl",
    ),
    "those of a deeper model": (
        "lora", {Q_A.replace("0", "7"): (4, 64), Q_B.replace("0", "7"): (64, 4)},
        "model has no layer model.layers.7",
    ),
    "the bare state of a model": (
        "lora", {Q_A.replace(".weight", ".default.weight"): (4, 64)},
        "with the name of an adapter in it",
    ),
    "without PEFT's prefix": (
        "lora", {Q_A.removeprefix("base_model.model."): (4, 64)},
        "PEFT's names begin with base_model.mod",
    ),
    "with magnitudes of a DoRA": (
        "lora", {f"{LAYER}.q_proj.lora_magnitude_vector": (64,)},
        f"hold {Q}.lora_magnitude_vector, and its configuration asks",
    ),
    "with a larger vocabulary": (
        "lora", {"base_model.model.lm_head.weight": (400, 64)},
        "lm_head.weight is (400, 64), and the base's is (320, 64)",
    ),
    "soft tokens of a wider model": (
        "prompt_tuning", {"prompt_embeddings": (5, 576)},
        "prompt_embeddings is (5, 576), and a token of the model has 64 numbers",
    ),
    "more soft tokens than declared": (
        "prompt_tuning", {"prompt_embeddings": (9, 64)}, "is (9, 64), and num_virtual_tokens=5",
    ),
}  # fmt: skip
"""Kind, the changed tensors with their new shapes (`()`: removed), and the reason."""


@pytest.mark.parametrize(("kind", "shapes", "sentence"), WEIGHTS_ARE.values(), ids=WEIGHTS_ARE)
def test_weights_that_do_not_fit_the_base_are_refused_with_the_tensor(
    kind: str, shapes: Shapes, sentence: str, tmp_path: Path, runs_folder: Path, tiny_model: Path,
    save_adapter: SaveAdapter,
) -> None:  # fmt: skip
    save_adapter(kind, tmp_path / "mine", **(ATTENTION if kind == "lora" else {}))

    def change(weights: dict[str, torch.Tensor]) -> None:
        for name, shape in shapes.items():
            weights.pop(name, None)
            if shape:
                weights[name] = torch.ones(shape)

    edit_weights(tmp_path / "mine", change)
    said = refused(tmp_path / "mine", runs_folder, str(tiny_model))
    assert sentence in said
    assert said.startswith("'mine' does not fit tiny-llama: ")


CONFIG_SAYS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": (
        {"lora_alhpa": 32}, "has the key 'lora_alhpa', which PEFT 0.21 does not know and "
        "ignores. Did you mean 'lora_alpha'? Correct or",
    ),
    "a key of a later PEFT": ({"telepathy": 1}, "has the key 'telepathy', which PEFT 0.21 does"),
    "a target misspelt": (
        {"target_modules": ["q_porj", "v_proj"]},
        "its target_modules name 'q_porj', and no layer has that name (did you mean 'q_proj'?)",
    ),
    "a target of another family": (
        {"target_modules": ["c_attn"]}, "its target_modules name 'c_attn', and no layer",
    ),
    "a single target misspelt": ({"target_modules": "q_porj"}, "target_modules name 'q_porj'"),
    "a rank pattern misspelt": (
        {"rank_pattern": {"q_porj": 4}},
        "its rank_pattern names 'q_porj', and no layer has that name (did you mean 'q_proj'?)",
    ),
    "an alpha pattern misspelt": (
        {"alpha_pattern": {"model.layers.0.self_attn.v_porj": 4}},
        "alpha_pattern names 'model.layers.0.self_attn.v_porj', and no layer has that name (did "
        "you mean 'v_proj'?)",
    ),
    "a layer to save misspelt": (
        {"modules_to_save": ["lm_haed"]},
        "its modules_to_save name 'lm_haed', and no layer has that name (did you mean 'lm_head'?)",
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
    "DoRA without magnitudes": (
        {"use_dora": True}, "hold no lora_magnitude_vector for model.layers.0.self_attn.q_proj",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), CONFIG_SAYS.values(), ids=CONFIG_SAYS)
def test_a_configuration_that_does_not_fit_is_refused_with_the_field(
    changes: dict[str, Any], sentence: str, tmp_path: Path, runs_folder: Path, tiny_model: Path,
    save_adapter: SaveAdapter,
) -> None:  # fmt: skip
    save_adapter("lora", tmp_path / "mine", **ATTENTION)
    edit_config(tmp_path / "mine", **changes)
    assert sentence in refused(tmp_path / "mine", runs_folder, str(tiny_model))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_with_nan_or_infinity_are_refused(
    dtype: torch.dtype, value: float, tmp_path: Path, runs_folder: Path, tiny_model: Path,
    save_adapter: SaveAdapter,
) -> None:  # fmt: skip
    save_adapter("lora", tmp_path / "mine", **ATTENTION)

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: tensor.to(dtype) for name, tensor in weights.items()})
        weights[f"{LAYER}.q_proj.lora_B.weight"][-1, -1] = value

    edit_weights(tmp_path / "mine", spoil)
    said = refused(tmp_path / "mine", runs_folder, str(tiny_model))
    assert f"contains NaN or infinity in {LAYER}.q_proj.lora_B.weight: " in said


@pytest.mark.parametrize("base", ["bundled", "HuggingFaceTB/SmolLM2-135M-Instruct"])
@pytest.mark.model
def test_a_tiny_models_weights_under_the_bundled_models_id_are_refused(
    base: str, tmp_path: Path, runs_folder: Path, save_adapter: SaveAdapter
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
