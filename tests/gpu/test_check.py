"""The check of a GPU, run on a CPU with a tiny model; and what it does when a check cannot run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu import check
from tests.gpu.bench import Bench, Row, row
from tests.gpu.checks import CHECKS, Check


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, "cpu", "tiny")


def never(bench: Bench) -> Iterator[Row]:
    raise AssertionError("a check that cannot run was run")


IN_ONE_PROCESS = ("environment", "first loss", "every method")
WITH_WORKERS = ("sweep", "out of memory", "killed", "playground", "resume")
OF_A_GPU = tuple(each.name for each in CHECKS if not each.on_cpu)


@pytest.mark.model
@pytest.mark.parametrize(
    "names",
    [
        (*IN_ONE_PROCESS, *OF_A_GPU),
        pytest.param((*WITH_WORKERS, "fewer bits"), marks=pytest.mark.slow),
    ],
    ids=["in one process", "with workers"],
)
def test_on_a_cpu_every_check_is_right_or_says_why_it_was_not_run(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    found, document = tmp_path / "rows.json", tmp_path / "gpu.md"
    document.write_text(f"# On a GPU\n\n{check.BEGIN}\n{check.END}\n\nThe end.\n", encoding="utf-8")
    arguments = [
        "--device", "cpu", "--minutes", "30", "--only", ",".join(names), "--methods", "vera",
        "--json", str(found),
    ]  # fmt: skip
    status = check.main([*arguments, "--write", str(document)])
    rows = [Row(**each) for each in json.loads(found.read_text(encoding="utf-8"))]
    assert [each for each in rows if each.ok is False] == []
    assert status == 0
    assert {each.check for each in rows if each.ok} == {*names} - {*OF_A_GPU}
    assert {each.check for each in rows} == {*names}
    assert all(each.found for each in rows)
    text = document.read_text(encoding="utf-8")
    assert text.startswith("# On a GPU")
    assert text.endswith(f"{check.END}\n\nThe end.\n")
    assert text.count("\n| sweep | ") == sum(each.check == "sweep" for each in rows)


def test_every_check_is_tried_here() -> None:
    tried = [*IN_ONE_PROCESS, *WITH_WORKERS, "fewer bits", *OF_A_GPU]
    assert sorted(tried) == sorted(each.name for each in CHECKS)


def test_what_cannot_run_is_a_row_with_its_reason_and_ends_nothing(bench: Bench) -> None:
    checks = [
        Check("lacking", "needs more", never, needs=("no_such_package",)),
        Check("of a card", "is for a GPU", never, on_cpu=False),
    ]
    assert list(check.examine(bench, checks, minutes=1)) == [
        row("lacking", "needs more", None, "needs no_such_package: not installed"),
        row("of a card", "is for a GPU", None, "is about a GPU"),
    ]
    late = list(check.examine(bench, [Check("late", "comes last", never)], minutes=0))
    assert late == [row("late", "comes last", None, "the 0 minutes are over")]


@pytest.mark.parametrize(
    ("seconds", "said"), [(60, "ended with status 1"), (0.2, "not done within 0 s; ended")]
)
def test_a_check_that_dies_or_takes_too_long_is_a_wrong_row(
    bench: Bench, seconds: float, said: str
) -> None:
    unknown = Check("no such check", "its process finds nothing to run", never)
    assert list(check.in_a_process(unknown, bench, seconds)) == [
        row("no such check", "its process finds nothing to run", False, said)
    ]


def test_a_check_that_raises_says_with_what(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def raising(bench: Bench) -> Iterator[Row]:
        yield row("raises", "first", True, "well")
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")

    monkeypatch.setattr(check, "CHECKS", (Check("raises", "ends early", raising),))
    monkeypatch.setattr(check, "prepare_for_libraries", lambda device_id: None)
    monkeypatch.setattr(check.os, "dup2", lambda of, to: to)  # standard output stays pytest's
    monkeypatch.setenv("FTLAB_LOCKS", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check.child("raises", bench)
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(each["ok"], each["found"]) for each in rows] == [
        (True, "well"),
        (False, "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ]


def test_only_known_checks_can_be_chosen() -> None:
    assert [each.name for each in check.chosen("resume, sweep")] == ["sweep", "resume"]
    with pytest.raises(SystemExit, match="There is no check 'sweeep'"):
        check.chosen("sweeep")


def test_the_large_methods_have_a_table_of_their_own() -> None:
    figures = {
        "trainable": 1_000, "allocated": 2_000_000_000, "reserved": 3_000_000_000,
        "step_seconds": 0.5, "file": 4_000_000,
    }  # fmt: skip
    text = check.tables([row("large", "LoRA", True, "done", **figures)])
    assert "| LoRA | 1,000 | 2.00 GB | 3.00 GB | 500 ms | 4.0 MB |" in text
