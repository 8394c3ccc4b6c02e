"""GGUF: a file holds the model to the rounding of its type and its tokenizer, or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlab.__main__ import main
from ftlab.basics.errors import FtlabError
from ftlab.share import gguf_export
from ftlab.share.gguf_adapter import adapter_contents
from ftlab.share.gguf_control import TYPES, model_folder
from ftlab.share.gguf_export import check_gguf, model_contents, write_gguf
from tests.llama_cpp import LlamaCpp, needs_llama_cpp
from tests.share.conftest import Train

TEXTS = ("in the beginning", "  the\n\nend 12 345", "<|start|>user\nnäh 🦊<|end|>")
IDS = list(range(2, 34))


@pytest.fixture(scope="session")
def strong_model(export_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights large enough that its logits differ."""
    folder = tmp_path_factory.mktemp("gguf") / "strong"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(export_model)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(export_model).save_pretrained(folder)
    return folder


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Path, str], Path]:
    def write(folder: Path, kind: str = "f32") -> Path:
        target = tmp_path / f"{kind}.gguf"
        write_gguf(model_contents(folder, kind, "tiny"), target, replace=False)
        return target

    return write


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(torch.tensor([IDS])).logits  # type: ignore[no-any-return]


def stored(file: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(file).tensors
    }


def test_transformers_reads_the_same_model_tokens_and_template_back(
    strong_model: Path, written: Callable[..., Path]
) -> None:
    file = written(strong_model)
    back = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(**back)),
        logits(AutoModelForCausalLM.from_pretrained(strong_model)),
    )
    read, source = (
        AutoTokenizer.from_pretrained(**back),
        AutoTokenizer.from_pretrained(strong_model),
    )
    assert [read(text)["input_ids"] for text in TEXTS] == [source(t)["input_ids"] for t in TEXTS]
    assert read.chat_template == source.chat_template
    assert (read.eos_token, read.bos_token) == (source.eos_token, source.bos_token)


@needs_llama_cpp
def test_llama_cpp_answers_with_the_logits_of_transformers_and_the_same_tokens(
    strong_model: Path, written: Callable[..., Path]
) -> None:
    read = LlamaCpp(written(strong_model))
    wanted = logits(AutoModelForCausalLM.from_pretrained(strong_model))[0, -1].log_softmax(-1)
    found = torch.tensor(read.log_probabilities(IDS, 320))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    source = AutoTokenizer.from_pretrained(strong_model)
    assert read.tokens(*TEXTS) == [source(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("kind", TYPES)
def test_every_weight_is_its_source_to_half_a_step_of_the_type(
    kind: str, strong_model: Path, written: Callable[..., Path]
) -> None:
    found = stored(written(strong_model, kind))["blk.0.ffn_up.weight"]
    source = load_file(strong_model / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    if kind == "q8_0":
        blocks = source.reshape(-1, 32)
        steps = (blocks.abs().amax(1, keepdim=True) / 127).half().float()
        error = (torch.from_numpy(found).reshape(-1, 32) - blocks).abs() / steps
        assert 0.4 < error.max() < 0.57
    else:
        rounded = {"f32": torch.float, "f16": torch.half, "bf16": torch.bfloat16}[kind]
        assert np.array_equal(found, source.to(rounded).float().numpy())


def test_what_reads_back_otherwise_is_not_kept(
    strong_model: Path, written: Callable[..., Path]
) -> None:
    file = written(strong_model)
    contents = model_contents(strong_model, "f32", "tiny")
    check_gguf(contents, file)
    whole = file.read_bytes()
    value = stored(file)["blk.1.attn_k.weight"].tobytes()[:64]
    file.write_bytes(whole.replace(value, value[4:] + value[:4], 1))
    with pytest.raises(FtlabError, match=r"blk\.1\.attn_k\.weight does not read back"):
        check_gguf(contents, file)
    template = b"<|start|>assistant"
    assert whole.count(template) == 1
    file.write_bytes(whole.replace(template, b"<|start|>assistent"))
    with pytest.raises(FtlabError, match=r"tokenizer\.chat_template does not read back"):
        check_gguf(contents, file)


def test_a_file_that_is_there_stays_unless_replacing_is_said_and_a_failure_leaves_nothing(
    strong_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = model_contents(strong_model, "f16", "tiny")
    target = tmp_path / "model.gguf"
    target.write_text("mine")
    with pytest.raises(FtlabError, match="is there already; name another file, or add --replace"):
        write_gguf(contents, target, replace=False)
    with monkeypatch.context() as broken:
        broken.setattr(gguf_export, "check_gguf", _stopped)
        with pytest.raises(KeyboardInterrupt):
            write_gguf(contents, target, replace=True)
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]
    write_gguf(contents, target, replace=True)
    check_gguf(contents, target)
    assert list(tmp_path.iterdir()) == [target]


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_values_that_the_type_cannot_hold_are_refused_with_the_types_that_can(
    strong_model: Path, tmp_path: Path
) -> None:
    folder = _changed(strong_model, tmp_path, {})
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 70_000.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FtlabError, match=r"ffn_up\.weight has values beyond 65,504.*--type bf16"):
        write_gguf(model_contents(folder, "f16", "tiny"), tmp_path / "a.gguf", replace=False)
    write_gguf(model_contents(folder, "bf16", "tiny"), tmp_path / "a.gguf", replace=False)


def _changed(model: Path, tmp_path: Path, config: dict[str, Any]) -> Path:
    """A copy of the model's folder, with other values in its config.json."""
    folder = tmp_path / "changed"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | config))
    return folder


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt_bigcode"}, "has the architecture gpt_bigcode, .*; llama, mistral,"),
        ({"hidden_act": "gelu"}, "has the activation gelu, which llama.cpp's llama does not"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "scales its positions by longrope"),
        ({"model_type": "mistral", "sliding_window": 64}, "within a sliding window of 64 tokens"),
        ({"vocab_size": 400}, "has 320 rows and its config.json a vocab_size of 400"),
        ({"vocab_size": 200}, "a tokenizer of 264 tokens and weights for 200"),
    ],
)
def test_a_model_that_llama_cpp_would_read_as_another_is_refused_by_name(
    config: dict[str, Any], said: str, strong_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(FtlabError, match=f"tiny.* {said}"):
        model_contents(_changed(strong_model, tmp_path, config), "f16", "tiny")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "splits words in a way of its own"),
        ({"normalizer": {"type": "Lowercase"}}, "changes the text first"),
        ({"decoder": {"type": "Metaspace"}}, "no byte-level BPE tokenizer"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(
    change: dict[str, Any], said: str, strong_model: Path, tmp_path: Path
) -> None:
    folder = _changed(strong_model, tmp_path, {})
    raw = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(raw | change))
    with pytest.raises(FtlabError, match=f"tiny has .*{said}.*convert_hf_to_gguf"):
        model_contents(folder, "f16", "tiny")


def test_an_adapter_is_what_merging_would_add_to_the_base(
    train: Train, export_model: Path, tmp_path: Path
) -> None:
    run = train("lora")
    file = tmp_path / "lora.gguf"
    write_gguf(
        adapter_contents(run.directory.adapter, export_model, "f32", "tiny", "LoRA"), file, False
    )
    reader = gguf.GGUFReader(file)
    assert reader.get_field("general.type").contents() == "adapter"
    assert reader.get_field("adapter.type").contents() == "lora"
    alpha = reader.get_field("adapter.lora.alpha").contents()
    found = stored(file)
    base = AutoModelForCausalLM.from_pretrained(export_model)
    merged = PeftModel.from_pretrained(base, run.directory.adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(export_model).save_pretrained(tmp_path / "merged")
    write_gguf(model_contents(export_model, "f32", "b"), tmp_path / "b.gguf", False)
    write_gguf(model_contents(tmp_path / "merged", "f32", "m"), tmp_path / "m.gguf", False)
    before, after = stored(tmp_path / "b.gguf"), stored(tmp_path / "m.gguf")
    names = [name.removesuffix(".lora_a") for name in found if name.endswith(".lora_a")]
    assert len(names) == 2 * 7
    for name in names:
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        change = alpha / b.shape[1] * (b @ a)
        assert np.abs(change).max() > 1e-5
        np.testing.assert_allclose(before[name] + change, after[name], atol=1e-7)


@needs_llama_cpp
def test_llama_cpp_adds_the_adapter_to_the_base(
    train: Train, export_model: Path, tmp_path: Path
) -> None:
    run = train("lora")
    base = AutoModelForCausalLM.from_pretrained(export_model)
    untouched = logits(base)[0, -1].log_softmax(-1)
    adapted = PeftModel.from_pretrained(base, run.directory.adapter)
    wanted = logits(adapted)[0, -1].log_softmax(-1)
    adapter, model = tmp_path / "lora.gguf", tmp_path / "base.gguf"
    contents = adapter_contents(run.directory.adapter, export_model, "f32", "tiny", "LoRA")
    write_gguf(contents, adapter, replace=False)
    write_gguf(model_contents(export_model, "f32", "tiny"), model, replace=False)
    found = torch.tensor(LlamaCpp(model, adapter).log_probabilities(IDS, 320))
    assert (wanted - untouched).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_layers_of_smaller_rank_are_filled_up_so_that_one_alpha_gives_each_its_scale(
    train: Train, export_model: Path
) -> None:
    run = train("lora")
    folder = run.directory.adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"rank_pattern": {"k_proj": 4}, "alpha_pattern": {"k_proj": config["lora_alpha"] / 2}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "k_proj" in name:
            tensors[name] = (tensor[:4] if "lora_A" in name else tensor[:, :4]).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    contents = adapter_contents(folder, export_model, "f32", "tiny", "LoRA")
    made = {tensor.name: tensor.make() for tensor in contents.tensors}
    assert {a.shape[0] for name, a in made.items() if name.endswith("lora_a")} == {8}
    assert contents.keys["adapter.lora.alpha"] == pytest.approx(config["lora_alpha"])
    assert not made["blk.0.attn_k.weight.lora_b"][:, 4:].any()
    assert made["blk.0.attn_k.weight.lora_b"][:, :4].any()
    config["alpha_pattern"] = {"k_proj": config["lora_alpha"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(FtlabError, match="layers of several scales"):
        adapter_contents(folder, export_model, "f32", "tiny", "LoRA")


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("dora", "use_dora"),
        ("full", "gave a whole model and no adapter: export it"),
        ("last_layers:layers=1", "changed weights and no LoRA: export it merged"),
        ("loha", "no LoRA but LOHA, and GGUF holds adapters of LoRA alone: export it merged"),
    ],
)
def test_what_is_no_plain_lora_is_refused_as_an_adapter_with_the_way_out(
    variant: str, said: str, train: Train, export_model: Path
) -> None:
    folder = train(variant).directory.adapter
    with pytest.raises(FtlabError, match=rf"{said}.*without --adapter"):
        adapter_contents(folder, export_model, "f32", "tiny", "It")


def test_what_cannot_be_merged_cannot_become_a_gguf_file(train: Train, export_model: Path) -> None:
    run = train("prompt_tuning:tokens=4")
    with pytest.raises(FtlabError, match=r"no change of a weight.*this run cannot become one"):
        model_folder(run)
    with pytest.raises(FtlabError, match=r"cannot be merged either.*export a run of another"):
        adapter_contents(run.directory.adapter, export_model, "f32", "tiny", "Prompt tuning")


def test_what_llama_cpp_does_not_know_is_said_before_the_merge(
    train: Train, export_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("lora")
    assert model_folder(run) is None, "it can be merged and exported"
    monkeypatch.setattr("ftlab.share.gguf_architectures.ARCHITECTURES", {})
    with pytest.raises(FtlabError, match="tiny-llama has the architecture llama, which is not"):
        model_folder(run)


@pytest.mark.slow
def test_the_command_merges_a_run_and_writes_both_kinds_without_torch(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("lora")
    where = ["--runs-dir", str(tmp_path / "runs")]
    target = tmp_path / "my.gguf"
    command = ["export", run.run_id, "--gguf", "--type", "q8_0", "-o", str(target), *where]
    assert main(command) == 0
    said = capsys.readouterr()
    assert str(target) in said.out
    assert "it is merged first" in said.err
    keys = gguf.GGUFReader(target)
    assert keys.get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_Q8_0
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err
    check = (
        "import sys; from ftlab.__main__ import main; status = main(sys.argv[1:]); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    for more in (["--replace"], ["--adapter", "--type", "f32", "--replace"]):
        done = subprocess.run(
            [sys.executable, "-c", check, *command, *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "merged first" not in done.stderr
    assert gguf.GGUFReader(target).get_field("general.type").contents() == "adapter"
    assert main(["export", run.run_id, *where]) == 2
    assert "add --gguf" in capsys.readouterr().err
    assert main([*command, "--adapter", "--replace"]) == 2
    assert "add --type with one of f32" in capsys.readouterr().err


def test_a_full_fine_tuning_is_exported_as_it_is(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("full")
    target = tmp_path / "full.gguf"
    command = ["export", run.run_id, "--gguf", "--type", "f32", "-o", str(target)]
    assert main([*command, "--runs-dir", str(tmp_path / "runs")]) == 0
    source = load_file(run.directory.adapter / "model.safetensors")
    assert np.array_equal(
        stored(target)["token_embd.weight"], source["model.embed_tokens.weight"].float().numpy()
    )
    assert not run.directory.merged.exists()
