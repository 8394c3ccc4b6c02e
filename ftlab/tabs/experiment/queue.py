"""Queue and loss curves of one sweep, rendered once for pages that poll at the same time.

No run state is held here: each poll reads the runs folder, so a reload or a second browser shows
the same. What changes all the time is a live part (`ftlab/tabs/live.py`): the rows of the queue,
and new points of the curves. The rest is made of gradio's components, and comes by an event.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData

from ftlab.basics import units
from ftlab.basics.devices import list_devices, told_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.leases import Holder
from ftlab.basics.people import Person, asking
from ftlab.basics.recent import Recent
from ftlab.charts.growth import Growth, Tagged, grown
from ftlab.charts.loss import LossCurve, curve_of, curve_points, draw_losses, loss_figure
from ftlab.jobs.control import (
    dispatcher_elsewhere,
    ensure_dispatcher,
    request_cancel,
    requested_cancels,
    trouble_of,
)
from ftlab.jobs.launchers.launcher import label_of, where_runs_go
from ftlab.methods.registry import BASE_METHOD, look_of
from ftlab.records.progress import (
    Later,
    Progress,
    ProgressBook,
    later_phases,
    pace_of,
    read_progress,
    sweep_eta,
)
from ftlab.records.result import STATUS_LABELS
from ftlab.records.store import RECENT_SECONDS, Run, RunStore, seen_runs
from ftlab.tabs.compare.next_steps import NextButtons, NextSteps, next_steps
from ftlab.tabs.context import QUIET, AppContext, Links, first_shown
from ftlab.tabs.experiment.devices import devices_html, look_at_devices
from ftlab.tabs.experiment.rates import is_tuning, suggested_html, tune_further
from ftlab.tabs.live import News, changed_html, place, tag_of
from ftlab.tabs.results.columns import sweep_label
from ftlab.tabs.widgets import (
    H,
    blank,
    chip,
    drawing_library,
    escape,
    field_error,
    head,
    heading,
    live,
    note_html,
    plural,
    swatch,
    warn,
)

NEWEST = "newest"
"""Dropdown value that always shows the sweep launched last."""

ReadProgress = Callable[[Run, Later], Progress]

_SHORT_PHASES = {"wait": "waiting"}  # the chip is narrow; its tooltip has the full label


@dataclass(frozen=True)
class SweepView:
    """The current state of one sweep: its runs in queue order, each with its progress."""

    sweep_id: str
    runs: tuple[Run, ...]
    progress: tuple[Progress, ...]
    cancelling: frozenset[str] = frozenset()

    @property
    def is_open(self) -> bool:
        return any(run.is_open for run in self.runs)

    @property
    def owner(self) -> str:
        """Who queued it, by login; "" for the operator."""
        return self.runs[0].spec.owner

    @property
    def open_ids(self) -> list[str]:
        return [run.run_id for run in self.runs if run.is_open]

    def curves(self) -> tuple[LossCurve, ...]:
        """The loss curve of each run that has losses."""
        return tuple(
            curve_of(run, way.losses)
            for run, way in zip(self.runs, self.progress, strict=True)
            if way.losses
        )


def view_sweep(
    runs: Sequence[Run],
    wanted: str | None,
    cancelling: Collection[str] = (),
    read: ReadProgress = read_progress,
) -> SweepView | None:
    """The wanted sweep, or the newest one for `NEWEST` or a deleted sweep; `None` without runs.

    The newest is that of the person who asks, if there is one: others launch at the same time.
    """
    if not runs:
        return None
    own = [run for run in runs if run.spec.owner == asking().name]
    newest = max(own or runs, key=lambda run: (run.spec.created_at, run.spec.sweep_id))
    found = any(run.spec.sweep_id == wanted for run in runs)
    sweep_id = wanted if found and wanted else newest.spec.sweep_id
    chosen = [run for run in runs if run.spec.sweep_id == sweep_id]
    later, pace = later_by_precision(chosen), pace_of(chosen)
    progress = tuple(
        read(run, replace(later.get(_precision(run), later.get("", Later())), pace=pace))
        for run in chosen
    )
    return SweepView(sweep_id, tuple(chosen), progress, frozenset(cancelling))


def later_by_precision(runs: Sequence[Run]) -> dict[str, Later]:
    """The latest times of evaluation and answering by base precision; key "": the latest of all.

    Base runs measure no answering, and keep what an earlier run took.
    """
    found: dict[str, Later] = {}
    for run in runs:
        if run.result is not None and run.status == "done" and "evaluate" in run.result.phases:
            took = later_phases(run.result)
            for key in (_precision(run), ""):
                before = found.get(key, Later()).answering
                found[key] = took if took.answering else replace(took, answering=before)
    return found


def sweep_choices(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(label, value) of each sweep, newest first, after the `NEWEST` entry."""
    sweeps: dict[str, list[Run]] = {}
    for run in runs:
        sweeps.setdefault(run.spec.sweep_id, []).append(run)
    choices = [("Newest sweep", NEWEST)]
    for sweep_id in sorted(sweeps, reverse=True):
        members = [run for run in sweeps[sweep_id] if not run.spec.is_base]
        first = sweeps[sweep_id][0].spec
        label = sweep_label(sweep_id, first.task.label, plural(len(members), "run"))
        choices.append((label, sweep_id))
    return choices


def queue_heading(view: SweepView | None) -> str:
    """The sweep's progress, and the button that cancels all its runs."""
    if view is None:
        return heading("Queue", sub="One run at a time on each device")
    title = "Queue" if view.is_open else "Queue: all runs have ended"
    button = '<button class="ghost" data-run="all">Cancel all</button>'
    may_cancel = view.is_open and asking().may_change(view.owner)
    return heading(title, *([button] if may_cancel else []), sub=_summary(view))


def of_others(of_all: Sequence[Run]) -> str:
    """Says how many runs wait or run for other people, who take turns; "" without any."""
    name = asking().name
    count = sum(run.is_open and run.spec.owner != name for run in of_all) if name else 0
    if not count:
        return ""
    verb = "waits or runs" if count == 1 else "wait or run"
    return note_html(f"{plural(count, 'run')} of others {verb}; people take turns.")


def worked_elsewhere(runs: Sequence[Run], holder: Holder | None) -> str:
    """Says which other machine works through the queue of a shared folder; "" if none does."""
    if holder is None or not any(run.is_open for run in runs):
        return ""
    name = f"The machine {holder.node}" if holder.node else "Another machine"
    return note_html(f"{name}, which shares this runs folder, works through its queue.")


def executed_elsewhere(runs: Sequence[Run], on: str, trouble: str) -> str:
    """Says which cluster executes the runs, and what is wrong there; "" if this machine does."""
    waiting = {run.queued_for for run in runs if run.status == "queued"} - {on}
    others = [
        note_html(
            f"Runs wait for {other}: start the app with --on {other}."
            if other
            else "Runs wait for this machine: they start when none is left at the cluster."
        )
        for other in sorted(waiting)
    ]
    if not on:
        return "".join(others)
    where = note_html(f"Runs are executed by {label_of(on)}.")
    return "".join([where, field_error([trouble] if trouble else []), *others])


def queue_state(runs: Sequence[Run]) -> str:
    """A tag that changes whenever a run of the folder is queued, gets its expected time, begins or
    ends, of all people."""
    return tag_of(repr(sorted(Counter(_stage(run) for run in runs).items())))


def _stage(run: Run) -> str:
    if not run.is_open:
        return "ended"
    if run.status == "queued" and run.directory.expected_file.is_file():
        return "queued with a time"  # a run can be seen before that is written
    return run.status


def _hidden_state(runs: Sequence[Run]) -> str:
    """Tells the launch bar when to ask for its costs again (`renew` in assets/methods.js)."""
    return f'<span hidden data-queued="{queue_state(runs)}"></span>'


def queue_html(view: SweepView | None) -> str:
    """One row per run; a placeholder if there is no sweep."""
    if view is None:
        what = "Tick the methods to compare, then press Launch. Their progress is shown here."
        return blank("Nothing is running.", what)
    several_seeds = len({run.spec.seed for run in view.runs}) > 1
    rows = "".join(
        _row(run, way, run.run_id in view.cancelling, several_seeds)
        for run, way in zip(view.runs, view.progress, strict=True)
    )
    label = f"Runs of sweep {escape(view.sweep_id)}"
    return f'<ul class="queue" aria-label="{label}">{rows}</ul>'


def _summary(view: SweepView) -> str:
    ended = sum(not run.is_open for run in view.runs)
    whose = f" of {view.owner}" if view.owner != asking().name else ""
    parts = [f"sweep {view.sweep_id}{whose}", f"{ended} of {plural(len(view.runs), 'run')} ended"]
    if view.is_open:
        left = sweep_eta(view.runs, view.progress)
        if left is not None:
            parts.append(f"≈\u2009{units.format_seconds(left)} left in all")
    return ", ".join(parts)


def _row(run: Run, way: Progress, cancelling: bool, several_seeds: bool) -> str:
    seed = f"<small>seed {run.spec.seed}</small>" if several_seeds and not run.spec.is_base else ""
    who = f'<span class="who">{swatch(run.spec.method)}<b>{escape(run.spec.label)}</b>{seed}</span>'
    return (
        f"<li>{_status(run, way)}{who}{_bar(run, way)}{_steps(run, way)}{_loss(run, way)}"
        f"{_peak(run)}{_time(run, way)}{_button(run, cancelling)}{_why(run)}</li>"
    )


def _status(run: Run, way: Progress) -> str:
    if run.status == "running":
        elsewhere = run.directory.elsewhere
        where = f", on the machine {elsewhere.node}" if elsewhere else ""
        phase = _SHORT_PHASES.get(way.phase, way.label)
        return chip(phase, "running", title=f"{way.label}{where}")
    return chip(STATUS_LABELS[run.status], run.status)


def _bar(run: Run, way: Progress) -> str:
    fraction = way.fraction
    if not run.is_open and run.status != "done":  # it ended early
        fraction = 0.8 * way.step / way.steps if way.steps else 0.0
    label, colour = run.spec.label, look_of(run.spec.method).colour
    if way.download is not None:  # a separate bar; the run's own starts after the download
        fraction, colour = way.download.fraction, "var(--info)"
        label += ": download of the base model"
    percent = round(100 * fraction)
    return (
        f'<span class="prog {run.status}" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-label="{escape(label)}">'
        f'<i style="width:{percent}%;--c:{colour}"></i></span>'
    )


def _steps(run: Run, way: Progress) -> str:
    if way.download is not None:
        done, _, rest = way.download.label.partition(" ")
        return f'<span class="st" title="Of the base model"><b>{done}</b> {rest}</span>'
    if run.spec.method == BASE_METHOD or run.status == "not_applicable":
        return '<span class="st"></span>'
    return f'<span class="st"><b>{way.step}</b>/{way.steps}</span>'


def _loss(run: Run, way: Progress) -> str:
    value = way.loss
    if run.spec.is_base and run.result is not None:
        value = run.result.measures.eval_loss_before or run.result.measures.eval_loss_after
    if value is None:
        return "<span></span>"
    return f"<span><small>loss</small> <b>{units.format_number(value)}</b></span>"


def _peak(run: Run) -> str:
    """The net peak, which is comparable to the prediction; the tooltip has the process total."""
    if run.result is None or run.result.measures.peak_memory_bytes is None:
        return "<span></span>"
    measures, kind = run.result.measures, escape(run.result.memory_kind)
    whole = units.format_bytes(measures.peak_memory_bytes)
    if measures.net_peak_memory_bytes is None:
        why = f"Memory of the whole process while training; {kind}"
        return f'<span title="{why}"><b>{whole}</b></span>'
    net = units.format_bytes(measures.net_peak_memory_bytes)
    why = f"Memory while training (net peak: without the process); {whole} with it; {kind}"
    return f'<span title="{why}"><b>{net}</b> <small>net</small></span>'


def _time(run: Run, way: Progress) -> str:
    if run.status == "running":
        if way.left_seconds is None:
            return "<span></span>"
        until = ' title="Until the base model is here"' if way.download is not None else ""
        left = units.format_seconds(way.left_seconds)
        return f"<span{until}>{_pred(left)} left</span>"
    if run.status == "queued" and way.left_seconds is not None:
        takes = units.format_seconds(way.left_seconds)
        return f'<span title="Expected, from its start to its scores">{_pred(takes)}</span>'
    if run.result is None or run.result.measures.total_seconds is None:
        return "<span></span>"
    took = units.format_seconds(run.result.measures.total_seconds)
    return f'<span title="Total time, from load to save"><b>{took}</b></span>'


def _pred(text: str) -> str:
    return f'<span class="pred">{text}</span>'


def _button(run: Run, cancelling: bool) -> str:
    if not run.is_open or not asking().may_change(run.spec.owner):
        return '<span class="nil"></span>'
    if cancelling:
        return '<button class="ghost" disabled>Ending …</button>'
    label = escape(f"Cancel {run.spec.label}")
    target = f'data-run="{escape(run.run_id)}" aria-label="{label}"'
    return f'<button class="ghost" {target}>Cancel</button>'


def _why(run: Run) -> str:
    if run.is_open or run.status == "done" or not run.reason:
        return ""
    tone = "why soft" if run.status in ("cancelled", "not_applicable") else "why"
    return f'<p class="{tone}">{escape(run.reason)}</p>'


def _precision(run: Run) -> str:
    return run.spec.base_precision or "full"


_DISPATCHER_SECONDS = 10
_MOST_SWEEPS = 20  # cached sweeps: different ones viewed at about the same time
_MOST_DRAWINGS = 60  # that a page can have while it asks for the points since


@dataclass(frozen=True)
class Drawing:
    """The loss curves of a sweep, and the length of the step axis."""

    curves: tuple[LossCurve, ...] = ()
    steps: int = 0

    @cached_property
    def tagged(self) -> Tagged:
        """The drawing with a tag, by which a page says that it has this one."""
        return Tagged.of(draw_losses(self.curves, self.steps))

    @cached_property
    def figure(self) -> PlotData:
        """The plot as sent to the browser; rendered once for all pages."""
        drawn = loss_figure(curve_points(self.curves), steps=self.steps)
        drawn.update_layout(meta={"tag": self.tagged.tag})
        return PlotData(type="plotly", plot=str(drawn.to_json()))


@dataclass(frozen=True)
class Shown:
    """The current state of a sweep, as the page shows it; `seconds` until the page asks again."""

    heading: str = ""
    devices: str = ""
    queue: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    drawing: Drawing | None = None
    steps: NextSteps = field(default_factory=NextSteps)
    seconds: float = 0.0

    @cached_property
    def tag(self) -> str:
        """The tag of what an event shows: choices, next steps, and whether there is a curve."""
        return tag_of(repr((self.choices, self.steps, _has_curves(self))))


class Keeper:
    """Ensures that a dispatcher runs while runs are queued. One instance serves all visitors."""

    def __init__(self, runs_folder: Path) -> None:
        self.runs_folder = runs_folder
        self._turn = threading.Lock()
        self._next = 0.0
        self._problem = ""

    def keep(self, runs: Sequence[Run]) -> str:
        """Ensures that a dispatcher runs if a run is queued. Returns an error message or ""."""
        if not any(run.status == "queued" for run in runs):
            return ""
        with self._turn:
            if time.monotonic() < self._next:  # a dispatcher just started may not be up yet
                return self._problem
            self._next = time.monotonic() + _DISPATCHER_SECONDS
            try:
                ensure_dispatcher(self.runs_folder)
                self._problem = ""
            except FtlabError as error:
                self._problem = str(error)
            return self._problem


class QueueWatch:
    """Reads the queue once for all pages of one app."""

    def __init__(self, store: RunStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._book = ProgressBook()
        self._keeper = Keeper(store.folder)
        self._turn = threading.Lock()
        self._last_suggested: tuple[tuple[tuple[str, int], ...], str] = ((), "")
        self._looks: Recent[tuple[Person, str], tuple[float, Shown]] = Recent(_MOST_SWEEPS)
        self._drawn: Recent[str, Tagged] = Recent(_MOST_DRAWINGS)

    def look(self, wanted: str) -> Shown:
        """The current state of the wanted sweep."""
        with self._turn:
            return self._look(wanted, self._store.runs_of_all())

    def glance(self, wanted: str) -> Shown:
        """As `look`, but up to half the time between two polls old, at least 0.25 s and at most
        `RECENT_SECONDS`: one read serves all pages that poll at the same time."""
        with self._turn:
            known = self._looks.get((asking(), wanted))
            if known is not None:
                at, last = known
                oldest = min(RECENT_SECONDS, max(_FIRST_LOSS_SECONDS, last.seconds / 2))
                if self._clock() - at < oldest:
                    return last
            return self._look(wanted, self._store.runs_of_all(recent=True))

    def poll(self, query: Mapping[str, str]) -> News:
        """What is new for a page that shows a `sweep`.

        `queue` and `heading` are the tags of the HTML that the page has, `curve` that of its
        figure, if it has one; `shown` is the tag of what it got by an event: if that is old, the
        answer has `refresh`. A page that does not show the queue names no sweep.
        """
        if "sweep" not in query:
            return News()
        now = self.glance(query["sweep"])
        html = changed_html(query, heading=now.heading, devices=now.devices, queue=now.queue)
        more: dict[str, Any] = {"refresh": now.tag != query.get("shown")}
        if "curve" in query and (growth := self._growth(now, query["curve"])):
            more["curve"] = growth
        return News(html, more, now.seconds)

    def _growth(self, now: Shown, tag: str) -> Growth | None:
        """What turns the figure with that tag into the current one; `None` if it is that one."""
        drawing = now.drawing
        if drawing is None or not drawing.curves or tag == drawing.tagged.tag:
            return None
        return grown(self._drawn.get(tag), drawing.tagged, lambda: drawing.figure.plot)

    def _look(self, wanted: str, of_all: list[Run]) -> Shown:
        runs = seen_runs(of_all)
        cancelling = requested_cancels(self._store.folder)
        told = told_devices()  # their use cannot be read from here
        view = view_sweep(runs, wanted, cancelling, self._book.read)
        problem = self._keeper.keep(of_all)
        now = Shown(
            heading=f"{queue_heading(view)}{_hidden_state(of_all)}"
            + of_others(of_all)
            + worked_elsewhere(runs, dispatcher_elsewhere(self._store.folder))
            + executed_elsewhere(runs, where_runs_go(), trouble_of(self._store.folder))
            + field_error([problem] if problem else []),
            devices=devices_html(look_at_devices(runs, list_devices() if not told else ())),
            queue=self._suggested(view) + queue_html(view),
            choices=tuple(sweep_choices(runs)),
            drawing=self._drawing(wanted, view),
            steps=NextSteps() if view is None or view.is_open else next_steps(view.runs),
            seconds=seconds_between_polls(runs, view),
        )
        self._looks[asking(), wanted] = self._clock(), now
        return now

    def _suggested(self, view: SweepView | None) -> str:
        """The suggested rates of an ended tuning sweep; cached, since it reads the runs' files."""
        if view is None or view.is_open or not is_tuning(view.runs):
            return ""
        known = tuple((run.run_id, run.changes.ended) for run in view.runs)
        if self._last_suggested[0] != known:
            self._last_suggested = known, suggested_html(view.runs)
        return self._last_suggested[1]

    def _drawing(self, wanted: str, view: SweepView | None) -> Drawing:
        """Returns the previous drawing if it is equal, because its figure is already rendered."""
        if view is None:
            return Drawing()
        now = Drawing(view.curves(), max((way.steps for way in view.progress), default=0))
        last = self._looks.get((asking(), wanted))
        before = None if last is None else last[1].drawing
        if before is not None and before == now:
            return before
        self._drawn[now.tagged.tag] = now.tagged
        return now


_IDLE_SECONDS = 5.0
_BUSY_SECONDS = 2.0
_START_SECONDS = 0.5
_FIRST_LOSS_SECONDS = 0.25
_SOON_SECONDS = 60.0  # after that, a run's first step is known to take long
_TIMED_SECONDS = 3.0  # drawing a loss takes time from the steps that are timed
_MOST_SECONDS = 10.0


def seconds_between_polls(runs: Sequence[Run], view: SweepView | None) -> float:
    """Seconds until a page asks again: half the time of a step, but 3 to 10; else 2.

    Less before the first loss, for which people wait. 5 while no run is open.
    """
    if not any(run.is_open for run in runs):
        return _IDLE_SECONDS
    ways = zip(view.runs, view.progress, strict=True) if view is not None else ()
    paces = [_pace(way) for run, way in ways if run.status == "running"]
    return min(paces, default=_BUSY_SECONDS)


def _pace(way: Progress) -> float:
    if not way.steps or way.phase not in ("", "start", "wait", "load", "train"):
        return _BUSY_SECONDS
    if way.step_seconds is None:
        is_soon = way.phase == "train" and way.elapsed_seconds < _SOON_SECONDS
        return _FIRST_LOSS_SECONDS if is_soon else _START_SECONDS
    if way.step + 1 >= way.steps:
        return _BUSY_SECONDS
    return min(max(way.step_seconds / 2, _TIMED_SECONDS), _MOST_SECONDS)


_SEND_PRESS = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-run], [data-further], [data-rates]');
  if (!button) return;
  button.disabled = true;
  const {run = '', further = '', rates} = button.dataset;
  if (rates) {
    window.ftMethods.set(JSON.parse(rates));
    button.textContent = 'They are in the form';
  } else {
    trigger('select', {run, further});
  }
})"""
_REFRESH = "window.ft.watch.follow(element, () => trigger('select', {{}}), '{library}');"
POLL = "() => window.ft.watch.now()"
"""JavaScript: the page asks for its live parts at once."""

_NO_CURVE = blank("No curve yet.", "The loss of every run of the sweep is drawn here as it comes.")
_EXPLANATION = (
    '<p class="meta">Runs are processes of their own: close this page, reload it, open a second '
    "one, and they go on. After its first run a sweep measures the untouched model in base runs, "
    "unless this machine has measured it before.</p>"
)


@dataclass(frozen=True)
class Panel:
    """The components and handler that the tab uses to refresh the queue after a launch."""

    sweep: gr.Dropdown
    refresh: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]


def build(context: AppContext, links: Links) -> Panel:
    """Builds queue and plot."""
    with gr.Row(equal_height=True, elem_classes="ft-watch"):
        with gr.Column(scale=9, min_width=420, elem_classes="ft-sheet ft-queue"):
            with gr.Row(elem_classes="ft-queue-head"):
                heading = H(
                    place("heading", queue_heading(None)), js_on_load=_SEND_PRESS, min_width=200
                )
                sweep = live(
                    gr.Dropdown,
                    [("Newest sweep", NEWEST)],
                    value=NEWEST,
                    label="Sweep",
                    show_label=False,
                    container=False,
                    visible=False,
                    scale=0,
                    min_width=230,
                    elem_classes="ft-bare",
                    elem_id="sweep",
                )
            onward = NextButtons("queue", "Compare these", "Ask them in the Playground")
            queue = H(
                place("devices", "") + place("queue", queue_html(None)), js_on_load=_SEND_PRESS
            )
            mark = H(elem_classes="ft-carrier")
            stale = H(
                js_on_load=_REFRESH.format(library=drawing_library()), elem_classes="ft-carrier"
            )
            H(_EXPLANATION)
        with gr.Column(scale=5, min_width=320, elem_classes="ft-sheet"):
            head(
                "Is it learning?",
                sub="Training loss at each step, lower is better; mean and range of the seeds",
            )
            empty = H(_NO_CURVE)
            figure = gr.Plot(
                visible=False, show_label=False, container=False, elem_classes="ft-fig"
            )
    watch = QueueWatch(context.store)
    context.live.add(watch.poll)
    shown = gr.State(Shown())

    def refresh(wanted: str, before: Shown) -> tuple[Any, ...]:
        return _changes(before, watch.look(wanted), wanted, onward)

    def press(event: gr.EventData, wanted: str) -> None:
        try:
            sweep_id = str(getattr(event, "further", ""))
            if sweep_id:
                tune_further(sweep_id, context)
            else:
                cancel_runs(context, str(getattr(event, "run", "")), wanted)
        except FtlabError as error:
            warn(str(error))

    inputs = [sweep, shown]
    outputs = [mark, sweep, empty, figure, shown, *onward.outputs]
    shows = gr.on([first_shown(), stale.select, sweep.input], refresh, inputs, outputs, **QUIET)
    shows.then(fn=None, js=POLL, api_visibility="private")
    pressed = gr.on([queue.select, heading.select], press, sweep, None, **QUIET)
    pressed.then(fn=None, js=POLL, api_visibility="private")
    onward.wire(context, links)
    return Panel(sweep, refresh, inputs, outputs)


def cancel_runs(context: AppContext, run_id: str, wanted: str) -> list[str]:
    """Requests cancellation of one run or, with "all", of every open run of the wanted sweep."""
    run_ids = [run_id]
    if run_id == "all":
        view = view_sweep(context.store.runs(), wanted)
        run_ids = view.open_ids if view else []
    request_cancel(context.runs_folder, run_ids)
    return run_ids


def _changes(before: Shown, now: Shown, wanted: str, onward: NextButtons) -> tuple[Any, ...]:
    """One update per output, `gr.skip()` if unchanged; the mark has the tag of what is shown."""
    appear = _has_curves(now) != _has_curves(before) or before.drawing is None
    return (
        f'<i data-shown="{now.tag}" data-sweep="{escape(wanted)}"></i>',
        gr.update(choices=list(now.choices), visible=len(now.choices) > 1)
        if now.choices != before.choices
        else gr.skip(),
        gr.update(visible=not _has_curves(now)) if appear else gr.skip(),
        _figure(now, appear) if now.drawing != before.drawing else gr.skip(),
        now,
        *(
            onward.show(now.steps)
            if now.steps != before.steps
            else [gr.skip()] * len(onward.outputs)
        ),
    )


def _figure(now: Shown, appears: bool) -> Any:
    if now.drawing is None or not now.drawing.curves:
        return gr.update(visible=False)
    figure = now.drawing.figure
    return gr.update(value=figure, visible=True) if appears else figure


def _has_curves(shown: Shown) -> bool:
    return shown.drawing is not None and bool(shown.drawing.curves)
