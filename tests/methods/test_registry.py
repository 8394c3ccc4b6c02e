"""Methods are found by themselves: a new file is a method on every surface."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ftlab.environment import python_environment
from ftlab.errors import FtlabError
from ftlab.methods import registry
from ftlab.methods.registry import CORE, METHODS, get_method
from ftlab.methods.spec import FAMILIES
from tests.methods import see_new_method

ROOT = Path(__file__).parents[2]
NEW_FILE = '''\
"""A method that somebody adds."""

from dataclasses import replace

from ftlab.methods.families.lora import LORA
from ftlab.methods.spec import Look

METHODS = (
    replace(
        LORA,
        id="my_lora",
        label="My LoRA",
        short_label="Mine",
        look=Look("#123456", "circle", "solid"),
    ),
)
'''
NAMES = {
    "page": "<b>My LoRA</b>",
    "command line": "My LoRA",
    "help of sweep": "my_lora",
    "results table": "My LoRA",
    "report": "My LoRA",
}
"""What each surface calls it."""


@pytest.fixture(scope="module", params=["a file", "an entry point"])
def surfaces(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What each surface shows where one new file is in the folder of the methods, or is named by
    the entry point of another package."""
    runs, folder, none = (tmp_path_factory.mktemp(name) for name in ("runs", "new", "none"))
    (folder / "new_method.py").write_text(NEW_FILE, encoding="utf-8")
    files, environment = folder, python_environment()
    if request.param == "an entry point":
        package = folder / "other_package-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text("Name: other_package\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("[ftlab.methods]\nnew = new_method\n")
        files, environment = none, environment | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", see_new_method.__name__, str(runs), str(files)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    shown: dict[str, str] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize("surface", NAMES)
def test_a_new_method_is_there_without_another_file_touched(
    surface: str, surfaces: dict[str, str]
) -> None:
    assert NAMES[surface] in surfaces[surface]


def test_methods_stand_family_by_family() -> None:
    places = [list(FAMILIES).index(method.family) for method in METHODS.values()]
    assert places == sorted(places)
    assert [method for method in METHODS if method in CORE] == list(CORE)


def use_entry_point(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """Another package names a module with that text."""
    (folder / "module_of_others.py").write_text(text, encoding="utf-8")
    entry = EntryPoint("others", "module_of_others", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "module_of_others", raising=False)


def test_a_package_that_cannot_be_imported_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_entry_point(monkeypatch, tmp_path, "import no_such_module")
    with pytest.warns(UserWarning, match="'module_of_others' cannot be imported.*no_such_module"):
        assert registry.find_methods().keys() == METHODS.keys()


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        ("my_lora", "lora", "'lora' of module_of_others is the id of another method"),
        ("my_lora", "peft", "'peft' of module_of_others is the id of another method"),
        ("my_lora", "base", "'base' of module_of_others is the id of another method"),
        ('id="my_lora"', 'id="my_lora", family="mine"', "is of no family: full, part"),
    ],
)
def test_a_method_of_others_that_has_no_place_is_left_out_with_the_reason(
    place: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_entry_point(monkeypatch, tmp_path, NEW_FILE.replace(place, value))
    with pytest.warns(UserWarning, match=why):
        assert registry.find_methods() == METHODS


def test_a_method_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(FtlabError, match=r"There is no method 'lorra'; methods: full, .*'lora'\?"):
        get_method("lorra")
