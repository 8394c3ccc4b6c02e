"""From what a person names or pastes to a config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.models.catalogue import catalogue, known_model
from ftlab.prediction.source import MAX_CHARACTERS, find_config

LLAMA = {"model_type": "llama", "hidden_size": 64}


def test_a_config_is_pasted() -> None:
    found = find_config(f"  {json.dumps(LLAMA)} ")
    assert (found.label, found.config) == ("pasted config", LLAMA)


def test_a_config_is_read_from_a_folder_without_weights_and_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "other.json").write_text(json.dumps(LLAMA))
    for name in (str(tmp_path), str(tmp_path / "config.json"), str(tmp_path / "other.json")):
        assert find_config(name).config == LLAMA
    assert find_config(str(tmp_path)).label == tmp_path.name
    assert find_config(str(tmp_path / "other.json")).label == "other"


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "llama-3.1-8b", " Llama 3.1 8B "])
def test_a_model_of_the_catalogue_goes_by_id_short_id_or_label(name: str) -> None:
    found = find_config(name)
    assert (found.label, found.config["hidden_size"]) == ("Llama 3.1 8B", 4096)


def test_the_bundled_model_is_in_the_catalogue() -> None:
    assert find_config("bundled").config["num_hidden_layers"] == 30


def test_the_catalogue_holds_each_model_once() -> None:
    names = [name for model in catalogue() for name in (model.id.lower(), model.label.lower())]
    assert len(names) == len(set(names))
    assert known_model("no such model") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "No model is named"),
        ("{nonsense", "not valid JSON, line 1"),
        ('{"a": 1} [', "not valid JSON"),
        ("a\x00b", "NUL"),
        ("../no-such-file", "cannot be read"),
        ("/no/such/folder", r"cannot be read \(No such file"),
        ("not a model!", "names no model"),
        ('{"a": "' + "x" * MAX_CHARACTERS + '"}', "more than 200,000 characters"),
    ],
)
def test_what_is_no_config_is_said_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FtlabError, match=sentence):
        find_config(text)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"[1]", "no JSON object"), (b"\xff\xfe", "no text in UTF-8"), (b"", "not valid JSON")],
)
def test_a_file_that_is_no_config_is_named(data: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(FtlabError, match=sentence) as caught:
        find_config(str(tmp_path))
    assert "config.json" in str(caught.value)


def test_a_hub_out_of_reach_leaves_the_catalogue_and_pasting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FtlabError, match=r"'someone/model' could not be had.*Paste its"):
        find_config("someone/model")
