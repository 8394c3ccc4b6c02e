"""Methods are found by themselves, a new file is a method on every surface, and methods are told
apart by how they look, on a light and on a dark ground."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from plotly.validator_cache import ValidatorCache

from ftlab.basics.processes import python_environment
from ftlab.methods import registry
from ftlab.methods.by_hand import PEFT
from ftlab.methods.registry import BASE_LOOK, CORE, METHODS
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
        short="My LoRA",
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


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each surface shows if "my_lora" is a new file in the folder of the methods, and
    "our_lora" a module named by the entry point of another package."""
    runs, files, others = (tmp_path_factory.mktemp(name) for name in ("runs", "new", "others"))
    (files / "new_method.py").write_text(NEW_FILE, encoding="utf-8")
    ours = NEW_FILE.replace("my_lora", "our_lora").replace("My LoRA", "Our LoRA")
    (others / "module_of_others.py").write_text(ours, encoding="utf-8")
    package = others / "other_package-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: other_package\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[ftlab.methods]\nnew = module_of_others\n")
    done = subprocess.run(
        [sys.executable, "-m", see_new_method.__name__, str(runs), str(files)],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env=python_environment() | {"PYTHONPATH": str(others)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    shown: dict[str, str] = json.loads(done.stdout)
    return shown


@pytest.mark.slow
def test_a_new_method_is_there_without_another_file_touched(
    surfaces: dict[str, str],
) -> None:
    for owner in ("My", "Our"):
        for surface, shown in NAMES.items():
            name = shown.replace("My", owner).replace("my", owner.lower())
            assert name in surfaces[surface], (owner, surface)


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


LOOKS = {"base": BASE_LOOK, "peft": PEFT.look} | {m.id: m.look for m in METHODS.values()}
APART = 20  # CIE76; two colours beside each other are told apart from about 2.3 on


def lab(colour: str) -> np.ndarray:
    """CIE L*a*b* (D65) of "#rrggbb"."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_no_two_methods_share_colour_and_marker() -> None:
    assert len({(look.colour, look.marker) for look in LOOKS.values()}) == len(LOOKS)


def test_the_colours_of_any_two_methods_lie_far_apart() -> None:
    near = {
        (one, other): round(float(np.linalg.norm(lab(a.colour) - lab(b.colour))), 1)
        for (one, a), (other, b) in combinations(LOOKS.items(), 2)
        if "base" not in (one, other)  # never a point or a line of its own kind: hatched or dotted
    }
    assert {pair: distance for pair, distance in near.items() if distance < APART} == {}


@pytest.mark.parametrize("family", sorted({method.family for method in METHODS.values()}))
def test_methods_of_one_family_differ_in_their_marker_too(family: str) -> None:
    markers = [method.look.marker for method in METHODS.values() if method.family == family]
    assert len(set(markers)) == len(markers)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_plotly_knows_marker_and_dash(look) -> None:  # type: ignore[no-untyped-def]
    ValidatorCache.get_validator("scatter.marker", "symbol").validate_coerce(look.marker)
    ValidatorCache.get_validator("scatter.line", "dash").validate_coerce(look.dash)
