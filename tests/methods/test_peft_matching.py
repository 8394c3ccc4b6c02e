"""PEFT in a process prepared by ftlab: nothing of it can match with a matcher that backtracks."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from ftlab.methods.peft_rules import MATCHING
from tests.methods.lay_over import EVIL

ROOT = Path(__file__).parents[2]
WORKERS = (
    "ftlab/playground/worker.py", "ftlab/playground/grid_worker.py", "ftlab/jobs/run_worker.py",
    "ftlab/jobs/peft_check_worker.py", "ftlab/share/merge_worker.py", "ftlab/prediction/worker.py",
    "ftlab/jobs/ready_parent.py", "ftlab/playground/serving_worker.py",
    "ftlab/training/probe_worker.py", "ftlab/jobs/ranks.py", "ftlab/playground/chat_worker.py",
)  # fmt: skip
"""The processes that lay PEFT over a model."""

EVERYTHING = """
import importlib, pkgutil, re, sys, peft
for found in pkgutil.walk_packages(peft.__path__, "peft."):
    try:
        importlib.import_module(found.name)
    except ImportError:
        pass  # of a library that is not installed
modules = [m for n, m in sys.modules.items() if n.partition(".")[0] == "peft"]
left = [m.__name__ for m in modules if any(value is re for value in vars(m).values())]
assert len(modules) > 150 and not left, left
from peft.tuners import tuners_utils
from ftlab.methods.peft_rules import MATCHING
assert tuners_utils.re is MATCHING
"""
PREPARE = "from ftlab.models.libraries import prepare_for_libraries; prepare_for_libraries('cpu')"
ENGINES = "import ftlab.playground.engine, ftlab.training.model, ftlab.share.merge"


@cache
def _peft_trees() -> dict[Path, ast.Module]:
    import peft

    files = sorted(Path(peft.__path__[0]).rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("first", [[PREPARE, ENGINES], ["import peft.tuners.lora", PREPARE]])
def test_no_module_of_peft_has_the_matcher_that_backtracks(first: list[str]) -> None:
    """Whether it was imported before the process was prepared, or afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*first, EVERYTHING])],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("worker", WORKERS)
def test_every_worker_is_prepared_before_it_imports_peft(worker: str) -> None:
    text = (ROOT / worker).read_text(encoding="utf-8")
    assert "prepare_for_libraries(" in text.partition("def main")[2]


def test_every_process_that_puts_a_configuration_on_a_model_is_in_the_list() -> None:
    started = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ftlab").rglob("*.py")
        if "prepare_for_libraries(" in path.read_text(encoding="utf-8")
    }
    its_home = "ftlab/models/libraries.py"
    torch_alone = {"ftlab/operations/torch_probe.py", "ftlab/prediction/measure_rates.py"}
    assert started == {*WORKERS, *torch_alone, its_home}


@pytest.mark.slow
def test_peft_compiles_patterns_with_nothing_but_the_module_re_as_a_whole() -> None:
    """So that whatever it compiles goes by the name that is replaced."""
    for path, tree in _peft_trees().items():
        at_top = [node for node in tree.body if isinstance(node, ast.Import)]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("re", "regex", "fnmatch", "glob", "sre_compile"), path
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not names & {"regex", "fnmatch", "sre_compile"}, path
                assert "re" not in names or node in at_top, path


def test_what_peft_uses_of_re_is_there_and_only_its_own_patterns_are_replaced() -> None:
    given = []
    for path, tree in _peft_trees().items():
        for node in ast.walk(tree):
            if _is_re(node):
                assert hasattr(MATCHING, node.attr), f"{path}: re.{node.attr}"  # type: ignore[attr-defined]
            if isinstance(node, ast.Call) and _is_re(node.func):
                assert len(node.args) <= (4 if "sub" in node.func.attr else 2), path  # type: ignore[attr-defined]
                assert not node.keywords, path
                if node.func.attr in ("sub", "subn"):  # type: ignore[attr-defined]
                    given.append(ast.unparse(node.args[0]))
    own = [text for text in given if not (text.startswith(("'", '"')) or "re.escape(" in text)]
    assert own == ["pattern"]  # of transformers' key mapping, in load_peft_weights


def _is_re(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "re"
    )


@pytest.mark.slow
@pytest.mark.hostile("patterns of layers")
def test_no_field_of_any_kind_of_adapter_takes_a_pattern_for_longer_than_a_moment(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    out = tmp_path / "seconds.json"
    command = [sys.executable, "-m", "tests.methods.lay_over", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    slow = [case for case in found if case[3] > 1.5]
    assert not slow
    assert {kind for kind, *_ in found} >= {"LORA", "IA3", "OSF", "C3A", "FOURIERFT"}
    assert {field for _, field, *_ in found} >= {
        "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "modules_to_save",
        "layers_pattern", "feedforward_modules", "target_parameters", "block_size_pattern",
    }  # fmt: skip
    assert len(found) > 700
    assert {pattern for *_, pattern, _ in found} == set(EVIL)
    record_property("hostile inputs", 3 * len(found))
