"""The queue of one sweep: what each run shows, cancelling, and one look for all pages."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.log import app_log
from ftlab.basics.people import Person, asked_by
from ftlab.jobs.control import request_cancel, requested_cancels
from ftlab.records.removal import remove_runs
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore, read_run
from ftlab.tabs.compare.next_steps import NextSteps
from ftlab.tabs.context import AppContext
from ftlab.tabs.experiment import queue
from ftlab.tabs.experiment.queue import (
    NEWEST,
    QueueWatch,
    SweepView,
    queue_heading,
    queue_html,
    sweep_choices,
    view_sweep,
)
from ftlab.tabs.live import News
from tests.fakes import SWEEP, make_run, make_sweep
from tests.tabs.page_fakes import page_context


def view(folder: Path, wanted: str = NEWEST, **kw: Any) -> SweepView:
    found = view_sweep(RunStore(folder).runs(), wanted, **kw)
    assert found is not None
    return found


def test_the_newest_sweep_is_shown_unless_another_is_chosen(tmp_path: Path) -> None:
    make_sweep(tmp_path, ["lora"], sweep_id="20260101-000000-aaaa")
    make_sweep(tmp_path, ["full"], sweep_id="20260102-000000-bbbb")
    assert view(tmp_path).sweep_id.endswith("bbbb")
    assert view(tmp_path, "20260101-000000-aaaa").sweep_id.endswith("aaaa")
    assert view(tmp_path, "deleted").sweep_id.endswith("bbbb")
    values = [value for _, value in sweep_choices(RunStore(tmp_path).runs())]
    assert values == [NEWEST, "20260102-000000-bbbb", "20260101-000000-aaaa"]


def test_an_empty_folder_says_what_to_do() -> None:
    assert view_sweep([], NEWEST) is None
    assert "press Launch" in queue_html(None)


def test_a_running_run_shows_phase_step_loss_and_what_is_left(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "running", losses=[3.0, 2.0, 1.5])
    html = queue_html(view(tmp_path))
    assert ">training<" in html
    assert "<b>3</b>/30" in html
    assert "<b>1.50</b>" in html
    assert '<span class="pred">54 s</span> left' in html
    assert 'role="progressbar"' in html
    assert 'aria-valuenow="8"' in html
    assert ">Cancel<" in html


def test_a_finished_run_shows_peak_and_total_and_no_cancel(tmp_path: Path) -> None:
    make_run(tmp_path, "lora")
    shown = view(tmp_path)
    html = queue_html(shown)
    assert re.search(r"net peak: without the process[^>]*1.79 GB with it[^>]*><b>1.29 GB</b>", html)
    assert "1 min 21 s" in html
    assert "data-run" not in html + queue_heading(shown)


def test_the_reason_of_a_failed_run_is_text(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "failed", reason="<b>torn</b> file")
    html = queue_html(view(tmp_path))
    assert "&lt;b&gt;torn&lt;/b&gt; file" in html
    assert "failed" in html


def test_a_run_that_is_being_ended_cannot_be_cancelled_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", "running")
    html = queue_html(view(tmp_path, cancelling={run.run_id}))
    assert "Ending …" in html
    assert "data-run" not in html


def test_the_next_steps_are_offered_once_the_sweep_has_ended(tmp_path: Path) -> None:
    make_sweep(tmp_path, ["full"])
    running = make_run(tmp_path, "lora", "running")
    watch = QueueWatch(RunStore(tmp_path))
    assert watch.look(NEWEST).steps == NextSteps()
    shutil.rmtree(running.path)
    lora = make_run(tmp_path, "lora").run_id
    found = watch.look(NEWEST).steps
    assert found.sweep == SWEEP
    assert found.panes[-1] == lora
    older = make_sweep(tmp_path, ["full"], sweep_id="20250101-000000-aaaa", status="failed")
    assert watch.look(older[-1].spec().sweep_id).steps.words.startswith("No run is done")


def test_several_seeds_are_named(tmp_path: Path) -> None:
    make_sweep(tmp_path, ["lora"], seeds=(0, 1))
    html = queue_html(view(tmp_path))
    assert "seed 0" in html
    assert "seed 1" in html


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppContext:
    monkeypatch.setattr("ftlab.jobs.control.start_dispatcher", lambda folder: None)
    return page_context(tmp_path)


def test_cancel_all_ends_the_open_runs_of_the_shown_sweep(context: AppContext) -> None:
    make_run(context.runs_folder, "full")
    queued = make_run(context.runs_folder, "lora", "queued")
    other = make_run(context.runs_folder, "lora", "queued", sweep_id="20250101-000000-aaaa")
    queue.cancel_runs(context, "all", queued.spec().sweep_id)
    assert requested_cancels(context.runs_folder) == {queued.run_id}
    assert other.run_id not in requested_cancels(context.runs_folder)


@pytest.mark.parametrize("run_id", ["unknown-run", "../../etc", ""])
def test_a_run_that_is_not_there_cannot_be_cancelled(context: AppContext, run_id: str) -> None:
    with pytest.raises(FtlabError, match="There is no run"):
        queue.cancel_runs(context, run_id, NEWEST)


def test_the_page_restarts_the_dispatcher_while_a_run_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(queue, "ensure_dispatcher", asked.append)
    keeper = queue.Keeper(tmp_path)
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", "running")
    assert keeper.keep(RunStore(tmp_path).runs()) == ""
    assert asked == []
    make_run(tmp_path, "lora", "queued")
    for _ in range(3):  # ticks of several visitors
        keeper.keep(RunStore(tmp_path).runs())
    assert asked == [tmp_path]


def test_a_dispatcher_that_cannot_be_started_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise FtlabError("No space is left.")

    monkeypatch.setattr(queue, "ensure_dispatcher", refuse)
    make_run(tmp_path, "lora", "queued")
    keeper = queue.Keeper(tmp_path)
    runs = RunStore(tmp_path).runs()
    assert [keeper.keep(runs), keeper.keep(runs)] == ["No space is left."] * 2


def test_a_cancel_of_an_ended_run_is_no_error(context: AppContext) -> None:
    run = make_run(context.runs_folder, "lora")
    request_cancel(context.runs_folder, [run.run_id])


def test_polls_within_a_second_read_the_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "lora", "running")
    now, store = [100.0], RunStore(tmp_path)
    looks: list[object] = []
    monkeypatch.setattr(
        "ftlab.records.store.read_run",
        lambda run, *more, **others: looks.append(run) or read_run(run, *more, **others),
    )
    monkeypatch.setattr("ftlab.records.store.time.monotonic", lambda: now[0])
    watch = QueueWatch(store, clock=lambda: now[0])
    first = watch.glance(NEWEST)
    assert all(watch.glance(NEWEST) is first for _ in range(50))
    assert len(looks) == 1
    now[0] += 1.1
    make_run(tmp_path, "qlora", "running")
    assert watch.glance(NEWEST) != first


def test_the_queue_after_a_press_is_never_old(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "running")
    watch = QueueWatch(RunStore(tmp_path))
    before = watch.glance(NEWEST)
    make_run(tmp_path, "qlora", "running")
    assert watch.look(NEWEST).queue != before.queue
    assert watch.glance(NEWEST).queue != before.queue, "and is what is glanced at from then on"


def test_unchanged_curves_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    real = queue.loss_figure
    monkeypatch.setattr(queue, "loss_figure", lambda *a, **kw: drawn.append(a) or real(*a, **kw))
    run = make_run(tmp_path, "lora", "running")
    watch = QueueWatch(RunStore(tmp_path))
    figures = []
    for phase in ("train", "evaluate", "save"):
        with run.metrics_file.open("a") as file:
            file.write(json.dumps({"event": "phase", "phase": phase, "elapsed": 99}) + "\n")
        look = watch.look(NEWEST)
        assert look.drawing is not None
        figures.append(look.drawing.figure)
    assert len(drawn) == 1
    assert figures[0] is figures[-1]


def log_step(run: RunDirectory, step: int, loss: float, seconds: float = 0.5) -> None:
    event = {"event": "step", "step": step, "loss": loss, "seconds": seconds, "elapsed": 9.0}
    with run.metrics_file.open("a") as file:
        file.write(json.dumps(event) + "\n")


def asked(watch: QueueWatch, had: dict[str, str]) -> dict[str, Any]:
    """What a page gets that has this; `had` is then what it has."""
    news = watch.poll(had)
    had |= {name: tag for name, (tag, _) in news.html.items()}
    had["curve"] = news.more.get("curve", {}).get("tag", had["curve"])
    return {"html": list(news.html), **news.more}


def test_a_poll_brings_what_is_new_and_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    run = make_run(tmp_path, "lora", "running", losses=[3.0, 2.0])
    now = [0.0]
    watch = QueueWatch(RunStore(tmp_path), clock=lambda: now[0])
    shown = watch.look(NEWEST)
    assert shown.drawing is not None
    had = {"sweep": NEWEST, "shown": shown.tag, "curve": shown.drawing.tagged.tag}
    assert asked(watch, had) == {"html": ["heading", "devices", "queue"], "refresh": False}
    assert asked(watch, had) == {"html": [], "refresh": False}
    log_step(run, 3, 1.9)
    now[0] += 1.1
    found = asked(watch, had)
    assert found["html"] == ["heading", "queue"]
    assert [(line["x"], line["y"]) for line in found["curve"]["traces"]] == [([3.0], [1.9])]
    assert asked(watch, had) == {"html": [], "refresh": False}


def test_a_page_is_told_to_get_the_next_steps_once_the_sweep_has_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", "running")
    watch = QueueWatch(RunStore(tmp_path))
    had = {"sweep": NEWEST, "shown": watch.look(NEWEST).tag, "curve": ""}
    shutil.rmtree(run.path)
    make_run(tmp_path, "lora")
    watch.look(NEWEST)
    assert asked(watch, had)["refresh"]


def test_a_page_that_does_not_show_the_queue_reads_no_run(tmp_path: Path) -> None:
    watch = QueueWatch(RunStore(tmp_path / "missing"))
    assert watch.poll({"page": "a"}) == News()


@pytest.mark.parametrize(
    ("step_seconds", "seconds"), [(0.1, 3.0), (2.0, 3.0), (10.0, 5.0), (600.0, 10.0)]
)
def test_polls_follow_the_pace_of_the_steps(
    tmp_path: Path, step_seconds: float, seconds: float
) -> None:
    run = make_run(tmp_path, "lora", "running", losses=[])
    for step in range(1, 12):
        log_step(run, step, 2.0, step_seconds)
    assert QueueWatch(RunStore(tmp_path)).look(NEWEST).seconds == seconds


def test_polls_are_quick_before_the_first_loss_and_slow_once_all_has_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", "running", losses=[])
    now, store = [100.0], RunStore(tmp_path)
    watch = QueueWatch(store, clock=lambda: now[0])
    assert watch.glance(NEWEST).seconds == 0.5
    run.metrics_file.open("a").write('{"event": "phase", "phase": "train", "elapsed": 5.0}\n')
    assert watch.glance(NEWEST).seconds == 0.5, "read for a page that asks at the same time"
    now[0] += 0.3
    assert watch.glance(NEWEST).seconds == 0.25, "what one page has is not the next answer"
    log_step(run, 29, 2.0, 10.0)
    assert watch.look(NEWEST).seconds == 2.0, "the run ends soon, and what comes then is seen soon"
    shutil.rmtree(run.path)
    make_run(tmp_path, "lora")
    assert watch.look(NEWEST).seconds == 5.0


def test_unknown_sweeps_do_not_fill_the_memory(tmp_path: Path) -> None:
    watch = QueueWatch(RunStore(tmp_path))
    for number in range(100):
        watch.glance(f"sweep {number}")
    assert len(watch._looks) <= 20


def test_cancels_and_deletes_are_noted_in_the_log(context: AppContext, tmp_path: Path) -> None:
    queued, done = make_run(context.runs_folder, "lora", "queued"), make_run(tmp_path, "qlora")
    with app_log(tmp_path / ".ftlab"):
        request_cancel(tmp_path, [queued.run_id])
        remove_runs(tmp_path, [done.run_id])
    lines = (tmp_path / ".ftlab" / "app.log").read_text().splitlines()
    assert [(row["event"], row["runs"]) for row in map(json.loads, lines)] == [
        ("cancel requested", [queued.run_id]),
        ("runs deleted", [done.run_id]),
    ]


@pytest.fixture
def no_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued runs stay queued."""
    monkeypatch.setattr(queue, "ensure_dispatcher", lambda runs_folder: None)


@pytest.mark.usefixtures("no_dispatcher")
def test_a_person_is_shown_their_own_newest_sweep_and_ends_no_run_of_others(tmp_path: Path) -> None:
    ada, bob = (Person(name, changes_all=False) for name in ("ada", "bob"))
    with asked_by(bob):
        make_run(tmp_path, status="queued", sweep_id="20261125-110000-b0b1")
    with asked_by(ada):
        make_run(tmp_path, status="queued", sweep_id="20261125-120000-ada1")
    watch = QueueWatch(RunStore(tmp_path))
    with asked_by(bob):
        his, hers = watch.look(NEWEST), watch.look("20261125-120000-ada1")
    assert "sweep 20261125-110000-b0b1," in his.heading
    assert "Cancel all" in his.heading
    assert "1 run of others waits or runs; people take turns." in his.heading
    assert "sweep 20261125-120000-ada1 of ada," in hers.heading
    assert "Cancel" not in hers.heading + hers.queue
    with asked_by(ada):
        assert "Cancel" in watch.look("20261125-120000-ada1").queue, "not the answer to bob"


@pytest.mark.usefixtures("no_dispatcher")
def test_where_each_sees_their_own_the_queue_says_how_many_others_wait_and_no_more(
    tmp_path: Path,
) -> None:
    with asked_by(Person("ada")):
        make_run(tmp_path, status="queued", sweep_id="20261125-120000-ada1")
    watch = QueueWatch(RunStore(tmp_path))
    with asked_by(Person("bob", sees_all=False, changes_all=False)):
        shown = watch.look("20261125-120000-ada1")
    assert "1 run of others waits or runs" in shown.heading
    assert "ada" not in f"{shown.heading}{shown.queue}{shown.choices}".replace("data-", "")
