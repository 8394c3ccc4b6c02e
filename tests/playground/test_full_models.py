"""Full fine-tunings: cached while memory allows; the least recently used one is evicted first."""

from __future__ import annotations

import hashlib
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.basics.errors import FtlabError
from ftlab.playground.engine import SPARE_BYTES, FullModels
from ftlab.playground.panes import PaneSource
from tests.playground.conftest import SaveAdapter

CPU = torch.device("cpu")
EVERYTHING = 1 << 40


@pytest.fixture(scope="session")
def full_folder(
    tmp_path_factory: pytest.TempPathFactory, save_adapter: SaveAdapter, one_thread: None
) -> Path:
    folder = tmp_path_factory.mktemp("full") / "adapter"
    save_adapter("full", folder)
    return folder


@pytest.fixture
def size(full_folder: Path) -> int:
    return (full_folder / "model.safetensors").stat().st_size


def full(folder: Path, name: str) -> PaneSource:
    return PaneSource(name, f"Full {name}", method="full", folder=folder)


def get(models: FullModels, folder: Path, name: str, *in_use: str, policy: Any = "bf16") -> Any:
    return models.get(full(folder, name), policy, in_use)


def test_a_model_is_loaded_once_in_the_precision_of_the_base_with_its_own_weights(
    full_folder: Path,
) -> None:
    models = FullModels(CPU, lambda: None, EVERYTHING)
    first, second = get(models, full_folder, "a"), get(models, full_folder, "b", policy="fp32")
    weights = (full_folder / "model.safetensors").read_bytes()
    assert first.sha256 == hashlib.sha256(weights).hexdigest()
    assert first.low_rank is None
    assert get(models, full_folder, "a") is first
    assert models.names == ["b", "a"]
    assert (first.model.dtype, second.model.dtype) == (torch.bfloat16, torch.float32)
    assert not any(parameter.requires_grad for parameter in first.model.parameters())
    assert not first.model.training
    theirs = {parameter.data_ptr() for parameter in first.model.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in second.model.parameters()}


@pytest.mark.parametrize(
    ("files", "policy", "asked", "kept"),
    [(2, "bf16", "abac", "ac"), (3, "fp32", "ab", "b")],  # in 32 bits it counts twice
)
def test_the_least_recently_used_makes_room_under_the_limit(
    files: int, policy: str, asked: str, kept: str, full_folder: Path, size: int
) -> None:
    models = FullModels(CPU, lambda: None, limit=files * size)
    for name in asked:
        get(models, full_folder, name, policy=policy)
    assert models.names == list(kept)


def test_what_is_not_needed_is_freed_before_a_model_is_evicted_or_refused(
    full_folder: Path, size: int
) -> None:
    freed: list[bool] = []

    def make_free() -> bool:
        freed.append(not freed)
        return freed[-1]

    def free() -> int:
        return SPARE_BYTES + (1 + any(freed) - len(models.names)) * size

    models = FullModels(CPU, free, EVERYTHING, make_free=make_free)
    for name in "ab":
        get(models, full_folder, name)
    assert (models.names, freed) == (["a", "b"], [True])
    get(models, full_folder, "c")
    assert (models.names, freed) == (["b", "c"], [True, False])


def test_models_are_evicted_until_the_device_has_room(full_folder: Path, size: int) -> None:
    """The free memory grows with every evicted model."""
    models = FullModels(CPU, lambda: SPARE_BYTES + (3 - len(models.names)) * size, EVERYTHING)
    for name in "abcd":
        get(models, full_folder, name)
    assert models.names == ["b", "c", "d"]


def test_an_evicted_model_is_freed(full_folder: Path, size: int) -> None:
    models = FullModels(CPU, lambda: None, limit=size)
    gone = weakref.ref(get(models, full_folder, "a").model)
    get(models, full_folder, "b")
    assert gone() is None


def test_models_of_the_same_prompt_do_not_evict_each_other(full_folder: Path, size: int) -> None:
    models = FullModels(CPU, lambda: None, limit=size)
    get(models, full_folder, "a", "a", "b")
    with pytest.raises(FtlabError, match="and 1 of this prompt use ") as error:
        get(models, full_folder, "b", "a", "b")
    assert str(error.value).startswith("There is no memory for another full model: 'Full b' needs ")
    assert str(error.value).endswith("choose fewer full fine-tunings, or 16 bits.")
    assert models.names == ["a"]
    full_device = FullModels(CPU, lambda: SPARE_BYTES, EVERYTHING)
    with pytest.raises(FtlabError, match=r"needs .*, 268 MB is free, and 0 of this prompt use"):
        get(full_device, full_folder, "a", "a")


def test_missing_and_damaged_weights_are_refused(tmp_path: Path, full_folder: Path) -> None:
    models = FullModels(CPU, lambda: None, EVERYTHING)
    with pytest.raises(FtlabError, match=r"weights of 'Full a' cannot be found: .* no \.safetens"):
        get(models, tmp_path, "a")
    folder = shutil.copytree(full_folder, tmp_path / "torn")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FtlabError, match="cannot be loaded: they are damaged") as error:
        get(models, folder, "a")
    assert "\n" not in str(error.value)
    assert models.names == []
