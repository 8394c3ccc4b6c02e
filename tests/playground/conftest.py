"""A tiny random base model, finished runs and brought adapters on it, made in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ftlab.models.libraries import lasting_imports
from ftlab.playground.panes import AdapterRecord, uploaded_folder, write_record
from ftlab.playground.requests import GenerateRequest
from ftlab.records.run import RunDirectory
from tests.fakes import make_run
from tests.tiny import make_tiny_model

if TYPE_CHECKING:
    from ftlab.playground.engine import Engine

PROMPT = "the capital of France"


@dataclass(frozen=True)
class Brought:
    """An adapter that no run made, by its pane's name."""

    name: str
    folder: Path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide weights, so that answers differ, and a context that a prompt can exceed."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    return make_tiny_model(folder, context=128, spread=0.3, dtype="bfloat16")


@pytest.fixture(scope="session")
def save_adapter(tiny_model: Path) -> Callable[..., None]:
    """Saves a random adapter into a folder: `save(kind, folder, seed=1, noise=0.1, **config)`.

    `kind` is a key of `KINDS` in `tests.playground.kinds`, or "full". `noise` is added to every
    weight that would be trained; without it the adapter is as PEFT begins it.
    """

    def save(
        kind: str, target: Path, seed: int = 1, *, noise: float = 0.1, base: Any = None,
        **config: Any,
    ) -> None:  # fmt: skip
        import torch
        from transformers import AutoModelForCausalLM

        from tests.playground.kinds import KINDS

        model = AutoModelForCausalLM.from_pretrained(base or tiny_model, dtype=torch.bfloat16)
        torch.manual_seed(seed)
        if kind != "full":
            model = KINDS[kind](model, **config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(noise * torch.randn_like(parameter))
        model.save_pretrained(target)

    return save


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder, with device locks of its own."""
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    return tmp_path / "runs"


@pytest.fixture
def add_run(
    runs_folder: Path, tiny_model: Path, save_adapter: Callable[..., None]
) -> Callable[..., RunDirectory]:
    """Makes a finished run of a method on the tiny model, with a real adapter."""

    def add(method: str, seed: int = 1, **config: Any) -> RunDirectory:
        directory = make_run(runs_folder, method, model=str(tiny_model))
        save_adapter(method, directory.adapter, seed, **config)
        return directory

    return add


@pytest.fixture
def add_adapter(
    runs_folder: Path, tiny_model: Path, save_adapter: Callable[..., None]
) -> Callable[..., Brought]:
    """Brings an adapter of any kind along: `add(kind, seed=1, base=None, **config)`."""

    def add(kind: str, seed: int = 1, *, base: Path | None = None, **config: Any) -> Brought:
        parent = uploaded_folder(runs_folder)
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / f"{kind.replace('_', '-')}-{len(list(parent.iterdir()))}"
        save_adapter(kind, folder, seed, base=base, **config)
        model = str(base or tiny_model)
        write_record(folder, AdapterRecord(label=kind, method=kind, model=model, sha256=""))
        return Brought(f"adapter:{folder.name}", folder)

    return add


@pytest.fixture(scope="session")
def imported() -> None:
    """torch and the engine, not searched for garbage again and again, as in the worker."""
    with lasting_imports():
        import ftlab.playground.engine  # noqa: F401


@pytest.fixture
def one_thread(imported: None) -> None:
    """Two threads on a busy machine are many times slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def new_engine(runs_folder: Path, tiny_model: Path, one_thread: None) -> Callable[..., Engine]:
    """Makes an engine on the CPU with a base in that precision: `new("bf16", folder)`."""
    import torch

    from ftlab.playground.engine import Engine

    def new(precision: Any = "fp32", model: Path = tiny_model) -> Engine:
        engine = Engine(runs_folder, torch.device("cpu"))
        engine.load(str(model), precision)
        return engine

    return new


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    """An engine with the tiny model in fp32."""
    return new_engine()


@pytest.fixture
def ask(tiny_model: Path) -> GenerateRequest:
    """A short greedy request to the base in fp32; replace its panes."""
    return GenerateRequest(
        ("base",), PROMPT, model=str(tiny_model), precision="fp32", max_new_tokens=12
    )
