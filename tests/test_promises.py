"""What is promised is counted from the tests that passed, and from no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_TESTS = """
import pytest

@pytest.mark.fault("the plug is pulled")
def test_a_fault(): pass

@pytest.mark.fault("never survived")
def test_a_fault_that_is_not_survived(): assert False

@pytest.mark.hostile("names")
@pytest.mark.parametrize("name", ["..", "/"])
def test_names(name): pass

@pytest.mark.hostile("names")
def test_many_names(record_property): record_property("hostile inputs", 40)
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("-p", "xdist.plugin", "-n", "2")])
def test_faults_and_inputs_of_passed_tests_are_counted(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    tests = tmp_path / "test_some.py"
    tests.write_text(_TESTS, encoding="utf-8")
    counts = tmp_path / "build" / "counts.json"
    command = [sys.executable, "-m", "pytest", "--promises", str(counts), "-p", "tests.conftest"]
    command += ["--rootdir", str(tmp_path), "-c", str(ROOT / "pyproject.toml"), *more, str(tests)]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take seconds
    subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, timeout=120
    )
    assert json.loads(counts.read_text()) == {
        "faults": ["the plug is pulled"],
        "hostile": {"names": 42},
        "failed": 1,
    }
