"""The rules that keep the web process light and the packages apart."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "gradio"}


def _module_level_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _package(path: Path) -> str:
    return path.relative_to(ROOT / "ftlab").parts[0]


@pytest.mark.parametrize(
    "package", ["methods", "tasks", "runs", "charts", "commands", "learn", "report"]
)
def test_light_packages_import_neither_torch_nor_gradio(package: str) -> None:
    for path in (ROOT / "ftlab" / package).rglob("*.py"):
        roots = {name.split(".")[0] for name in _module_level_imports(path)}
        assert not roots & HEAVY, f"{path} imports {roots & HEAVY} at module level"


def test_of_the_export_only_the_merge_itself_imports_torch() -> None:
    heavy = {
        path.name
        for path in (ROOT / "ftlab" / "export").rglob("*.py")
        if {name.split(".")[0] for name in _module_level_imports(path)} & HEAVY
    }
    assert heavy == {"merge.py"}


@pytest.mark.parametrize("package", ["training", "playground", "export", "prediction"])
def test_workers_never_import_the_page(package: str) -> None:
    for path in (ROOT / "ftlab" / package).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "ftlab.ui" not in text, path
        assert "gradio" not in {name.split(".")[0] for name in _module_level_imports(path)}, path


def test_the_page_never_imports_training_or_simulation() -> None:
    for path in (ROOT / "ftlab" / "ui").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "ftlab.training" not in text, path
        assert "ftlab.prediction.simulation" not in text, path
