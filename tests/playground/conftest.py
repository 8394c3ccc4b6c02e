"""A tiny random base model; finished runs and uploaded adapters on it."""

from __future__ import annotations

import shutil
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

SaveAdapter = Callable[..., None]
AddRun = Callable[..., RunDirectory]


@dataclass(frozen=True)
class Uploaded:
    """An uploaded adapter: the name of its pane, and its folder."""

    name: str
    folder: Path


AddAdapter = Callable[..., Uploaded]
NewEngine = Callable[..., "Engine"]


@dataclass(frozen=True)
class Sources:
    """Adds sources with random weights for panes to a runs folder."""

    runs_folder: Path
    model: Path
    save: SaveAdapter

    def run(self, method: str, seed: int = 1, **config: Any) -> RunDirectory:
        """A finished run of a method."""
        directory = make_run(self.runs_folder, method, model=str(self.model))
        self.save(method, directory.adapter, seed, **config)
        return directory

    def adapter(
        self, kind: str, seed: int = 1, *, base: Path | None = None, **config: Any
    ) -> Uploaded:
        """An uploaded adapter of any kind."""
        parent = uploaded_folder(self.runs_folder)
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / f"{kind.replace('_', '-')}-{len(list(parent.iterdir()))}"
        self.save(kind, folder, seed, base=base, **config)
        model = str(base or self.model)
        write_record(folder, AdapterRecord(label=kind, method=kind, model=model, sha256=""))
        return Uploaded(f"adapter:{folder.name}", folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide weights, so that answers differ, and a context that a prompt can exceed."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    return make_tiny_model(folder, context=128, spread=0.3, dtype="bfloat16")


@pytest.fixture(scope="session")
def save_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> SaveAdapter:
    """Saves a random adapter into a folder: `save(kind, folder, seed=1, noise=0.1, **config)`.

    `kind` is a key of `KINDS` in `tests.playground.kinds`, or "full". `noise` is added to every
    weight that would be trained; without it the adapter is as PEFT initialises it. The same adapter
    is made once and then copied.
    """
    made: dict[str, Path] = {}

    def save(kind: str, target: Path, seed: int = 1, **options: Any) -> None:
        key = repr((kind, seed, sorted(options.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("saved")
            make(kind, made[key], seed, **options)
        shutil.copytree(made[key], target, dirs_exist_ok=True, copy_function=shutil.copyfile)

    def make(
        kind: str, target: Path, seed: int, *, noise: float = 0.1, base: Any = None, **config: Any
    ) -> None:
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
def add_run(runs_folder: Path, tiny_model: Path, save_adapter: SaveAdapter) -> AddRun:
    return Sources(runs_folder, tiny_model, save_adapter).run


@pytest.fixture
def add_adapter(runs_folder: Path, tiny_model: Path, save_adapter: SaveAdapter) -> AddAdapter:
    return Sources(runs_folder, tiny_model, save_adapter).adapter


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Two threads on a busy machine are many times slower than one."""
    with lasting_imports():  # as in the worker: the garbage collector skips these modules
        import ftlab.playground.engine  # noqa: F401
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def new_engine(
    runs_folder: Path, tiny_model: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> NewEngine:
    """Makes an engine on the CPU with a base in that precision: `new("bf16", folder)`.

    Small weights are laid out as large ones are, so that every kind of pane is tried on them.
    """
    for limit in ("_SMALLEST", "_FEWEST_OUTPUTS"):
        monkeypatch.setattr(f"ftlab.models.laid_out.{limit}", 1)
    import torch

    from ftlab.playground.engine import Engine

    def new(precision: Any = "fp32", model: Path = tiny_model) -> Engine:
        engine = Engine(runs_folder, torch.device("cpu"))
        engine.load(str(model), precision)
        return engine

    return new


@pytest.fixture
def engine(new_engine: NewEngine) -> Engine:
    """An engine with the tiny model in fp32."""
    return new_engine()


@pytest.fixture
def ask(tiny_model: Path) -> GenerateRequest:
    """A short greedy request to the base in fp32; replace its panes."""
    return GenerateRequest(
        ("base",), PROMPT, model=str(tiny_model), precision="fp32", max_new_tokens=12
    )
