"""Full fine-tunings: kept while memory allows, the least recently used one goes first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.basics.errors import FtlabError
from ftlab.playground.attach import Attached
from ftlab.playground.engine import SPARE_BYTES, FullModels
from ftlab.playground.panes import PaneSource

CPU = torch.device("cpu")
EVERYTHING = 1 << 40


@pytest.fixture(scope="session")
def full_folder(
    tmp_path_factory: pytest.TempPathFactory, save_adapter: Callable[..., None]
) -> Path:
    folder = tmp_path_factory.mktemp("full") / "adapter"
    save_adapter("full", folder)
    return folder


@pytest.fixture
def source(full_folder: Path, one_thread: None) -> Callable[[str], PaneSource]:
    """A pane of that name; all of them have the same weights."""
    return lambda name: PaneSource(name, f"Full {name}", method="full", folder=full_folder)


@pytest.fixture
def size(full_folder: Path) -> int:
    return (full_folder / "model.safetensors").stat().st_size


def get(models: FullModels, source: PaneSource, *in_use: str, policy: Any = "bf16") -> Attached:
    return models.get(source, policy, in_use)


def test_a_model_is_loaded_once_with_the_hash_of_its_weights(
    source: Callable[[str], PaneSource], full_folder: Path
) -> None:
    models = FullModels(CPU, lambda: None, EVERYTHING)
    worn = get(models, source("a"))
    weights = (full_folder / "model.safetensors").read_bytes()
    assert worn.sha256 == hashlib.sha256(weights).hexdigest()
    assert worn.low_rank is None
    assert get(models, source("a")) is worn
    assert models.names == ["a"]


def test_its_weights_are_its_own_and_want_no_gradient(
    source: Callable[[str], PaneSource],
) -> None:
    models = FullModels(CPU, lambda: None, EVERYTHING)
    first, second = (get(models, source(name)).model for name in "ab")
    assert first is not None
    assert second is not None
    theirs = {parameter.data_ptr() for parameter in first.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in second.parameters()}
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert not first.training


def test_it_is_held_as_the_base_is(source: Callable[[str], PaneSource]) -> None:
    models = FullModels(CPU, lambda: None, EVERYTHING)
    narrow, wide = get(models, source("a")).model, get(models, source("b"), policy="fp32").model
    assert narrow is not None
    assert wide is not None
    assert narrow.dtype is torch.bfloat16
    assert wide.dtype is torch.float32


def test_the_least_recently_used_makes_room_under_the_limit(
    source: Callable[[str], PaneSource], size: int
) -> None:
    models = FullModels(CPU, lambda: None, limit=2 * size)
    get(models, source("a"))
    get(models, source("b"))
    get(models, source("a"))
    get(models, source("c"))
    assert models.names == ["a", "c"]


def test_in_32_bits_a_model_counts_twice_its_file(
    source: Callable[[str], PaneSource], size: int
) -> None:
    models = FullModels(CPU, lambda: None, limit=3 * size)
    get(models, source("a"), policy="fp32")
    get(models, source("b"), policy="fp32")
    assert models.names == ["b"]


def test_models_go_until_the_device_has_room(
    source: Callable[[str], PaneSource], size: int
) -> None:
    """What is free grows with every model that is let go."""
    models = FullModels(CPU, lambda: SPARE_BYTES + (3 - len(models.names)) * size, EVERYTHING)
    for name in "abcd":
        get(models, source(name))
    assert models.names == ["b", "c", "d"]


def test_a_model_that_is_let_go_is_out_of_memory(
    source: Callable[[str], PaneSource], size: int
) -> None:
    import weakref

    models = FullModels(CPU, lambda: None, limit=size)
    model = get(models, source("a")).model
    gone = weakref.ref(model)
    del model
    get(models, source("b"))
    assert gone() is None


def test_the_models_of_this_prompt_do_not_push_each_other_out(
    source: Callable[[str], PaneSource], size: int
) -> None:
    models = FullModels(CPU, lambda: None, limit=size)
    get(models, source("a"), "a", "b")
    with pytest.raises(FtlabError) as error:
        get(models, source("b"), "a", "b")
    assert str(error.value).startswith("There is no memory for another full model: 'Full b' needs ")
    assert "and 1 of this prompt hold " in str(error.value)
    assert str(error.value).endswith("choose fewer full fine-tunings, or 16 bits.")
    assert models.names == ["a"]


def test_where_the_device_is_full_the_sentence_says_what_is_free(
    source: Callable[[str], PaneSource],
) -> None:
    models = FullModels(CPU, lambda: SPARE_BYTES, EVERYTHING)
    with pytest.raises(FtlabError, match=r"needs .*, 268 MB is free, and 0 of this prompt hold"):
        get(models, source("a"), "a")


def test_a_folder_without_weights_is_said(tmp_path: Path, one_thread: None) -> None:
    models = FullModels(CPU, lambda: None, EVERYTHING)
    with pytest.raises(FtlabError, match=r"weights of 'Full' are not there: .* no \.safetensors"):
        get(models, PaneSource("a", "Full", folder=tmp_path))


def test_torn_weights_are_said_in_one_sentence_and_nothing_is_held(
    tmp_path: Path, full_folder: Path, one_thread: None
) -> None:
    import shutil

    folder = shutil.copytree(full_folder, tmp_path / "torn")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    models = FullModels(CPU, lambda: None, EVERYTHING)
    with pytest.raises(FtlabError, match="cannot be loaded: they are damaged") as error:
        get(models, PaneSource("a", "Full", folder=folder))
    assert "\n" not in str(error.value)
    assert models.names == []
