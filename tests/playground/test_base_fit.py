"""Whether an adapter from elsewhere goes with a base: by tensors, then by weights, by name last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.commands import generate
from ftlab.jobs.inputs import Access
from ftlab.models.bundled import bundled_folder
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground import uploaded
from ftlab.playground.panes import (
    AdapterRecord,
    base_doubt,
    find_source,
    line_up,
    uploaded_folder,
    uploaded_sources,
    write_record,
    wrong_base,
)
from ftlab.playground.uploaded import bring_adapter, vouch_for_base
from tests.playground.adapters import adapter_folder, base_folder, config_bytes, weights

LAYER = "base_model.model.model.layers.0.self_attn"
SMALL = {f"{LAYER}.q_proj.lora_A.weight": [2, 4], f"{LAYER}.q_proj.lora_B.weight": [4, 2]}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base of one layer that is 4 wide."""
    return base_folder(tmp_path / "small")


def adapter(folder: Path, named: str = "someone/other", **changes: Any) -> Path:
    """An adapter whose tensors fit `base`."""
    config = config_bytes(base_model_name_or_path=named, **changes)
    magnitude = {f"{LAYER}.q_proj.lora_magnitude_vector": [4]} if "use_dora" in changes else {}
    return adapter_folder(folder, config, weights(SMALL | magnitude))


def test_where_only_the_name_differs_the_adapter_is_kept_and_the_doubt_is_said(
    tmp_path: Path, runs_folder: Path, base: Path
) -> None:
    pane = bring_adapter(adapter(tmp_path / "mine"), runs_folder, base=str(base))
    said = "'mine' says it was trained on someone/other; its 2 tensors fit small"
    assert base_doubt(pane, str(base)) == said
    problem = wrong_base(pane, str(base))
    assert problem.startswith(f"{said}. If that is its base, vouch for it: by the button in its ")
    assert str(base) not in problem


def test_a_person_vouches_for_the_base_once_and_it_answers_on_that_base_alone(
    tmp_path: Path, runs_folder: Path, base: Path
) -> None:
    other = base_folder(tmp_path / "another")
    pane = bring_adapter(adapter(tmp_path / "mine"), runs_folder, base=str(base))
    for _ in range(2):
        pane = vouch_for_base(runs_folder, pane.name, str(base))
        assert pane.vouched == (str(base),)
    assert pane == find_source(runs_folder, pane.name)
    assert pane.is_vouched_for(str(base))
    assert wrong_base(pane, str(base)) == base_doubt(pane, str(base)) == ""
    assert base_doubt(pane, str(other))
    assert line_up([pane.name], None, runs_folder).model == str(base)
    again = bring_adapter(tmp_path / "mine", runs_folder, base=str(base))
    assert again == pane, "brought again it is still vouched for"


def test_nobody_can_vouch_for_what_does_not_fit_or_was_not_brought(
    tmp_path: Path, runs_folder: Path, base: Path
) -> None:
    pane = bring_adapter(adapter(tmp_path / "mine"), runs_folder, base=str(base))
    wide = base_folder(tmp_path / "wide", 8)
    with pytest.raises(FtlabError, match=r"does not fit wide: .*q_proj.lora_A.weight is \(2, 4\)"):
        vouch_for_base(runs_folder, pane.name, str(wide))
    for name in ("base", "shipped:sql", "adapter:..", "adapter:gone"):
        with pytest.raises(FtlabError, match="names no adapter that was brought along"):
            vouch_for_base(runs_folder, name, str(base))


@pytest.mark.parametrize("named", ["/data/bases/{}", "~/cache/models/{}/", "C:\\ftlab\\{}"])
def test_the_folder_in_which_ftlab_keeps_the_bundled_model_is_that_model(
    tmp_path: Path, runs_folder: Path, named: str
) -> None:
    config = config_bytes(base_model_name_or_path=named.format(bundled_folder().name))
    pane = bring_adapter(adapter_folder(tmp_path / "mine", config), runs_folder, base=BUNDLED_ID)
    assert pane.model == BUNDLED_ID
    assert wrong_base(pane, BUNDLED_ID) == ""


def test_a_folder_with_the_very_weights_of_the_base_needs_no_word(
    tmp_path: Path, runs_folder: Path, base: Path
) -> None:
    shutil.copytree(base, tmp_path / "renamed")
    source = adapter(tmp_path / "mine", str(tmp_path / "renamed"))
    pane = bring_adapter(source, runs_folder, base=str(base))
    assert (pane.same_weights, pane.model) == (True, "small")
    assert wrong_base(pane, str(base)) == ""


def test_a_folder_of_the_same_sizes_with_other_weights_needs_a_persons_word(
    tmp_path: Path, runs_folder: Path, base: Path
) -> None:
    shutil.copytree(base, tmp_path / "tuned")
    file = tmp_path / "tuned" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x02")
    source = adapter(tmp_path / "mine", str(tmp_path / "tuned"))
    pane = bring_adapter(source, runs_folder, base=str(base))
    assert not pane.same_weights
    assert "says it was trained on tuned" in base_doubt(pane, str(base))


def test_a_strangers_file_is_not_asked_what_lies_on_this_machine(
    tmp_path: Path, runs_folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploaded, "is_the_same", lambda *_: pytest.fail("it was looked at"))
    source = adapter(tmp_path / "mine", str(base))
    assert bring_adapter(source, runs_folder, access=Access(folders=()), base=str(base))


def test_without_a_word_on_the_base_an_adapter_is_held_against_the_folder_that_it_names(
    tmp_path: Path, runs_folder: Path, base: Path
) -> None:
    assert bring_adapter(adapter(tmp_path / "mine", str(base)), runs_folder).model == "small"
    wide = base_folder(tmp_path / "wide", 8)
    with pytest.raises(FtlabError, match="'bad' does not fit wide"):
        bring_adapter(adapter(tmp_path / "bad", str(wide)), runs_folder)
    assert len(uploaded_sources(runs_folder)) == 1


def test_a_folder_that_is_not_here_is_asked_about_on_the_bundled_model(tmp_path: Path) -> None:
    gone = AdapterRecord("mine", "lora", "my-base", "", named_by_folder=True)
    folder = uploaded_folder(tmp_path) / "mine"
    folder.mkdir(parents=True)
    write_record(folder, gone)
    lineup = line_up(["base", "adapter:mine"], None, tmp_path)
    assert lineup.model == BUNDLED_ID
    assert list(lineup.problems) == [1]


@pytest.mark.parametrize(
    "tensor",
    [
        f"{LAYER}.\x1b[31m.lora_A.weight", "base_model.model.\u202e.a.b.c.weight",
        "base_model.model.", "base_model.", f"{LAYER}.q_proj.", f"{LAYER}.q_proj.lora_A.weight",
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [[], [0], [2], [2, 3, 4]])
def test_a_tensor_of_any_name_and_shape_is_a_plain_sentence_or_kept(
    tmp_path: Path, runs_folder: Path, base: Path, tensor: str, shape: list[int]
) -> None:
    config = config_bytes(base_model_name_or_path="someone/other")
    source = adapter_folder(tmp_path / "mine", config, weights(SMALL | {tensor: shape}))
    said = "Kept."
    try:
        bring_adapter(source, runs_folder, base=str(base))
    except FtlabError as error:
        said = str(error)
    assert said.isprintable()
    assert said.endswith(".")


# ---- the command line


def parsed(*arguments: str) -> Any:
    import argparse

    from ftlab.commands.options import generation_request

    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    return generation_request(parser.parse_args(["--prompt", "Hi", *arguments]), "Hi")


def test_the_command_line_vouches_with_base_is(
    tmp_path: Path, runs_folder: Path, base: Path
) -> None:
    path = str(adapter(tmp_path / "mine"))
    given = ["--runs", f"base,{path}", "--runs-dir", str(runs_folder)]
    with pytest.raises(FtlabError, match=r"vouch for it: .* or with --base-is its folder"):
        parsed(*given, "--model", str(base))
    request = parsed(*given, "--base-is", str(base))
    assert request.model == str(base)
    assert line_up(request.panes, request.model, runs_folder).problems == {}
    kept = request.panes[1]
    assert parsed("--runs", kept, "--runs-dir", str(runs_folder)).panes == (kept,)


def test_base_is_without_an_adapter_vouches_for_nothing(runs_folder: Path) -> None:
    with pytest.raises(FtlabError, match="--base-is bundled has no effect"):
        parsed("--runs", "base", "--base-is", "bundled", "--runs-dir", str(runs_folder))


def test_an_adapter_beside_a_run_is_held_against_the_runs_base(
    tmp_path: Path, runs_folder: Path, base: Path
) -> None:
    from tests.fakes import make_run

    run = make_run(runs_folder, "lora", model=str(base))
    path = adapter(tmp_path / "mine", "elsewhere/small")
    request = parsed("--runs", f"{run.run_id},{path}", "--runs-dir", str(runs_folder))
    assert line_up(request.panes, None, runs_folder).problems == {}


# ---- what it is called


@pytest.mark.parametrize(
    ("changes", "method", "detail"),
    [
        ({}, "lora", "LoRA r=2, brought along"),
        ({"use_dora": True}, "dora", "DoRA r=2, brought along"),
        ({"use_rslora": True}, "rslora", "rsLoRA r=2, brought along"),
    ],
)
def test_a_lora_with_a_name_of_its_own_is_called_by_it(
    tmp_path: Path, runs_folder: Path, base: Path, changes: Any, method: str, detail: str
) -> None:
    pane = bring_adapter(adapter(tmp_path / "mine", **changes), runs_folder, base=str(base))
    assert (pane.method, pane.detail) == (method, detail)


def test_ranks_that_differ_are_shown_by_how_many_layers_have_them(
    tmp_path: Path, runs_folder: Path
) -> None:
    base = base_folder(tmp_path / "deep", 8, layers=5)
    shapes = {}
    for number in range(5):
        rank = 1 if number in (1, 4) else 3
        layer = f"base_model.model.model.layers.{number}.self_attn.q_proj"
        shapes |= {f"{layer}.lora_A.weight": [rank, 8], f"{layer}.lora_B.weight": [8, rank]}
    config = config_bytes(
        r=3,
        layers_to_transform=...,
        rank_pattern={"layers.1.self_attn.q_proj": 1, "4.self_attn.q_proj": 1},
    )
    folder = adapter_folder(tmp_path / "mine", config, weights(shapes))
    pane = bring_adapter(folder, runs_folder, base=str(base))
    assert pane.detail == "LoRA rank 3, 2 layers at 1, brought along"
    record = json.loads((pane.files[0].parent / "pane.json").read_text(encoding="utf-8"))
    assert record["method"] == "lora"
