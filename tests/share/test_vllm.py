"""The command with which vLLM serves a run, against the options that vLLM documents."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ftlab.__main__ import main
from ftlab.basics.locks import holding
from ftlab.records.merge import MergeDirectory
from ftlab.records.run import RunDirectory
from ftlab.share.vllm import RANKS, why_not_on_vllm
from tests.fakes import make_run

DOCUMENTED = {
    "--enable-lora", "--max-lora-rank", "--lora-modules", "--quantization", "--served-model-name",
}  # fmt: skip
"""Of docs.vllm.ai: `vllm serve` (engine arguments), features/lora, features/quantization/bnb."""

PLAIN = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "bias": "none",
    "target_modules": ["q_proj"],
}


def run_with(folder: Path, method: str = "lora", model: str = "bundled", **config: Any) -> str:
    directory = make_run(folder, method, model=model)
    put_weights(directory, PLAIN | config)
    return directory.run_id


def put_weights(directory: RunDirectory, config: dict[str, Any]) -> None:
    directory.adapter.mkdir(parents=True, exist_ok=True)
    (directory.adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory.adapter / "adapter_model.safetensors").write_bytes(b"weights")


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What `script RUN --vllm` prints: its words, or its error."""

    def said(run_id: str) -> list[str] | str:
        status = main(["script", run_id, "--vllm", "--runs-dir", str(tmp_path)])
        out, err = capsys.readouterr()
        if status:
            return err
        assert out.count("\n") == 1
        words = shlex.split(out)
        assert words[:2] == ["vllm", "serve"]
        assert {word for word in words if word.startswith("--")} <= DOCUMENTED
        return words[2:]

    return said


@pytest.mark.parametrize(("rank", "most"), [(1, 8), (8, 8), (9, 16), (300, 320), (512, 512)])
def test_a_lora_is_a_module_on_its_base_with_the_next_rank_that_vllm_has(
    rank: int, most: int, said: Any, tmp_path: Path
) -> None:
    run_id = run_with(tmp_path, r=rank)
    assert said(run_id) == [
        "HuggingFaceTB/SmolLM2-135M-Instruct", "--enable-lora", "--max-lora-rank", str(most),
        "--lora-modules", f"{run_id}={(tmp_path / run_id / 'adapter').resolve()}",
    ]  # fmt: skip
    assert most in RANKS


def test_a_base_in_4_bits_is_quantised_by_vllm_too(said: Any, tmp_path: Path) -> None:
    assert said(run_with(tmp_path, "qlora"))[-2:] == ["--quantization", "bitsandbytes"]


def test_a_base_from_a_folder_is_named_by_it(said: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    assert said(run_with(tmp_path, model=str(folder)))[0] == str(folder)


def test_a_whole_model_is_served_as_it_is(said: Any, tmp_path: Path) -> None:
    directory = make_run(tmp_path, "full")
    directory.adapter.mkdir(exist_ok=True)
    (directory.adapter / "config.json").write_text("{}")
    (directory.adapter / "model.safetensors").write_bytes(b"weights")
    folder, *rest = said(directory.run_id)
    assert folder == str(directory.adapter.resolve())
    assert rest == ["--served-model-name", directory.run_id]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"lora_bias": True}, "biases of its own"),
        ({"modules_to_save": ["lm_head"]}, "modules that were trained whole"),
        ({"rank_pattern": {"q_proj": 4}}, "different ranks"),
        ({"alpha_pattern": {"q_proj": 4}}, "different alphas"),
        ({"trainable_token_indices": [1]}, "trained rows"),
        ({"r": 513}, "its rank is 513"),
        ({"peft_type": "IA3"}, "it is IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed base weights"),
    ],
)
def test_what_vllm_does_not_take_is_said_with_the_way_out_and_served_once_merged(
    config: dict[str, Any], why: str, said: Any, tmp_path: Path
) -> None:
    run_id = run_with(tmp_path, **config)
    error = said(run_id)
    assert re.search(rf"vLLM takes plain LoRA alone .*{why}", error)
    assert f"python -m ftlab merge {run_id}" in error
    directory = RunDirectory(tmp_path / run_id)
    merge = MergeDirectory(directory)
    with holding(merge.lock):
        merge.write_request(directory.merged)
    directory.merged.mkdir()
    (directory.merged / "config.json").write_text("{}")
    merge.end("done")
    assert said(run_id) == [str(directory.merged.resolve()), "--served-model-name", run_id]


def test_what_cannot_be_merged_either_is_served_here(said: Any, tmp_path: Path) -> None:
    run_id = run_with(tmp_path, "prompt_tuning", peft_type="PROMPT_TUNING")
    assert f"python -m ftlab serve --runs {run_id}" in said(run_id)


def test_rank_stabilised_lora_is_taken() -> None:
    assert why_not_on_vllm(PLAIN | {"use_rslora": True, "init_lora_weights": "gaussian"}) == ""


def test_a_run_without_weights_is_refused(said: Any, tmp_path: Path) -> None:
    assert "nothing was trained" in said(make_run(tmp_path, "base").run_id)
