"""The bundled model and the real libraries, end to end. Minutes, not seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftlab.methods.registry import CORE
from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.settings.training import DtypePolicy, TrainingSettings
from ftlab.training.model import save_result
from ftlab.training.step import Arithmetic, Batch, completion_losses
from ftlab.training.trainer import StepMeter
from tests.bundled import CPU, Bundled
from tests.slow import slow

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def bundled() -> Bundled:
    return Bundled.load()


def two_examples(bundled: Bundled) -> Batch:
    return bundled.collate(bundled.examples[:2])


def train_on_two(
    bundled: Bundled, model: Any, method: str, policy: DtypePolicy, steps: int
) -> StepMeter:
    """Sees the same two examples at every step."""
    settings = TrainingSettings(steps=steps, batch_size=2, schedule="constant", warmup_steps=1)
    return bundled.train(model, method, Arithmetic(policy, CPU), settings, [0, 1] * steps)


@pytest.mark.slow
@pytest.mark.parametrize("method", CORE)
def test_the_loss_on_a_fixed_batch_falls_by_five_per_cent_or_more(
    method: str, bundled: Bundled
) -> None:
    meter = train_on_two(bundled, bundled.model(method, "bf16"), method, "bf16", 8)
    assert meter.losses[-1] <= 0.95 * meter.losses[0], meter.losses


RELOAD = """
import sys, torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
base, adapter, inputs, out, method = sys.argv[1:]
quantised = dict(quantization_config=BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32), device_map={"": "cpu"}) if method == "qlora" else {}
if method == "full":
    model = AutoModelForCausalLM.from_pretrained(adapter, dtype=torch.float32)
else:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **quantised)
    model = PeftModel.from_pretrained(model, adapter)
for module in model.modules():  # the same kernel as here, not the one in bf16 of AVX512-BF16
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
with torch.no_grad():
    logits = model.eval()(**load_file(inputs)).logits
save_file({"logits": logits.float().contiguous()}, out)
"""


@pytest.mark.parametrize("method", ["lora", *slow(method for method in CORE if method != "lora")])
def test_a_saved_result_gives_the_same_logits_in_a_fresh_process_of_plain_peft(
    method: str, bundled: Bundled, tmp_path: Path
) -> None:
    model = bundled.model(method, "fp32")
    train_on_two(bundled, model, method, "fp32", 2)
    batch = {key: two_examples(bundled)[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        here = model.eval()(**batch).logits
    save_result(model, Variant(method), bundled.tokenizer, tmp_path / "adapter")
    save_file(batch, tmp_path / "inputs")
    subprocess.run(
        [sys.executable, "-c", RELOAD, str(bundled.source.folder), str(tmp_path / "adapter"),
         str(tmp_path / "inputs"), str(tmp_path / "out"), method],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    there = load_file(tmp_path / "out")["logits"]
    torch.testing.assert_close(there, here.float(), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_qlora_gradient_is_the_same_before_and_after_an_evaluation(bundled: Bundled) -> None:
    model = bundled.model("qlora", "bf16")
    with torch.no_grad():  # B starts at zero, which would hide a lost gradient of A
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    arithmetic = Arithmetic("bf16", CPU)

    def gradient() -> dict[str, torch.Tensor]:
        model.train()
        model.zero_grad()
        with arithmetic.context():
            loss = completion_losses(model, two_examples(bundled))[0].mean()
        loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    before = gradient()
    model.eval()
    with torch.inference_mode(), arithmetic.context():
        completion_losses(model, two_examples(bundled))
    after = gradient()
    assert before.keys() == after.keys()
    assert len(before) == 420
    for name, value in before.items():
        assert value.abs().max() > 0, name
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The command of the README with two steps and without answers, and its rows."""
    folder = tmp_path_factory.mktemp("runs")
    done = ftlab(
        "sweep", "--task", "sql", "--methods", "full,lora,qlora,prompt_tuning", "--steps", "2",
        "--batch-size", "2", "--eval-examples", "2", "--no-eval-answers", "--json",
        "--runs-dir", str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def ftlab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftlab", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,  # a slow CPU without bf16 takes seven minutes
    )


def test_a_sweep_measures_what_the_methods_differ_in(
    sweep: tuple[Path, list[dict[str, Any]]],
) -> None:
    rows = {row["method"]: row for row in sweep[1]}
    assert list(rows) == ["full", "lora", "qlora", "prompt_tuning"]
    assert {row["status"] for row in rows.values()} == {"done"}
    assert rows["full"]["trainable_params"] == rows["full"]["total_params"] == 134_515_008
    assert rows["lora"]["trainable_params"] == rows["qlora"]["trainable_params"] == 2_442_240
    assert rows["prompt_tuning"]["trainable_params"] == 20 * 576
    assert rows["lora"]["total_params"] == rows["qlora"]["total_params"]
    for method in ("lora", "qlora", "prompt_tuning"):
        assert rows[method]["adapter_bytes"] < 0.05 * rows["full"]["adapter_bytes"]
        assert rows[method]["net_peak_memory_bytes"] < 0.8 * rows["full"]["net_peak_memory_bytes"]
        files = sweep[0] / rows[method]["run_id"] / "adapter"
        config = json.loads((files / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == BUNDLED_ID
    for row in rows.values():
        assert row["eval_loss_after"] is not None
        assert row["eval_loss_before"] is not None


@pytest.mark.slow
def test_base_and_adapter_answer_side_by_side(sweep: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = sweep
    lora = next(row["run_id"] for row in rows if row["method"] == "lora")
    done = ftlab(
        "generate", "--runs", f"base,{lora}", "--prompt", "Name a colour.", "--max-new-tokens",
        "8", "--json", "--runs-dir", str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [answer["run_id"] for answer in answers] == [None, lora]
    assert all(answer["answer"] and not answer["error"] for answer in answers)
