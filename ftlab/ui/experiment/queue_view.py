"""The queue of one sweep as HTML, and its loss curves: plain functions on runs and progress."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ftlab import units
from ftlab.charts.loss import LossCurve, curve_of
from ftlab.methods.registry import BASE_METHOD, look_of
from ftlab.runs.progress import Progress, read_progress, sweep_eta
from ftlab.runs.result import STATUS_LABELS
from ftlab.runs.store import Run
from ftlab.ui.html import blank, chip, escape, heading, plural, swatch
from ftlab.ui.results.names import sweep_label

NEWEST = "newest"
"""Value of the sweep dropdown that follows whatever was launched last."""

ReadProgress = Callable[[Run, float | None], Progress]

_SHORT_PHASES = {"wait": "waiting"}  # the chip is narrow; its tooltip has the whole label


@dataclass(frozen=True)
class SweepView:
    """One sweep as it is now: its runs in the order of the queue, each with its progress."""

    sweep_id: str
    runs: tuple[Run, ...]
    progress: tuple[Progress, ...]
    cancelling: frozenset[str] = frozenset()

    @property
    def is_open(self) -> bool:
        return any(run.is_open for run in self.runs)

    @property
    def open_ids(self) -> list[str]:
        return [run.run_id for run in self.runs if run.is_open]

    def curves(self) -> tuple[LossCurve, ...]:
        """The training loss of each run that has any."""
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
    """The wanted sweep of all runs, the newest where it is `NEWEST` or gone; `None` if no run."""
    if not runs:
        return None
    newest = max(runs, key=lambda run: (run.spec.created_at, run.spec.sweep_id)).spec.sweep_id
    found = any(run.spec.sweep_id == wanted for run in runs)
    sweep_id = wanted if found and wanted else newest
    chosen = [run for run in runs if run.spec.sweep_id == sweep_id]
    evaluation = evaluation_seconds(chosen)
    progress = tuple(
        read(run, evaluation.get(_precision(run), evaluation.get(""))) for run in chosen
    )
    return SweepView(sweep_id, tuple(chosen), progress, frozenset(cancelling))


def evaluation_seconds(runs: Sequence[Run]) -> dict[str, float]:
    """What evaluation took last, by base precision; "" is the last of any precision."""
    seconds: dict[str, float] = {}
    for run in runs:
        if run.result is not None and run.status == "done" and "evaluate" in run.result.phases:
            took = run.result.phases["evaluate"].seconds
            seconds |= {_precision(run): took, "": took}
    return seconds


def sweep_choices(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Label and value of each sweep, newest first, after the entry that follows the newest."""
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
    """How far the sweep is, and the button that ends all of it."""
    if view is None:
        return heading("Queue", sub="one run at a time on each device")
    title = "Queue" if view.is_open else "Queue: all runs have ended"
    button = '<button class="ghost" data-run="all">Cancel all</button>'
    return heading(title, *([button] if view.is_open else []), sub=_summary(view))


def queue_html(view: SweepView | None) -> str:
    """One row a run; an empty state where there is no sweep."""
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
    parts = [f"sweep {view.sweep_id}", f"{ended} of {plural(len(view.runs), 'run')} ended"]
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
        return chip(_SHORT_PHASES.get(way.phase, way.label), "running", title=way.label)
    return chip(STATUS_LABELS[run.status], run.status)


def _bar(run: Run, way: Progress) -> str:
    fraction = way.fraction if run.is_open or run.status == "done" else _reached(way)
    label, colour = run.spec.label, look_of(run.spec.method).colour
    if way.download is not None:  # another bar than the run's own, which begins after it
        fraction, colour = way.download.fraction, "var(--info)"
        label += ": download of the base model"
    percent = round(100 * fraction)
    return (
        f'<span class="prog {run.status}" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-label="{escape(label)}">'
        f'<i style="width:{percent}%;--c:{colour}"></i></span>'
    )


def _reached(way: Progress) -> float:
    """How far a run was that ended early."""
    return 0.8 * way.step / way.steps if way.steps else 0.0


def _steps(run: Run, way: Progress) -> str:
    if way.download is not None:
        done, _, rest = way.download.label.partition(" ")
        return f'<span class="st" title="Of the base model"><b>{done}</b> {rest}</span>'
    if run.spec.method == BASE_METHOD or run.status == "not_applicable":
        return '<span class="st"></span>'
    return f'<span class="st"><b>{way.step}</b>/{way.steps}</span>'


def _loss(run: Run, way: Progress) -> str:
    if run.spec.is_base and run.result is not None:
        value = run.result.measures.eval_loss_before or run.result.measures.eval_loss_after
        return _cell(f"<small>loss</small> <b>{units.format_number(value)}</b>", value is not None)
    return _cell(
        f"<small>loss</small> <b>{units.format_number(way.loss)}</b>", way.loss is not None
    )


def _peak(run: Run) -> str:
    """The net peak, which is what was predicted; on hover what the whole process took."""
    measures = run.result.measures if run.result is not None else None
    if measures is None or measures.peak_memory_bytes is None or run.result is None:
        return "<span></span>"
    kind = escape(run.result.memory_kind)
    whole = units.format_bytes(measures.peak_memory_bytes)
    if measures.net_peak_memory_bytes is None:
        return f'<span title="Peak memory, train phase; {kind}"><b>{whole}</b></span>'
    net = units.format_bytes(measures.net_peak_memory_bytes)
    why = f"Peak memory net of the process, train phase; {whole} with it; {kind}"
    return f'<span title="{why}"><b>{net}</b> <small>net</small></span>'


def _time(run: Run, way: Progress) -> str:
    if run.status == "running":
        if way.left_seconds is None:
            return "<span></span>"
        until = ' title="Until the base model is here"' if way.download is not None else ""
        left = units.format_seconds(way.left_seconds)
        return f'<span{until}><span class="pred">{left}</span> left</span>'
    measures = run.result.measures if run.result is not None else None
    if measures is None or measures.total_seconds is None:
        return "<span></span>"
    took = units.format_seconds(measures.total_seconds)
    return f'<span title="Total time, from load to save"><b>{took}</b></span>'


def _button(run: Run, cancelling: bool) -> str:
    if not run.is_open:
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


def _cell(html: str, known: bool) -> str:
    return f"<span>{html}</span>" if known else "<span></span>"


def _precision(run: Run) -> str:
    return run.spec.base_precision or "full"
