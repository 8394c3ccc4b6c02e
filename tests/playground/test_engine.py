"""Models on shared weights: each pane wears its own adapter, and the base stays the base."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlab.models.generation import greedy_config
from ftlab.playground.engine import ADAPTERS_KEPT, Engine, clone_on_same_weights
from ftlab.playground.protocol import GenerateRequest, PaneUpdate, Stopped
from ftlab.runs.directory import RunDirectory
from ftlab.training.arithmetic import Arithmetic, compute_adapters_in_low_precision

AddRun = Callable[..., RunDirectory]
CPU = torch.device("cpu")
PROMPT = "the capital of France"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Two threads on a busy machine are many times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture
def engine(runs_folder: Path, tiny_model: Path) -> Engine:
    engine = Engine(runs_folder, CPU)
    engine.load(str(tiny_model))
    return engine


@pytest.fixture
def ask(tiny_model: Path) -> GenerateRequest:
    return GenerateRequest(("base",), PROMPT, model=str(tiny_model), max_new_tokens=12)


def run_all(engine: Engine, request: GenerateRequest) -> list[PaneUpdate]:
    updates: list[PaneUpdate] = []
    engine.answer(request, updates.append, lambda: None)
    return updates


def finals(engine: Engine, request: GenerateRequest) -> list[PaneUpdate]:
    found = {update.pane: update for update in run_all(engine, request) if update.is_final}
    return [found[pane] for pane in range(len(request.panes))]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(10)[None]).logits


def test_a_clone_is_another_tree_on_the_same_weights(engine: Engine) -> None:
    clone = clone_on_same_weights(engine.base)
    assert clone is not engine.base
    assert clone.model.layers[0] is not engine.base.model.layers[0]
    theirs = {name: tensor.data_ptr() for name, tensor in clone.named_parameters()}
    assert theirs == {name: t.data_ptr() for name, t in engine.base.named_parameters()}
    assert [b.data_ptr() for b in clone.buffers()] == [b.data_ptr() for b in engine.base.buffers()]


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_an_adapter_adds_only_its_own_weights(method: str, engine: Engine, add_run: AddRun) -> None:
    worn = engine.pane_model(add_run(method).run_id).model
    base = {parameter.data_ptr() for parameter in engine.base.parameters()}
    own = {name for name, parameter in worn.named_parameters() if parameter.data_ptr() not in base}
    assert own
    assert all("lora_" in name or "prompt_encoder" in name for name in own)


def test_the_base_is_still_the_base_after_adapters_were_loaded(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    before = logits(engine.base)
    runs = [add_run(method).run_id for method in ("lora", "qlora", "prompt_tuning")]
    finals(engine, replace(ask, panes=("base", *runs)))
    assert torch.equal(logits(engine.base), before)
    assert not any("lora" in name for name, _ in engine.base.named_modules())


def test_a_lora_pane_answers_as_plain_peft_does(
    engine: Engine, add_run: AddRun, ask: GenerateRequest, tiny_model: Path
) -> None:
    run = add_run("lora")
    base, lora = finals(engine, replace(ask, panes=("base", run.run_id)))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(plain, str(run.adapter)).eval()
    compute_adapters_in_low_precision(model)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    end = tokenizer.eos_token_id
    with torch.inference_mode(), Arithmetic("bf16", CPU).context():
        output = model.generate(**inputs, generation_config=greedy_config(12, [end], end))
    expected = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert lora.text == expected.strip()
    assert lora.text != base.text


def test_a_pane_does_not_depend_on_the_panes_beside_it(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    first, second = add_run("lora", seed=1).run_id, add_run("lora", seed=2).run_id
    sampled = replace(ask, temperature=1.0, seed=7)
    (alone,) = finals(engine, replace(sampled, panes=(second,)))
    *_, beside = finals(engine, replace(sampled, panes=(first, "base", second)))
    assert alone.text == beside.text
    (other,) = finals(engine, replace(sampled, panes=(second,), seed=8))
    assert other.text != alone.text


def test_the_base_answers_first_and_text_grows(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    updates = run_all(engine, replace(ask, panes=(add_run("lora").run_id, "base")))
    assert [update.pane for update in updates if update.kind == "done"] == [1, 0]
    kinds = [update.kind for update in updates if update.pane == 1]
    assert kinds[:3] == ["status", "status", "text"]
    done = next(update for update in updates if update.pane == 1 and update.kind == "done")
    assert 1 <= done.tokens <= 12
    assert done.first_token_seconds is not None
    assert done.swap_seconds is None


def test_a_prompt_tuning_pane_wears_its_soft_tokens(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    one, other = add_run("prompt_tuning", seed=1), add_run("prompt_tuning", seed=2)
    base, first, second = finals(engine, replace(ask, panes=("base", one.run_id, other.run_id)))
    assert {first.kind, second.kind} == {"done"}
    assert len({base.text, first.text, second.text}) == 3


def test_full_fine_tuning_answers_with_weights_of_its_own_and_only_the_last_is_kept(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    first, second = add_run("full", seed=1), add_run("full", seed=2)
    base, one, two = finals(engine, replace(ask, panes=("base", first.run_id, second.run_id)))
    assert len({base.text, one.text, two.text}) == 3
    assert engine._full is not None
    assert engine._full[0] == second.run_id


def test_the_proof_is_the_hash_of_the_weights_file(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    lora, full = add_run("lora"), add_run("full")
    base, first, second = finals(engine, replace(ask, panes=("base", lora.run_id, full.run_id)))
    weights = lora.adapter / "adapter_model.safetensors"
    assert base.adapter_sha256 == ""
    assert first.adapter_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    weights = full.adapter / "model.safetensors"
    assert second.adapter_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_qlora_pane_says_that_its_base_is_another(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    lora, qlora = finals(
        engine, replace(ask, panes=(add_run("lora").run_id, add_run("qlora").run_id))
    )
    assert lora.note == ""
    assert qlora.note.startswith("Trained on a base held in nf4; answered here on the 16-bit base")


def _missing(run: RunDirectory) -> str:
    (run.adapter / "adapter_model.safetensors").unlink()
    return "adapter_model.safetensors is missing"


def _torn(run: RunDirectory) -> str:
    file = run.adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    return "damaged or made for another shape"


def _other_rank(run: RunDirectory) -> str:
    file = run.adapter / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"r": 8}), encoding="utf-8")
    return "damaged or made for another shape"


def _other_layers(run: RunDirectory) -> str:
    file = run.adapter / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"target_modules": ["c_attn"]}), encoding="utf-8")
    return "damaged or made for another shape"


def _fewer_layers(run: RunDirectory) -> str:
    file = run.adapter / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"target_modules": ["q_proj"]}), encoding="utf-8")
    return "the model has no place for"


@pytest.mark.parametrize("damage", [_missing, _torn, _other_rank, _other_layers, _fewer_layers])
def test_a_broken_adapter_is_said_in_its_pane_and_the_others_go_on(
    damage: Callable[[RunDirectory], str],
    engine: Engine,
    add_run: AddRun,
    ask: GenerateRequest,
) -> None:
    broken, whole = add_run("lora"), add_run("lora")
    part = damage(broken)
    found = finals(engine, replace(ask, panes=("base", broken.run_id, whole.run_id)))
    assert [update.kind for update in found] == ["done", "error", "done"]
    assert part in found[1].text
    assert broken.run_id in found[1].text
    assert "\n" not in found[1].text


def test_an_adapter_that_lacks_a_layer_is_not_worn_in_part(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    run = add_run("lora", target_modules=["q_proj"])
    file = run.adapter / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    wider = config | {"target_modules": ["q_proj", "v_proj"]}
    file.write_text(json.dumps(wider), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = finals(engine, replace(ask, panes=(run.run_id,)))
    assert found.kind == "error"
    assert "missing adapter keys" in found.text


def test_a_prompt_beyond_the_context_is_an_error_of_the_pane(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    run = add_run("prompt_tuning", num_virtual_tokens=120)
    base, soft = finals(engine, replace(ask, panes=("base", run.run_id)))
    assert base.kind == "done"
    assert "120 soft tokens before it; the model's context is 128 tokens" in soft.text
    (long,) = finals(engine, replace(ask, prompt="x " * 200))
    assert long.kind == "error"
    assert "shorten the prompt" in long.text


def test_a_model_that_cannot_be_loaded_is_said_in_every_pane(
    engine: Engine, ask: GenerateRequest
) -> None:
    found = finals(engine, replace(ask, model="/no/such/model", panes=("base", "base")))
    assert [update.text for update in found] == ["There is no model folder '/no/such/model'."] * 2


def test_another_base_takes_the_place_of_the_first(
    engine: Engine, add_run: AddRun, ask: GenerateRequest, tiny_model: Path, tmp_path: Path
) -> None:
    engine.pane_model(add_run("lora").run_id)
    other = tmp_path / "other"
    other.symlink_to(tiny_model)
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in tiny_model.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    base = engine.base
    finals(engine, replace(ask, model=str(other)))
    assert engine.base is base, "the same folder under another name is the same model"
    finals(engine, replace(ask, model=str(copied)))
    assert engine.base is not base
    assert not engine._adapters


def test_a_stop_ends_the_whole_request(engine: Engine, ask: GenerateRequest) -> None:
    updates: list[PaneUpdate] = []

    def check() -> None:
        if any(update.kind == "text" for update in updates):
            raise Stopped

    with pytest.raises(Stopped):
        engine.answer(replace(ask, panes=("base", "base")), updates.append, check)
    assert not any(update.is_final for update in updates)


def test_only_the_latest_adapters_stay_loaded(engine: Engine, add_run: AddRun) -> None:
    runs = [add_run("prompt_tuning", seed=seed).run_id for seed in range(ADAPTERS_KEPT + 1)]
    for run in runs:
        engine.pane_model(run)
    assert list(engine._adapters) == runs[1:]
