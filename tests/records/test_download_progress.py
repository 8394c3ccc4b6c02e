"""The progress of a run that downloads its base model, as page and terminal show it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ftlab.commands import watch as watch_module
from ftlab.records.progress import Download, Progress, ProgressBook, read_progress, sweep_eta
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore, read_run
from ftlab.tabs.experiment.queue import NEWEST, queue_heading, queue_html, view_sweep
from ftlab.tabs.results.panel import panel
from tests.fakes import SWEEP, make_run

TOTAL = 3_100_000_000
Make = Callable[..., RunDirectory]


def lines(*events: dict[str, Any]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def phase(name: str, elapsed: float) -> dict[str, Any]:
    return {"event": "phase", "phase": name, "elapsed": elapsed}


def came_in(done: Any, elapsed: float, total: Any = TOTAL) -> dict[str, Any]:
    return {"event": "download", "done": done, "total": total, "elapsed": elapsed}


HALF_WAY = (came_in(0, 1.0), came_in(600_000_000, 7.0), came_in(1_200_000_000, 13.0))
"""It began at 1 s, and comes in at 0.1 GB a second."""


def append(run: RunDirectory, *events: dict[str, Any]) -> None:
    with run.metrics_file.open("a", encoding="utf-8") as file:
        file.write(lines(*events))


@pytest.fixture
def downloading(tmp_path: Path) -> Make:
    """Makes a running run that has got no further than its download."""

    def make(*events: dict[str, Any]) -> RunDirectory:
        run = make_run(tmp_path, "lora", "running")
        start = run.metrics_file.read_text().splitlines(keepends=True)[0]
        run.metrics_file.write_text(start + lines(phase("download", 1.0), *events))
        return run

    return make


def way(run: RunDirectory) -> Progress:
    return read_progress(read_run(run))


def download(run: RunDirectory) -> Download:
    found = way(run).download
    assert found is not None
    return found


def queue(run: RunDirectory) -> str:
    view = view_sweep(RunStore(run.path.parent).runs(), NEWEST)
    assert view is not None
    return queue_heading(view) + queue_html(view)


def test_bytes_and_the_time_left_come_from_the_reports(downloading: Make) -> None:
    run = downloading(*HALF_WAY)
    now, found = way(run), download(run)
    assert (now.label, found.label) == ("downloading", "1.2 of 3.1 GB")
    assert found.fraction == pytest.approx(12 / 31)
    assert found.eta_seconds == pytest.approx(19.0)
    assert (now.fraction, now.eta_seconds) == (0.0, None), "the run itself has not begun"
    book = ProgressBook()
    for report in (came_in(1_300_000_000, 14.0), came_in(1_400_000_000, 15.0)):
        append(run, report)
        assert book.read(read_run(run)) == way(run), "the same as if all lines were read at once"


def test_the_speed_is_that_of_the_last_reports(downloading: Make) -> None:
    slow = [came_in(1_000 * number, float(number)) for number in range(100)]
    fast = [came_in(10_000_000 * number, 100.0 + number / 2) for number in range(1, 61)]
    assert download(downloading(*slow, *fast)).eta_seconds == pytest.approx(
        (TOTAL - 600_000_000) / 20_000_000
    )


@pytest.mark.parametrize(
    "events",
    [
        [came_in(0, 1.0)],
        [came_in(5, number / 2) for number in range(60)],
        [came_in(900, 1.0), came_in(0, 2.0)],
    ],
    ids=["the first report", "nothing comes in", "a file begins again"],
)
def test_without_a_download_speed_no_remaining_time_is_shown(
    downloading: Make, events: list[dict[str, Any]]
) -> None:
    run = downloading(*events)
    assert download(run).eta_seconds is None
    assert "left</span>" not in queue(run)


def test_after_the_download_it_is_a_run_like_any_other(downloading: Make) -> None:
    run = downloading(*HALF_WAY, came_in(TOTAL, 32.0), phase("start", 32.1))
    assert (way(run).label, way(run).download) == ("starting", None)
    append(run, phase("load", 40.0), phase("train", 42.0))
    append(run, {"event": "step", "step": 1, "loss": 3.0, "seconds": 2.0, "elapsed": 44.0})
    now = way(run)
    assert (now.label, now.download, now.step) == ("training", None, 1)
    assert now.eta_seconds == pytest.approx(58.0)
    assert "of 3.1 GB" not in queue(run)


@pytest.mark.parametrize("status", ["failed", "cancelled", "interrupted"])
def test_a_run_that_ended_in_its_download_shows_none(downloading: Make, status: Any) -> None:
    run = downloading(*HALF_WAY)
    ended = make_run(run.path.parent, "qlora", status, reason="The Hub went away.")
    ended.metrics_file.write_text(
        ended.metrics_file.read_text().splitlines(keepends=True)[0]
        + lines(phase("download", 1.0), *HALF_WAY)
    )
    assert way(ended).download is None
    assert queue(run).count("of 3.1 GB") == 1


@pytest.mark.hostile("records")
@pytest.mark.parametrize(
    "event",
    [
        came_in(None, 2.0), came_in("1", 2.0), came_in(1.5, 2.0), came_in(float("inf"), 2.0),
        came_in(float("nan"), 2.0), came_in(True, 2.0), came_in(10**400, 2.0),
        came_in(1, 2.0, total=0), came_in(1, 2.0, total=None), came_in(1, 2.0, total=[3]),
        {"event": "download"}, {"event": "download", "done": 1, "total": 2},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_report_is_skipped(downloading: Make, event: dict[str, Any]) -> None:
    run = downloading(*HALF_WAY, event)
    assert download(run).label == "1.2 of 3.1 GB"
    assert "1.2</b> of 3.1 GB" in queue(run)


@pytest.mark.parametrize("done", [-(10**9), 5 * TOTAL])
def test_a_bar_stays_within_its_ends(downloading: Make, done: int) -> None:
    assert download(downloading(came_in(done, 2.0))).fraction in (0.0, 1.0)


def test_the_queue_shows_bytes_a_bar_and_the_time_left(downloading: Make) -> None:
    html = queue(downloading(*HALF_WAY))
    assert ">downloading<" in html
    assert "<b>1.2</b> of 3.1 GB" in html
    assert '<span class="pred">19 s</span> left' in html
    assert 'aria-valuenow="39" aria-label="LoRA: download of the base model"' in html
    assert "width:39%" in html
    assert "/30</span>" not in html, "no step of it has begun"
    assert ">Cancel<" in html


def test_the_panel_of_an_open_run_shows_the_download(downloading: Make) -> None:
    top = panel(read_run(downloading(*HALF_WAY))).top
    assert "Downloading the base model, 1.2 of 3.1 GB; about 19 s left. Numbers come" in top


@pytest.mark.parametrize(("events", "eta"), [(HALF_WAY, 119.0), ([came_in(5, 1.0)], None)])
def test_a_sweep_takes_the_download_and_then_the_runs(
    downloading: Make, tmp_path: Path, events: Any, eta: float | None
) -> None:
    downloading(*events)
    make_run(tmp_path, "qlora", "done", measures={"total_seconds": 100.0})
    runs = RunStore(tmp_path).runs()
    assert sweep_eta(runs, [read_progress(run) for run in runs]) == pytest.approx(eta)


def test_the_terminal_shows_bytes_and_the_time_left(downloading: Make) -> None:
    runs = RunStore(downloading(*HALF_WAY).path.parent).runs()
    picture = watch_module._picture(runs, [read_progress(run) for run in runs])
    said = io.StringIO()
    Console(file=said, width=120, force_terminal=False).print(picture)
    row = " ".join(said.getvalue().splitlines()[0].split())
    assert row.startswith("LoRA downloading ")
    assert row.endswith(" 1.2 of 3.1 GB ≈ 19 s left")


def test_without_a_terminal_the_download_is_printed_once(
    downloading: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = downloading(*HALF_WAY)
    done = make_run(tmp_path / "after", "lora", "done", run_id=run.run_id)
    looks = 5

    class Store:
        folder = tmp_path

        def runs(self) -> list[Any]:
            nonlocal looks
            looks -= 1
            return [read_run(run if looks > 0 else done)]

    monkeypatch.setattr(watch_module, "POLL_SECONDS", 0.01)
    said = io.StringIO()
    watch_module.watch(Store(), SWEEP, Console(file=said, width=120))  # type: ignore[arg-type]
    first, second = said.getvalue().splitlines()
    assert first == "LoRA: downloading the base model, 1.2 of 3.1 GB"
    assert second.startswith("LoRA: done")
