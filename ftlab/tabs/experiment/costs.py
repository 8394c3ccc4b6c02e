"""Predicted costs of the chosen runs, shown before Launch: per method, and the highest peak."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ftlab.basics.cards import Card
from ftlab.basics.devices import Device, list_devices, resolve_device
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.locks import TimedSteps
from ftlab.basics.people import asking
from ftlab.basics.units import DASH, format_bytes, format_range, format_seconds
from ftlab.basics.words import shorten
from ftlab.jobs.inputs import Access
from ftlab.jobs.sweep_costs import Costing, SweepTimes, costing, keep_expected, times_of
from ftlab.methods.families.full import FULL
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import KnownModel, catalogue
from ftlab.prediction.client import NobodyWaits
from ftlab.prediction.fit import Ask, Largest, largest_that_fits, on_hub, verdict
from ftlab.prediction.machine_rates import rates_here
from ftlab.prediction.question import Prediction, Question
from ftlab.prediction.remedies import Band, Calibration, calibration
from ftlab.prediction.run_time import Estimate
from ftlab.records.progress import busy_seconds, seconds_left
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run
from ftlab.tabs.context import AppContext
from ftlab.tabs.experiment.queue import queue_state, view_sweep
from ftlab.tabs.widgets import escape, plural

_ASKING = "…"
_RESTING = "Predictions rest while the steps of a run are timed on these cores, a minute at most."


@dataclass(frozen=True)
class Costs:
    """Texts that the browser writes into the table (`assets/methods.js`), and the highest peak.

    `full` says that full fine-tuning, which is not among the variants, would not fit. `time` says
    how long the sweep takes, which is `seconds`, and `queue` what its device has to do before it,
    which is `ahead` (`None`: nobody knows); the browser adds when it ends. `unknown` says why there
    is no time. `queued` is the `queue_state` that they count.
    """

    methods: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    most: str = ""
    note: str = ""
    full: str = ""
    time: str = ""
    seconds: float | None = None
    queue: str = ""
    ahead: float | None = 0.0
    unknown: str = ""
    queued: str = ""

    def html(self) -> str:
        said: dict[str, Any] = {"methods": self.methods, "most": self.most, "full": self.full}
        if self.time:
            said |= {"time": self.time, "seconds": self.seconds}
            said |= {"queue": self.queue, "ahead": self.ahead}
        for name in ("unknown", "queued"):
            if getattr(self, name):
                said[name] = getattr(self, name)
        facts = json.dumps(said, sort_keys=True)
        note = f'<p class="meta">{escape(self.note)}</p>' if self.note else ""
        return f'{note}<span id="method-costs" data-costs="{escape(facts)}"></span>'


def predict_costs(context: AppContext, request: SweepRequest, ask: Ask) -> Iterator[str]:
    """Yields the costs as HTML as predictions arrive. Errors are shown as a note, not raised."""
    shown = Costs()
    try:
        for shown in _costs_as_known(context, request, ask):
            yield shown.html()
    except NobodyWaits:
        raise
    except Exception as error:  # Launch needs no prediction; the log has the reason
        if not isinstance(error, FtlabError):
            traceback.print_exc()
        methods = {name: cells for name, cells in shown.methods.items() if cells["peak"] != _ASKING}
        what = "No further prediction" if methods or shown.note else "No prediction"
        yield replace(shown, methods=methods, note=f"{what}: {one_line(error)}").html()


def _costs_as_known(context: AppContext, request: SweepRequest, ask: Ask) -> Iterator[Costs]:
    asked = costing(request)
    runs = context.store.runs()
    seen = calibration(runs, asked.device)
    found: dict[int, Prediction] = {}
    times = times_of(asked, runs)

    def known(full: str = "", unknown: str = "") -> Costs:
        now = replace(costs(asked, found, seen, times), full=full, unknown=unknown)
        if len(found) < len(asked.questions) and TimedSteps("cpu").keep_others_off():
            now = replace(now, note=f"{now.note} {_RESTING}".strip())
        if not now.time and not unknown:
            return now
        queue = context.store.runs_of_all()  # a prediction takes its time, in which runs go on
        ahead = seconds_ahead(queue, asked.devices, _count(request))
        left = format_seconds(ahead) if ahead else ""
        return replace(now, ahead=ahead, queue=left, queued=queue_state(queue))

    yield known()
    for place, answer in ask(asked.questions):
        found[place] = answer
        yield known()
    full = _full_misfit(request, seen, ask)
    if full:
        yield known(full)
    is_sure = times.rates is not None and times.rates.quiet
    if not is_sure and any(answer.work for answer in found.values()):
        times = replace(times, rates=rates_here(asked.device))
        yield known(full, "" if times.rates else _not_measured(runs, asked.device))


def _not_measured(runs: Sequence[Run], device: Device) -> str:
    """Why no time is known although the work of the runs is."""
    name = device.kind_name
    if any(run.status == "running" and device.id in run.spec.may_use for run in runs):
        return f"A run has the {name}, whose speed was not measured yet; its end gives the time."
    return f"The speed of this {name} is not known: it is in use, or could not be measured."


def _count(request: SweepRequest) -> int:
    """The runs of the sweep, base runs included."""
    bases = {variant.base_precision for variant in request.variants}
    return len(request.variants) * len(request.seeds) + len(bases)


def seconds_ahead(runs: Sequence[Run], devices: Sequence[Device], count: int) -> float | None:
    """Seconds until one of the like devices has done what comes before the last of `count` new
    runs of the person who asks; `None` if it is not known how long that takes.

    People take turns, so at most as many runs of each other person come before them.
    """
    ours = {device.id for device in devices}
    before = [run for run in runs if run.is_open and not ours.isdisjoint(run.spec.may_use)]
    ids = {run.run_id for run in before}
    left = list[tuple[Run, float]]()
    turns = Counter[str]()
    for sweep_id in dict.fromkeys(run.spec.sweep_id for run in before):
        view = view_sweep(runs, sweep_id)
        found = None if view is None else seconds_left(view.runs, view.progress)
        if found is None:
            return None
        for run, seconds in found:
            owner = run.spec.owner
            turns[owner] += run.run_id in ids
            if run.run_id in ids and (owner == asking().name or turns[owner] <= count):
                left.append((run, seconds))
    busy = busy_seconds(left)
    return min(busy.get(device, 0.0) for device in ours)


def keep_predicted(context: AppContext, request: SweepRequest, specs: Sequence[RunSpec]) -> None:
    """Keeps beside the queued runs how long each should take, as far as that is predicted already.

    Nothing is asked or measured. Never raises: the runs need it for nothing.
    """
    try:
        asked = costing(request)
        answers = map(context.predictor.known, asked.questions)
        found = {place: answer for place, answer in enumerate(answers) if answer is not None}
        keep_expected(times_of(asked, context.store.runs()), found, specs, context.runs_folder)
    except Exception:  # the sweep is queued already; the log has the reason
        traceback.print_exc()


def _full_misfit(request: SweepRequest, seen: Calibration, ask: Ask) -> str:
    """What Compare will lack, if full fine-tuning is not in the request and would not fit."""
    if any(variant.method == FULL.id for variant in request.variants):
        return ""
    asked = costing(replace(request, variants=(Variant(FULL.id),)))
    for _, answer in ask(asked.questions):
        cells = _cells(answer, seen.band(FULL.id), asked.card)
        if cells.get("verdict") == "does not fit":
            return (
                f"Full fine-tuning would not fit this device (≈ {cells['peak']}): Compare "
                "cannot say what is saved. Plan predicts it."
            )
    return ""


def costs(
    asked: Costing, found: Mapping[int, Prediction], seen: Calibration, times: SweepTimes
) -> Costs:
    """The costs known so far. A method with several variants shows its first one."""
    card = asked.card
    methods: dict[str, dict[str, str]] = {}
    highest: tuple[int, int] | None = None
    for place, variant in enumerate(asked.variants):
        answer = found.get(place)
        band = seen.band(variant.method)
        if answer is None:
            cells = {"peak": _ASKING, "file": _ASKING}
        else:
            cells = _cells(answer, band, card) | _time_cells(times.run(place, answer))
            if answer.peak_allocated_bytes is not None:
                range_ = band.of(answer.peak_allocated_bytes)
                highest = range_ if highest is None else max(highest, range_, key=lambda r: r[1])
        methods.setdefault(variant.method, cells)
    most = ""
    if highest is not None and len(found) == len(asked.variants):
        free = format_bytes(card.memory_bytes)
        most = f"{format_range(*highest)} of memory while training, of {free} free"
    whole = times.sweep(found)
    if whole is None:
        return Costs(methods, most, _note(asked, seen))
    return Costs(
        methods, most, _note(asked, seen), time=format_seconds(whole.seconds),
        seconds=round(whole.seconds, 1),
    )  # fmt: skip


def _time_cells(found: Estimate | None) -> dict[str, str]:
    """The time of one run, and its range; a dash where nothing is known."""
    if found is None:
        return {}
    low, high = format_seconds(found.low), format_seconds(found.high)
    return {
        "time": format_seconds(found.seconds),
        "how_long": f"One run, from its start to its scores: {low} to {high}.",
    }


def _cells(answer: Prediction, band: Band, card: Card) -> dict[str, str]:
    file = format_bytes(answer.adapter_bytes)
    peak = answer.peak_allocated_bytes
    if peak is None or answer.peak_reserved_bytes is None:
        return {"peak": DASH, "file": file, "why": shorten(answer.reason, 300)}
    low, high = band.of(peak)
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in answer.anatomy.items())
    scoring = (
        f" Scoring takes {format_bytes(answer.scoring_bytes)}." if answer.scoring_bytes else ""
    )
    return {
        "peak": format_range(low, high),
        "file": file,
        "verdict": verdict(answer, band, card),
        "why": f"{format_bytes(peak)} of tensors ({parts}), {answer.how}.{scoring} {_source(band)}",
    }


def _source(band: Band) -> str:
    times = f"{band.low:.2f} to {band.high:.2f} times"
    if not band.runs:
        return f"Runs elsewhere took {times} that."
    return f"{plural(band.runs, 'run')} of {band.whose} here took {times} that."


def _note(asked: Costing, seen: Calibration) -> str:
    batch = asked.longest.batch
    size = f"{batch.rows} × {batch.length:,} tokens"
    note = f"≈ is predicted for this {asked.device.kind_name}"
    if not asked.longest.is_known:
        return (
            f"{note}, for batches of {size}: how long the examples are is known once the model is "
            "on this machine."
        )
    runs = f"; its width is what {plural(len(seen.seen), 'run')} here showed" if seen.seen else ""
    return f"{note}, from the longest batch, {size}{runs}."


_METHOD = "lora"


@dataclass(frozen=True)
class Proposal:
    """The proposed model, and the device that it fits."""

    largest: Largest
    band: Band
    card: Card


def may_propose(access: Access) -> bool:
    """Whether this machine can propose models, which needs a GPU and access to the Hub."""
    may_use = access.may_train and access.may_ask_hub
    return may_use and any(device.is_cuda for device in list_devices())


def propose(request: SweepRequest, context: AppContext, ask: Ask) -> Proposal | None:
    """The largest catalogue model whose LoRA training fits into the device's free memory.

    Uses the form's device, settings and first LoRA variant, or the LoRA defaults if it has none.
    Returns `None` without a GPU, without the Hub, if no model fits, or if the prediction fails.
    May take seconds.
    """
    try:
        device = resolve_device(request.device)
        if not device.is_cuda or not context.hub.is_reached():
            return None
        models = on_hub()
        card = _costing(request, models[0]).card
        band = calibration(context.store.runs(), device).band(_METHOD)

        def fits(answer: Prediction) -> bool:
            return answer.peak_reserved_bytes is not None and verdict(answer, band, card) == "fits"

        def question(model: KnownModel) -> Question:
            return _costing(request, model).questions[0]

        found = largest_that_fits(models, question, ask, fits, card.usable_bytes)
    except FtlabError:
        return None  # `predict_costs` reports the error
    return None if found is None else Proposal(found, band, card)


def proposal_html(proposal: Proposal | None, chosen: str) -> str:
    """The proposal with a button that selects it; empty if there is none.

    `chosen` is the model currently in the form.
    """
    if proposal is None or proposal.largest.model.id == chosen:
        return ""
    model, peak = proposal.largest.model, proposal.largest.prediction.peak_reserved_bytes or 0
    needs = format_bytes(round(proposal.band.high * peak))
    free = format_bytes(proposal.card.memory_bytes)
    what = f"{METHODS[_METHOD].label} with the settings below takes up to {needs} of {free} free"
    return (
        f'<p class="largest"><span title="{escape(what)} on {escape(proposal.card.label)}">'
        f"Largest that fits this GPU: <b>{escape(model.label)}</b></span>"
        f'<button type="button" class="ghost" data-choose="{escape(model.id)}" '
        f'aria-label="Choose {escape(model.label)}">Choose</button></p>'
    )


def proposable(model_id: str) -> bool:
    """Whether the model is one that `propose` may return."""
    return any(model.id == model_id and model.is_on_hub for model in catalogue())


def _costing(request: SweepRequest, model: KnownModel) -> Costing:
    """The costing of the form's LoRA variant on that model."""
    variants = [variant for variant in request.variants if variant.method == _METHOD]
    variant = variants[0] if variants else Variant(_METHOD)
    return costing(replace(request, model=model.id, variants=(variant,)))
