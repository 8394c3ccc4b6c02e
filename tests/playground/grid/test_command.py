"""The `grid` command; the grid it starts is answered at once by a fake engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ftlab.__main__ import build_parser, main
from ftlab.commands import grid as command
from ftlab.playground.grid import GridDirectory, GridRequest, list_grids
from ftlab.tasks.registry import bundled_data, get_task
from tests.fakes import make_run
from tests.playground.grid.fakes import RATES, SQL, FakeEngine, job_of, make_grid


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    """Answers in this process, before the command looks for the first time."""
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    fake = FakeEngine()

    def start(request: GridRequest, runs_folder: Path) -> GridDirectory:
        grid = make_grid(runs_folder, request)
        grid.write_result(job_of(grid, fake).run())
        return grid

    monkeypatch.setattr(command, "start_grid", start)
    monkeypatch.setattr(command, "rates_here", lambda device: None)
    return fake


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("first\nsecond\n", encoding="utf-8")
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(["grid", *arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_a_grid_prints_its_headline_and_writes_both_files(
    engine: FakeEngine, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv, html = tmp_path / "grid.csv", tmp_path / "grid.html"
    status, out, _ = run(
        capsys, "--runs", "base", "--prompts", prompts, "--csv", str(csv), "--html", str(html),
        "--runs-dir", str(tmp_path / "runs"),
    )  # fmt: skip
    assert status == 0
    assert out.startswith("2 prompts in 1 pane: 2 of 2 answered.\n")
    assert "base: 2 answered, 20.0 tokens/s" in out
    assert "second by base" in csv.read_text()
    assert "second by base" in html.read_text()
    assert html.read_text().startswith("<!doctype html>")


def test_how_long_it_takes_is_said_before_it_starts(
    engine: FakeEngine,
    prompts: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "rates_here", lambda device: RATES)
    given = ["--model", str(tiny_model), "--prompts", prompts, "--runs-dir", str(tmp_path)]
    status, _, err = run(capsys, *given)
    assert status == 0
    assert re.search(r"^This takes about [\d.]+ s, until \d\d:\d\d\.$", err, re.MULTILINE)
    (grid,) = list_grids(tmp_path)
    assert grid.request().expected_seconds
    make_grid(tmp_path)  # which does not end
    assert "s, after what its device has to do before." in run(capsys, *given)[2]


def test_json_is_all_that_is_printed(
    engine: FakeEngine, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(
        capsys, "--prompts", prompts, "--json", "--runs-dir", str(tmp_path / "runs")
    )
    assert (status, err) == (0, "")
    assert [cell["answer"] for cell in json.loads(out)["cells"]] == [
        "first by base", "second by base",
    ]  # fmt: skip


def test_an_error_in_any_cell_is_status_1_and_its_sentence_is_said_once(
    engine: FakeEngine, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    run_id = make_run(runs, "lora").run_id
    engine.errors[run_id] = "The adapter is damaged."
    status, out, err = run(
        capsys, "--runs", f"base,{run_id}", "--prompts", prompts, "--runs-dir", str(runs)
    )
    assert status == 1
    assert "2 errors" in out
    assert err.count("The adapter is damaged.") == 1


def test_a_task_gives_its_first_held_out_prompts(tmp_path: Path) -> None:
    options = build_parser().parse_args(
        ["grid", "--task", "sql", "--count", "3", "--runs-dir", str(tmp_path), "--seed", "5"]
    )
    request = command.request_from(options)
    held_out = bundled_data(get_task("sql")).held_out
    assert request.prompts == tuple(example.question for example in held_out[:3])
    assert request.task == SQL
    assert request.request.seed == 5


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "one of the arguments --prompts --task is required"),
        (["--task", "sqll"], "There is no task 'sqll'"),
        (["--task", "sql", "--count", "0"], "--count is 0"),
        (["--task", "sql", "--count", "201"], "There is no run"),
        (["--task", "hub:owner/name"], "No test examples of 'owner/name'"),
        (["--prompts", "missing.txt"], "cannot be read"),
        (["--task", "sql", "--temperature", "3"], "Temperature is 3"),
        (["--task", "sql", "--html", "/nowhere/grid.html"], "a file in a folder that exists"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2_and_starts_nothing(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [] if "--runs" in arguments else ["--runs", "base,20261125-120000-ab12-00-lora"]
    status, out, err = run(capsys, *runs, "--runs-dir", str(tmp_path), *arguments)
    assert (status, out) == (2, "")
    assert part in err
    assert len(err.strip().splitlines()) == 1
    assert list_grids(tmp_path) == []


def test_ctrl_c_cancels_the_grid_and_keeps_its_answers(
    engine: FakeEngine,
    prompts: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(request: GridRequest, runs_folder: Path) -> GridDirectory:
        return make_grid(runs_folder, request)

    def follow(grid: GridDirectory, console: object) -> None:
        if not grid.cancel_file.exists():
            raise KeyboardInterrupt
        grid.write_result(job_of(grid, engine).run())

    monkeypatch.setattr(command, "start_grid", start)
    monkeypatch.setattr(command, "follow", follow)
    status, out, err = run(capsys, "--prompts", prompts, "--runs-dir", str(tmp_path / "runs"))
    assert status == 1
    assert "0 of 2 answered" in out
    assert "the grid is cancelled: Cancelled by the person." in err


def test_all_is_the_base_and_every_adapter_on_it(
    engine: FakeEngine, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    made = make_run(runs, "lora")
    made.adapter.mkdir(exist_ok=True)
    status, _, err = run(
        capsys, "--runs", "all", "--prompts", prompts, "--runs-dir", str(runs), "--json"
    )
    assert status == 0, err
    assert "the base and 4 adapters of 4 on" in err
    (grid,) = list_grids(runs)
    assert grid.request().panes[:2] == ("base", made.run_id)
    assert "shipped:sql" in grid.request().panes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--base-is", "bundled"), "leave --base-is out"),
        (("--model", "nobody/nothing"), "There is no adapter on nobody/nothing here"),
    ],
)
def test_all_needs_the_base_by_its_name_and_an_adapter_on_it(
    engine: FakeEngine, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    status, _, err = run(
        capsys, "--runs", "all", "--prompts", prompts, "--runs-dir", str(tmp_path), *arguments
    )
    assert status == 2
    assert words in err
