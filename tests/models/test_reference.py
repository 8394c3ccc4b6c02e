"""Naming, resolving and refusing models, without the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.models.reference import BUNDLED_ID, is_owned_hub_id, parse_model
from ftlab.models.resolve import describe_shape, resolve_model
from ftlab.share.bundle import check_repo
from ftlab.tasks.files import load_hub_rows


@pytest.mark.parametrize("name", ["bundled", BUNDLED_ID, " SmolLM2-135M-Instruct "])
def test_the_bundled_model_goes_by_its_public_id(name: str) -> None:
    reference = parse_model(name)
    assert (reference.kind, reference.name) == ("bundled", BUNDLED_ID)


def test_a_folder_with_safetensors_is_a_model(tiny_model: Path) -> None:
    model = resolve_model(str(tiny_model))
    assert model.folder == tiny_model.resolve()
    assert model.public_id == "tiny-llama"
    assert len(model.fingerprint()) == 64
    assert describe_shape(model.config()) == "llama, 2 layers, context 2,048"


def test_pickled_weights_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(FtlabError, match=r"no \.safetensors file; other weight formats can run"):
        parse_model(str(tmp_path))


def test_a_model_that_brings_its_own_code_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FtlabError, match="needs code of its own"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("name", ["", "a/b/c", "../x\x00", "x y", "owner/..", "http://x/y"])
def test_what_names_no_model_is_refused_with_the_ways_there_are(name: str) -> None:
    with pytest.raises(FtlabError):
        parse_model(name)


NO_REPOSITORIES = [
    "models--x", "models--a--b", "a/models--a--b", "datasets--a--b", "spaces--a--b", "a--b/c",
    ".a/b", "a./b", "a/.b", "a/b.", "a..b/c", "a/b..c", "a/..", "../a", "-a/b", "a/b-", "a/b.git",
    "a\n/b", "a/b\x00", "a/b/c", "/a/b", "a/", "/b", "datasets/a/b", "a/\u00e9", "a/\uff42",
    "a/\ud800", "a b/c", "a/" + "b" * 97, "a" * 97 + "/b", "https://huggingface.co/a/b",
]  # fmt: skip


@pytest.mark.hostile("names of no repository")
@pytest.mark.parametrize("name", NO_REPOSITORIES, ids=lambda name: ascii(name)[:40])
def test_a_name_that_no_repository_can_have_is_refused_for_models_data_and_uploads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FtlabError):
        parse_model(name)
    with pytest.raises(FtlabError, match="write it as owner/name"):
        load_hub_rows(name, None, None)
    with pytest.raises(FtlabError, match="write OWNER/NAME"):
        check_repo(name)


@pytest.mark.parametrize("name", ["a/b", "a_b/c-d", "Qwen/Qwen2.5-0.5B-Instruct", "0/1"])
def test_a_name_that_a_repository_can_have_is_taken(name: str) -> None:
    assert parse_model(name).name == check_repo(name) == name
    assert is_owned_hub_id(name)


def test_a_hub_that_cannot_be_reached_says_what_was_tried_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FtlabError) as caught:
        resolve_model("some-owner/some-model")
    message = str(caught.value)
    assert "'some-owner/some-model' could not be had" in message
    assert "Use the bundled model, a local folder" in message
