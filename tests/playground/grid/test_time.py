"""How long a grid takes, before it starts: what makes it longer, what earlier grids correct."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.playground import grid_time
from ftlab.playground.grid import Cell, GridRequest, GridResult
from ftlab.playground.grid_time import expected_seconds
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import shipped_folder, uploaded_folder
from ftlab.prediction.duration import Rates
from tests.playground.grid.fakes import CPU, RATES, SQL, make_grid, make_request

HELD_OUT = HeldOut()
SQL_PROMPTS = tuple(HELD_OUT.prompts(SQL, 4))

Adds = Callable[..., str]


@pytest.fixture
def adds(tiny_model: Path, tmp_path: Path) -> Adds:
    """Adds an adapter that is said to be on the tiny model, and returns its pane's name."""

    def add(name: str, task: str = "sql", **config: object) -> str:
        folder = uploaded_folder(tmp_path) / name
        shutil.copytree(shipped_folder() / task, folder)
        known = json.loads((folder / "pane.json").read_text())
        (folder / "pane.json").write_text(json.dumps(known | {"model": str(tiny_model)}))
        config_file = folder / "adapter_config.json"
        config_file.write_text(json.dumps(json.loads(config_file.read_text()) | config))
        return f"adapter:{name}"

    return add


@pytest.fixture
def request_of(tiny_model: Path) -> Callable[..., GridRequest]:
    def make(
        prompts: int = 4, panes: tuple[str, ...] = ("base",), **settings: object
    ) -> GridRequest:
        given = ["a prompt"] * prompts
        return make_request(given, panes, (), (), model=str(tiny_model), **settings)

    return make


@pytest.fixture
def seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[GridRequest], float]:
    """Of a valid request, whatever adapters fit on."""
    monkeypatch.setattr(grid_time, "validate_grid", lambda *_: [])

    def expect(request: GridRequest) -> float:
        found = expected_seconds(request, tmp_path, CPU, RATES, HELD_OUT)
        assert found is not None
        return found

    return expect


def earlier(
    folder: Path,
    request: GridRequest,
    worked: float,
    tokens: int = 10,
    device: str = CPU.label,
    waited: float = 0.0,
) -> None:
    """A grid of that request that is done: so many seconds of work after three others."""
    cells = [
        Cell(prompt, pane, "answer", tokens=tokens, worked_seconds=worked)
        for pane in range(len(request.panes))
        for prompt in range(len(request.prompts))
    ]
    result = GridResult("done", "", worked + 3.0, waited, {"device": device})
    make_grid(folder, request, cells).write_result(result)


@pytest.mark.parametrize(
    "more",
    [
        {"prompts": 60}, {"panes": ("base", "base")}, {"max_new_tokens": 500},
        {"precision": "fp32"}, {"precision": "nf4"},
    ],
    ids=str,
)  # fmt: skip
def test_more_prompts_panes_tokens_or_work_a_token_take_longer(
    request_of: Callable[..., GridRequest],
    seconds: Callable[[GridRequest], float],
    more: dict[str, object],
) -> None:
    assert seconds(request_of(**more)) > seconds(request_of())


@pytest.mark.parametrize(
    ("precision", "rates", "expected"),
    [
        # Four prompts in one pass of 8 / 4 + 30 tokens each, and 72 of 96 tokens an answer.
        ("bf16", {"narrow": 2.0}, 4 * 32 + 4 * 72),
        ("fp32", {"wide": 2.0}, 4 * 32 + 4 * 72),
        # The first pass, and one a token of the longest: 72 + (96 - 72) * 3 / 4.
        ("bf16", {"few_rows": 2.0}, 91),
        ("fp32", {"few_rows": 4.0}, 91),
        ("nf4", {"unpacked": 1.0}, 91),
    ],
)
def test_seconds_are_those_of_products_and_of_passes_over_the_weights(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    rates: dict[str, float],
    expected: float,
) -> None:
    monkeypatch.setattr(grid_time, "validate_grid", lambda *_: [])
    weights = 94_528  # of the tiny model; each rate is so many times that, all others are no limit
    free = {"narrow": math.inf, "wide": math.inf, "few_rows": math.inf}
    given = free | {name: weights * rate for name, rate in rates.items()}
    known = Rates(bytes=math.inf, call_seconds=0.0, overlaps=False, **given)
    asked = make_request(
        ("a prompt", "four", "ab", "c"), ("base",), (), (), model=str(tiny_model),
        precision=precision, max_new_tokens=96,
    )  # fmt: skip
    found = expected_seconds(asked, tmp_path, CPU, known, HELD_OUT)
    assert found == pytest.approx(5.0 + expected)


def test_plain_adapters_share_the_passes_of_the_base_and_others_have_their_own(
    adds: Adds, request_of: Callable[..., GridRequest], seconds: Callable[[GridRequest], float]
) -> None:
    plain, dora = adds("plain"), adds("dora", use_dora=True)
    base = seconds(request_of(panes=("base", "base")))
    together, apart = (seconds(request_of(panes=("base", pane))) for pane in (plain, dora))
    assert base < together < apart


def test_of_many_answers_the_longest_is_longer_than_one_answer_is() -> None:
    length = grid_time.Length(mean=10.0, longest=20.0)
    assert [length.longest_of(count) for count in (1, 2, 10)] == [10.0, 15.0, 19.0]


def test_an_adapter_of_the_task_is_expected_to_answer_as_long_as_the_references(
    adds: Adds,
    tiny_model: Path,
    seconds: Callable[[GridRequest], float],
) -> None:
    own, other = adds("own"), adds("other", "medical")
    asked = make_request(
        SQL_PROMPTS, (own,), (), (), SQL, model=str(tiny_model), max_new_tokens=500
    )
    others = replace(asked, request=replace(asked.request, panes=(other,)))
    assert seconds(asked) < seconds(others)


def test_the_same_grid_again_takes_as_long_as_it_took(
    tmp_path: Path,
    request_of: Callable[..., GridRequest],
    seconds: Callable[[GridRequest], float],
) -> None:
    earlier(tmp_path, request_of(24, task=SQL), worked=40.0)
    assert seconds(request_of(24, task=SQL)) == pytest.approx(43.0)
    assert seconds(request_of(48, task=SQL)) == pytest.approx(3.0 + 2 * 40.0)


def test_the_time_spent_waiting_is_no_part_of_it(
    tmp_path: Path,
    request_of: Callable[..., GridRequest],
    seconds: Callable[[GridRequest], float],
) -> None:
    earlier(tmp_path, request_of(), worked=40.0, waited=1.0)
    assert seconds(request_of()) == pytest.approx(42.0)


def test_of_several_earlier_grids_the_middle_one_counts(
    tmp_path: Path,
    request_of: Callable[..., GridRequest],
    seconds: Callable[[GridRequest], float],
) -> None:
    for worked in (40.0, 10.0, 400.0):
        earlier(tmp_path, request_of(task=SQL), worked=worked)
    assert seconds(request_of(task=SQL)) == pytest.approx(43.0)


def test_a_long_system_prompt_is_read_before_every_prompt(
    request_of: Callable[..., GridRequest], seconds: Callable[[GridRequest], float]
) -> None:
    long = {"system": "be brief " * 1000}
    assert seconds(request_of(**long)) > seconds(request_of())
    plain = request_of(mode="completion")
    assert seconds(request_of(mode="completion", **long)) == seconds(plain)


@pytest.mark.parametrize(
    "odd",
    [{"worked": math.inf}, {"worked": math.nan}, {"waited": 99.0}, {"tokens": 10**400},
     {"tokens": -5}, {"worked": 0.0}],
    ids=str,
)  # fmt: skip
def test_a_record_that_cannot_be_true_corrects_nothing(
    tmp_path: Path,
    request_of: Callable[..., GridRequest],
    seconds: Callable[[GridRequest], float],
    odd: dict[str, Any],
) -> None:
    before = seconds(request_of())
    earlier(tmp_path, request_of(), **({"worked": 40.0} | odd))
    earlier(tmp_path, request_of(prompts=0), worked=40.0)
    assert seconds(request_of()) == before


def test_grids_on_another_base_precision_or_device_correct_nothing(
    tmp_path: Path,
    request_of: Callable[..., GridRequest],
    seconds: Callable[[GridRequest], float],
) -> None:
    before = seconds(request_of())
    earlier(tmp_path, request_of(precision="fp32"), worked=400.0)
    earlier(tmp_path, make_request(panes=("base",), model="bundled"), worked=400.0)
    earlier(tmp_path, request_of(), worked=400.0, device="another CPU")
    assert seconds(request_of()) == before


def test_a_grid_that_failed_or_whose_answers_failed_corrects_nothing(
    tmp_path: Path,
    request_of: Callable[..., GridRequest],
    seconds: Callable[[GridRequest], float],
) -> None:
    before = seconds(request_of())
    failed = make_grid(tmp_path, request_of(), [Cell(0, 0, "a", tokens=5, worked_seconds=99.0)])
    failed.write_result(GridResult("failed", "Why.", seconds=99.0))
    cells = [Cell(prompt, 0, error="no", worked_seconds=99.0) for prompt in range(4)]
    make_grid(tmp_path, request_of(), cells).write_result(GridResult("done", seconds=99.0))
    make_grid(tmp_path, request_of())
    assert seconds(request_of()) == before


def test_nothing_is_expected_of_an_unknown_speed_or_base_or_an_invalid_request(
    tmp_path: Path, request_of: Callable[..., GridRequest]
) -> None:
    def expect(request: GridRequest, rates: object = RATES) -> float | None:
        return expected_seconds(request, tmp_path, CPU, rates, HELD_OUT)  # type: ignore[arg-type]

    assert expect(request_of()) is not None
    assert expect(request_of(), None) is None
    assert expect(request_of(prompts=0)) is None
    assert expect(request_of(panes=("no-such-run",))) is None
    assert expect(make_request(panes=("base",), labels=(), methods=(), model="some/model")) is None
