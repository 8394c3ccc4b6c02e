"""Tools for agents: a server of the Model Context Protocol beside the page (`--mcp`).

An agent may call what programs may (`ftlab/tabs/api.py`), and gets as JSON what a person reads off
the page. Each request stands alone, so no session is kept for an agent, and an app that was started
again answers as before.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ftlab import __version__
from ftlab.basics.bearer import NamedTokens, read_tokens
from ftlab.basics.cards import find_card
from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.people import asking
from ftlab.basics.visitor_turns import Visitor
from ftlab.basics.words import shown_name
from ftlab.jobs.inputs import check_inputs
from ftlab.methods.rates import size_of
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.variant import parse_variant
from ftlab.prediction.client import Predictor
from ftlab.prediction.question import Prediction, Question, Step, Target, ask_about
from ftlab.prediction.rows import capability_of, prediction_row
from ftlab.race.record import RaceDirectory, RaceSettings, list_races
from ftlab.race.standings import view_race
from ftlab.race.start import begin_race
from ftlab.records.progress import Progress, ProgressBook, progress_of, sweep_eta
from ftlab.records.recommendation import CRITERIA, Preference, recommend
from ftlab.records.result import OPEN
from ftlab.records.spec import SweepRequest, rate_of
from ftlab.records.store import Run, SweepData, sweep_data
from ftlab.settings.request import parse_memory_limit
from ftlab.settings.training import TrainingSettings
from ftlab.share.card_content import card_of
from ftlab.share.report_markdown import markdown_report
from ftlab.tabs.api import api_request, api_task, calls_of
from ftlab.tabs.context import AppContext, check_texts
from ftlab.tabs.gate import AGENTS
from ftlab.tabs.plan.request import ON_FORM, named_config
from ftlab.tabs.results.columns import filtered, in_order, records, usual_columns

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

VARIABLE = "FTLAB_MCP_TOKEN"
LONGEST_WAIT = 50.0
"""Seconds after which a tool answers with what it has: clients give a call a minute."""

_LOOK_SECONDS = 1.0
_MOST_AT_ONCE = 16  # calls; further ones wait
_SEEDS_OF_A_RACE = "0, 1, 2"
_DEFAULTS = SweepRequest()

INSTRUCTIONS = """\
ftlab fine-tunes one model with several methods (full, LoRA, QLoRA, prompt tuning and more) and
measures trainable parameters, memory while training, time, file size and scores of each, to be
compared fairly. Training runs on the machine that serves this and takes minutes to hours; runs wait
in a queue and go on without you.

A usual course: `predict` what a method needs (seconds, no training); `launch_sweep` with the
methods to compare, or `race` to find the best within some minutes; `status` with `wait_seconds`
until it is done; `compare` for what is shown and what is not; `report` for people. Memory is in
bytes, time in seconds. Say a difference only where `compare` says that it is shown: with few test
examples or one seed, most differences are chance."""


@dataclass(frozen=True)
class AgentTool:
    """One tool: the function, whose docstring tells the agent when and how to use it.

    `reads_only`: it changes nothing. `ends`: it may end what others began.
    """

    call: Callable[..., Any]
    title: str
    reads_only: bool = True
    ends: bool = False


def tools_of(context: AppContext) -> list[AgentTool]:
    """Every tool of one app."""
    calls, book = calls_of(context), ProgressBook()

    def methods() -> list[dict[str, str]]:
        """Lists the methods that can be trained: what each does, is good for, and is weak at."""
        return [
            {
                "id": one.id,
                "label": one.label,
                "summary": one.summary,
                "good_for": one.good_for,
                "weak_at": one.weak_at,
            }
            for one in METHODS.values()
        ]

    def predict(
        model: str = _DEFAULTS.model,
        methods: list[str] = list(CORE),  # noqa: B006
        device: str = "",
        settings: dict[str, Any] = {},  # noqa: B006
    ) -> list[dict[str, Any]]:
        """Predicts parameters, file size, and memory of a training step; trains nothing.

        Parameters:
            model: A model of the catalogue, a Hub id, or "bundled".
            methods: Variants, such as "lora" or "lora:r=4,alpha=8"; ids are those of `methods`.
            device: A card, as "rtx-4090" or "h100", or "here" for this machine's GPU: each row then
                has a verdict ("fits", "tight" or "does not fit") and the bytes left.
            settings: Of the step: length, batch, accumulation, completion_tokens, weights,
                optimizer, checkpointing, shard (GPUs that one run is divided over).
        Returns:
            A row per method; bytes are null with a reason where nothing can be predicted.
        """
        check_texts(model=model, device=device)
        target = Target(model, find_card(device) if device else None)
        found = named_config(model, context.access)
        step = Step(**_step_settings(settings), capability=capability_of(target.card))
        questions = ask_about(found.config, [parse_variant(text) for text in methods], step)
        answers = _answers(context.predictor, questions)
        usual, size = TrainingSettings(), size_of(found.config)
        return [
            prediction_row(answer, target, step, rate_of(one.variant, usual, size))
            for one, answer in zip(questions, answers, strict=True)
        ]

    def race(
        model: str = _DEFAULTS.model,
        task: str = str(_DEFAULTS.task),
        methods: list[str] = [],  # noqa: B006
        minutes: float = RaceSettings.minutes,
        prefer: str = RaceSettings.prefer,
        memory: str = "",
        settings: dict[str, Any] = {},  # noqa: B006
        columns: dict[str, str] = {},  # noqa: B006
        metric: str = "",
    ) -> dict[str, Any]:
        """Finds the best method for some data within minutes, and starts at once.

        Methods train a few steps at several rates and sizes, the best go on, and the last few are
        scored on test examples over three seeds. `status` with the race's id tells how it stands,
        and in the end the answer. One race runs at a time.

        Parameters:
            model: As of `launch_sweep`.
            task: As of `launch_sweep`.
            methods: Ids of methods; empty: all that apply.
            minutes: For the whole race.
            prefer: What decides among methods that do as well: "memory", "time", "file" or "score".
            memory: What a run may take, as "8GB"; empty: no limit.
            settings: As of `launch_sweep`, for the last runs.
            columns: As of `launch_sweep`.
            metric: As of `launch_sweep`.
        Returns:
            The race's id.
        """
        context.access.check_training()
        context.access.check_task_text(task)
        reference = api_task(task, columns, metric, "", "")
        reading = api_request(
            model, reference, methods or list(METHODS), _SEEDS_OF_A_RACE, {}, settings,
            context.access,
        )  # fmt: skip
        # Of all methods, those that cannot be trained on the model are left out.
        skipped = () if methods else ("variants", *METHODS)
        errors = [one for one in reading.errors if one.field.partition(".")[0] not in skipped]
        if errors:
            raise InvalidRequest(errors)
        limit = parse_memory_limit(memory) if memory else None
        request = replace(reading.request, memory_limit=limit)
        check_inputs(request, context.models)
        named = RaceSettings(minutes, _preference(prefer))
        return {"race_id": begin_race(request, named, context.store).race_id}

    def status(id: str = "", wait_seconds: float = 0.0) -> dict[str, Any]:
        """Tells how far runs are, and when they end.

        Parameters:
            id: Of a sweep, a run or a race; empty: everything that is queued or running.
            wait_seconds: Waits so long for the end, at most 50: saves asking often.
        Returns:
            `is_done`, `seconds_left` (null: not known yet) and a row per run; of a race also its
            answer once it has ended.
        """
        check_texts(id=id)
        until = time.monotonic() + min(max(0.0, wait_seconds), LONGEST_WAIT)
        while True:
            found = _status(context, book, id)
            left = until - time.monotonic()
            if found["is_done"] or left <= 0:
                return found
            time.sleep(min(_LOOK_SECONDS, left))

    def compare(sweep_id: str, prefer: str = "memory") -> dict[str, Any]:
        """Compares the methods of a sweep: what to use, what is shown, and what may be chance.

        Parameters:
            sweep_id: Of a sweep with runs that are done; `results` lists them.
            prefer: What decides among those that do as well: "memory", "time", "file" or "score".
        Returns:
            The finding in a sentence, doubts, the recommendation, and the main measures of each
            run.
        """
        data = _sweep(context, sweep_id)
        card = card_of(data)
        keys = in_order({"run_id", *usual_columns(data.table)})
        return {
            "finding": card.sentence,
            "doubts": [*card.doubts, *filter(None, [card.unlike])],
            "recommendation": recommend(data.table, _preference(prefer)).as_json(),
            "runs": records(data.table, keys),
            "address": f"/?tab=compare&sweep={sweep_id}",
        }

    def report(sweep_id: str) -> str:
        """Writes a sweep as Markdown for people: finding, advice, table, and how to run it again.

        Parameters:
            sweep_id: Of a sweep with runs that are done.
        """
        return markdown_report(_sweep(context, sweep_id))

    def cancel(run_ids: list[str] = [], id: str = "") -> list[str]:  # noqa: B006
        """Ends runs, a whole sweep, or a race; what has ended already is not changed.

        Parameters:
            run_ids: Ids of single runs.
            id: Of a sweep, or of a race, which answers from what it has.
        Returns:
            The ids of what is being ended.
        """
        check_texts(id=id)
        context.access.check_training()
        if (found := _race(context, id)) is not None:
            found.cancel()
            return [id]
        return list(calls["cancel"](run_ids, id))

    def results(
        sweep_id: str = "", text: str = "", every_measure: bool = False, most: int = 40
    ) -> list[dict[str, Any]]:
        """Lists runs, newest sweep first, with their main measures; `compare` says what they show.

        Parameters:
            sweep_id: Of one sweep; empty: all.
            text: Words that a row must contain, for example "done lora".
            every_measure: All columns, some hundred numbers a run.
            most: So many rows at most, the newest.
        """
        check_texts(sweep_id=sweep_id, text=text)
        rows = filtered(context.store.table(), sweep_id, text).head(max(1, most))
        keys = () if every_measure else in_order({"run_id", "sweep_id", *usual_columns(rows)})
        return records(rows, keys)

    return [
        AgentTool(methods, "List the methods"),
        AgentTool(predict, "Predict memory and size"),
        AgentTool(calls["launch_sweep"], "Train methods to compare", reads_only=False),
        AgentTool(race, "Find the best method", reads_only=False),
        AgentTool(status, "How far it is"),
        AgentTool(results, "All measures"),
        AgentTool(compare, "Compare a sweep"),
        AgentTool(report, "Report of a sweep"),
        AgentTool(cancel, "End runs", reads_only=False, ends=True),
    ]


def _answers(predictor: Predictor, questions: Sequence[Question]) -> list[Prediction]:
    """Those that are known in time; the others go on, so that a later call has them."""
    visitor = Visitor(f"agent of {asking().name}")
    found: dict[int, Prediction] = {}
    problems: list[FtlabError] = []

    def ask() -> None:
        try:
            for place, answer in predictor.ask(questions, visitor):
                found[place] = answer
        except FtlabError as error:
            problems.append(error)

    thread = threading.Thread(target=ask, name="prediction for an agent", daemon=True)
    thread.start()
    thread.join(LONGEST_WAIT)
    if problems:
        raise problems[0]
    late = f"Not predicted within {LONGEST_WAIT:.0f} s; it goes on, so call again."
    return [
        found.get(place) or Prediction(one.variant.method, one.variant.label, reason=late)
        for place, one in enumerate(questions)
    ]


def _step_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `FtlabError` for a setting that a step does not have, or a value of another kind."""
    for name in given:
        if name not in ON_FORM:
            raise FtlabError(
                f"A step has no setting '{shown_name(name)}'; settings: {', '.join(ON_FORM)}."
            )
    return {name: ON_FORM[name].read(value) for name, value in given.items()}


def _preference(text: str) -> Preference:
    if text not in CRITERIA:
        raise FtlabError(
            f"Prefer is '{shown_name(text)}'; it must be one of: {', '.join(CRITERIA)}."
        )
    return cast(Preference, text)


def _sweep(context: AppContext, sweep_id: str) -> SweepData:
    check_texts(sweep_id=sweep_id)
    return sweep_data(context.store, sweep_id)


def _race(context: AppContext, race_id: str) -> RaceDirectory | None:
    races = list_races(context.runs_folder) if race_id else []
    return next((one for one in races if one.race_id == race_id), None)


def _status(context: AppContext, book: ProgressBook, name: str) -> dict[str, Any]:
    if (race := _race(context, name)) is not None:
        return _status_of_race(race)
    runs = context.store.runs()
    chosen = [run for run in runs if name in (run.run_id, run.spec.sweep_id)]
    if not name:
        chosen = [run for run in runs if run.is_open]
    elif not chosen:
        raise FtlabError(f"There is no sweep, run or race '{shown_name(name)}' in this folder.")
    ways = progress_of(chosen, book)
    return {
        "is_done": not any(run.is_open for run in chosen),
        "seconds_left": sweep_eta(chosen, ways),
        "runs": [_row(run, way) for run, way in zip(chosen, ways, strict=True)],
    }


def _row(run: Run, way: Progress) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run_id": run.run_id, "variant": run.spec.label, "seed": run.spec.seed,
        "status": run.status,
    }  # fmt: skip
    if run.status == "running":
        row |= {
            "phase": way.label, "step": way.step, "steps": way.steps, "loss": way.loss,
            "seconds_left": way.left_seconds,
        }  # fmt: skip
    return row | ({"reason": run.reason} if run.reason else {})


def _status_of_race(race: RaceDirectory) -> dict[str, Any]:
    view = view_race(race, time.time())
    is_done = view.status not in OPEN
    found: dict[str, Any] = {
        "is_done": is_done,
        "status": view.status,
        "seconds_left": None if is_done else max(0.0, view.seconds - view.elapsed),
        "standings": [
            {"candidate": one.label, "place": one.place, "step": one.step, "loss": one.loss}
            for one in view.standings
        ],
    }
    if view.result is not None:
        found |= {
            "answer": view.result.sentence,
            "details": list(view.result.details),
            "sweep_id": view.result.finals,
            "reason": view.result.reason,
        }
    elif is_done:
        found["reason"] = race.reason
    return found


def read_agents(environment: MutableMapping[str, str]) -> NamedTokens:
    """The tokens of `FTLAB_MCP_TOKEN`; raises `FtlabError` as `read_tokens`, and without `mcp`."""
    if find_spec("mcp") is None:
        raise FtlabError("--mcp needs the package mcp; install it with: pip install 'ftlab[mcp]'.")
    return read_tokens(VARIABLE, environment)


def agents_route(context: AppContext) -> Route:
    """The route `/mcp`; who may use it is decided before (`ftlab/tabs/gate.py`)."""
    return Route(AGENTS, _Endpoint(_server(tools_of(context))))


def _server(tools: list[AgentTool]) -> MCPServer[Any]:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations

    class Server(MCPServer[Any]):
        async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
            """The package ignores an unknown argument; a model that invents one should know."""
            schema = self._tool_input_schema(name)
            known = () if schema is None else schema.get("properties", ())
            unknown = sorted(set(arguments) - set(known))
            if schema is not None and unknown:
                raise ToolError(
                    f"{name} has no argument '{shown_name(unknown[0])}'; it takes: "
                    f"{', '.join(known) or 'none'}."
                )
            return await super().call_tool(name, arguments, context)

    threads = ThreadPoolExecutor(_MOST_AT_ONCE, "agent")  # one that waits takes none of the page

    def told(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)  # with its signature, of which the schema is made
        async def called(**named: Any) -> str:
            try:
                loop = asyncio.get_running_loop()
                who = contextvars.copy_context()  # the person whose token was sent
                found = await loop.run_in_executor(threads, partial(who.run, call, **named))
            except FtlabError as error:
                raise ToolError(str(error)) from None
            return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

        return called

    server = Server("ftlab", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING")
    for tool in tools:
        server.add_tool(
            told(tool.call),
            title=tool.title,
            annotations=ToolAnnotations(
                read_only_hint=tool.reads_only,
                destructive_hint=tool.ends,
                open_world_hint=False,
            ),
            structured_output=False,
        )
    return server


class _Endpoint:
    """The ASGI app of the route. The package's manager lives in a task of the server's loop, and
    begins with the first request."""

    def __init__(self, server: MCPServer[Any]) -> None:
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._turn:
            if self._task is None:
                await self._begin()
        await self._manager.handle_request(scope, receive, send)

    async def _begin(self) -> None:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        self._manager: StreamableHTTPSessionManager = StreamableHTTPSessionManager(
            self._server._lowlevel_server, json_response=True, stateless=True
        )
        begun = asyncio.Event()

        async def live() -> None:
            async with self._manager.run():
                begun.set()
                await asyncio.Event().wait()

        self._task = asyncio.create_task(live())
        await begun.wait()
