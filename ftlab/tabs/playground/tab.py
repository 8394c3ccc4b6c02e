"""The Playground tab: its components and event handlers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.playground.panes import UPLOADED
from ftlab.playground.requests import MAX_PANES
from ftlab.playground.uploaded import forget_adapter
from ftlab.settings.generation import GenerationSettings
from ftlab.settings.schema import Field, fields_of
from ftlab.tabs.context import (
    NO_OVERLAY,
    QUIET,
    AppContext,
    Asked,
    Links,
    TabSpec,
    is_being_answered,
    opened,
    taken,
)
from ftlab.tabs.gate import visitor_of
from ftlab.tabs.playground import api, grid
from ftlab.tabs.playground import vote as blind_vote
from ftlab.tabs.playground.links import (
    LONGEST_PANES,
    LONGEST_PROMPT,
    panes_address,
    panes_value,
    read_panes,
)
from ftlab.tabs.playground.session import (
    CHAT,
    SINGLE,
    Session,
    ask,
    choose,
    compare,
    in_order,
    judge_bases,
    new_chat,
    pane_html,
    reveal,
    stop,
    vouch,
)
from ftlab.tabs.playground.share import ShareRow, share_updates
from ftlab.tabs.playground.view import (
    EXAMPLES,
    FIRST_PANES,
    MODES,
    PRECISION_NOTE,
    SETTINGS,
    Setup,
    describe_settings,
    engine_html,
    errors_of,
    example_prompts,
    free_place,
    make_request,
    room_choices,
    setup,
    setup_again,
    upload_files,
)
from ftlab.tabs.widgets import (
    BARE,
    H,
    field_error,
    live,
    note_html,
    small_button,
    warn,
)

AGAINST = [("Differences: off", -1)] + [(f"Against pane {n + 1}", n) for n in range(MAX_PANES)]


class AskBar:
    """The components above the panes."""

    def __init__(self, models: list[tuple[str, str]], model: str, may_vote: bool = True) -> None:
        with gr.Row(elem_classes="ft-ask"):
            self.prompt = live(
                gr.Textbox, label="Prompt", lines=3, max_lines=8, scale=1, min_width=240,
                placeholder="One prompt for all panes; Shift+Enter sends it",
                elem_id="pg-prompt", **BARE,
            )  # fmt: skip
            with gr.Column(scale=0, min_width=92):
                self.send = gr.Button("Send", variant="primary", elem_id="pg-send")
                self.stop = gr.Button("Stop", variant="stop", size="sm", elem_id="pg-stop")
        self.prompt_error = H("")
        with gr.Row(elem_classes="ft-tools"):
            self.examples = [small_button("…", 290, visible=False) for _ in range(EXAMPLES)]
        with gr.Row(elem_classes="ft-tools"):
            self.mode = live(
                gr.Radio, MODES, value=SINGLE, label="Mode", elem_classes="ft-seg", scale=0,
                min_width=270, **BARE,
            )  # fmt: skip
            self.model = live(
                gr.Dropdown, models, value=model, label="Base model", visible=len(models) > 1,
                scale=0, min_width=240, **BARE,
            )  # fmt: skip
            self.against = live(
                gr.Dropdown, AGAINST, value=-1, label="Differences against", scale=0,
                min_width=170, **BARE,
            )  # fmt: skip
            self.blind = live(
                gr.Checkbox, False, label="Blind vote", container=False, scale=0, min_width=110,
                visible=may_vote,
            )  # fmt: skip
            self.fresh = small_button("New chat", 90, visible=False)
        fields = fields_of(GenerationSettings)
        usual = describe_settings({name: fields[name].default for name in SETTINGS})
        with gr.Accordion(usual, open=False, elem_classes="ft-fold") as self.folded:
            with gr.Row(elem_classes="ft-params"):
                self.settings = [_component(fields[name]) for name in SETTINGS if name != "system"]
            self.settings.append(_component(fields["system"]))
            H(note_html(PRECISION_NOTE))
        self.settings_error = H("")


def _component(field: Field) -> Any:
    """The component of one of `SETTINGS`."""
    common = {"value": field.default, "label": field.label, "min_width": 110}
    if field.kind == "choice":
        choices = [(label, value) for value, label in (field.setting.choices or {}).items()]
        return live(gr.Dropdown, choices, **common)
    if field.kind == "text":
        return live(gr.Textbox, lines=1, max_lines=4, **common)
    return live(gr.Number, step=1 if field.kind == "whole" else 0.05, **common)


class PanePool:
    """The fixed pool of panes and the components that select their sources.

    `screen` is what changes with the answers: see `_shown`.
    """

    def __init__(
        self, choices: list[tuple[str, str]], chosen: Sequence[str], may_upload: bool = True
    ) -> None:
        with gr.Row(elem_classes="ft-tools"):
            self.count = live(
                gr.Radio, [(str(n), n) for n in range(1, MAX_PANES + 1)], value=FIRST_PANES,
                label="Panes", elem_classes="ft-seg", scale=0, min_width=200, elem_id="pg-count",
                **BARE,
            )  # fmt: skip
            self.upload = gr.UploadButton(
                "Upload an adapter …", size="sm", scale=0, min_width=140, file_count="multiple",
                file_types=[".zip", ".json", ".safetensors"], visible=may_upload,
            )  # fmt: skip
            self.forget = small_button("Forget it", 80, visible=False)
            self.engine = H("", min_width=150)
            self.unload = small_button("Unload", 76, visible=False)
        self.error = H("")
        self.room = live(gr.Radio, [], label="Who makes room?", visible=False, elem_id="pg-room")
        self.newcomer = gr.State("")
        self.columns: list[gr.Column] = []
        self.choosers: list[gr.Dropdown] = []
        self.vouchers: list[gr.Button] = []
        self.answers: list[gr.HTML] = []
        with gr.Row(equal_height=True, elem_classes="ft-panes"):
            for place in range(MAX_PANES):
                self._add_pane(place, choices, chosen[place])
        self.share = ShareRow()
        self.screen = [*self.answers, *self.share.outputs]

    def _add_pane(self, place: int, choices: list[tuple[str, str]], chosen: str) -> None:
        number = place + 1
        with gr.Column(
            min_width=210, elem_classes="ft-sheet ft-pane", visible=place < FIRST_PANES
        ) as column:
            chooser = live(
                gr.Dropdown, choices, value=chosen, label=f"Pane {number}",
                elem_id=f"pg-pane-{number}", **BARE,
            )  # fmt: skip
            voucher = gr.Button(
                "It was trained on this base", size="sm", visible=False,
                elem_id=f"pg-vouch-{number}",
            )  # fmt: skip
            self.answers.append(H(elem_id=f"pg-answer-{number}"))
        self.columns.append(column)
        self.choosers.append(chooser)
        self.vouchers.append(voucher)


_FIRST_STEPS = (
    '<p class="meta"><b>One base, three specialists.</b> These adapters ship with ftlab; choose an '
    "example and press Send. Runs from the Experiment tab can answer here once they are done.</p>"
)
_PRIVATE: dict[str, Any] = NO_OVERLAY | {"api_visibility": "private"}


def build(context: AppContext, links: Links) -> None:
    """Builds the tab and its events; call it inside the tab."""
    start = setup(context.store.runs(), context.runs_folder)
    with gr.Column(elem_classes="ft-sheet"):
        ask_bar = AskBar(start.models, start.model, context.access.may_train)
    empty = H(_FIRST_STEPS, visible=not start.has_runs)
    panes = PanePool(start.choices, start.panes, context.access.may_upload)
    vote = blind_vote.VoteSheet()
    session = gr.State(Session())
    _wire_choice(context, ask_bar, panes, empty, session, links.asked["panes"])
    _wire_prompt(ask_bar, links.asked["prompt"])
    panes.share.wire(session, ask_bar.against, ask_bar.prompt, panes.count, panes.choosers)
    _wire_asking(context, ask_bar, panes, vote, session)
    _wire_vote(context, ask_bar, panes, vote, session)
    grid.build(context, panes.choosers, panes.count, ask_bar.model, ask_bar.settings)
    api.add_endpoint(context.playground)


def _wire_choice(
    context: AppContext,
    ask_bar: AskBar,
    panes: PanePool,
    empty: gr.HTML,
    session: gr.State,
    link: gr.State,
) -> None:
    """Events that select models, runs, uploaded adapters and the number of panes."""

    def enter(
        asked: Asked[str] | None, had_runs: bool | None, session: Session, model: str | None,
        count: int, *chosen: str | None,
    ) -> list[Any]:  # fmt: skip
        """Shows the panes of an address, else the chosen ones; in one answer, which is drawn once.

        `had_runs` is `None` at first: what the page was built with is no visitor's selection. Later
        the answers are left alone where the panes stay: an answer that ends meanwhile is newer.
        """
        if is_being_answered(asked):
            return [gr.skip()] * len(entered)
        link = taken(asked)
        runs, folder = context.store.runs(), context.runs_folder
        is_shown = had_runs is not None and link == panes_value(chosen[:count])
        linked = read_panes(link, runs, folder) if link and not is_shown else None
        for sentence in linked.said if linked else ():
            warn(sentence)
        if linked and linked.panes:
            now = setup(runs, folder, linked.model or model, linked.panes)
        elif had_runs is None:
            now = setup(runs, folder)
        else:
            now = setup_again(runs, folder, had_runs, model, chosen)
        is_linked = bool(linked and linked.panes)  # the first runs do not replace them either
        count = len(linked.panes) if linked and linked.panes else count
        return [
            count,
            now.has_runs or is_linked or bool(had_runs),
            gr.update(choices=now.models, value=now.model, visible=len(now.models) > 1),
            gr.update(visible=not now.has_runs),
            engine_html(context.playground),
            gr.update(visible=_may_unload(context)),
            *_choosers(now),
            *take(session, now.model, count, *now.panes),
        ]

    def take(session: Session, model: str, count: int, *chosen: str | None) -> list[Any]:
        session = choose(session, chosen[:count], context.runs_folder)
        judge_bases(session, model)
        sources = [pane.source for pane in session.panes if pane.source is not None]
        found = example_prompts(sources, context.held_out)
        buttons = [gr.update(value=prompt.label, visible=True) for prompt in found]
        buttons += [gr.update(visible=False)] * (EXAMPLES - len(found))
        columns = [gr.update(visible=p < len(chosen[:count])) for p in range(MAX_PANES)]
        uploaded = gr.update(visible=any(source.name.startswith(UPLOADED) for source in sources))
        texts = [prompt.text for prompt in found]
        if session.selection == session.drawn:
            updates = [gr.skip()] * len(judged)
        else:
            updates = [*_vouchers(context, session), *_shown(session)]
            session.drawn = session.selection
        address = panes_address(chosen[:count])
        return [session, texts, uploaded, address, *buttons, *columns, *updates]

    def chosen_again(model: str, wanted: Sequence[str | None]) -> list[Any]:
        return _choosers(setup(context.store.runs(), context.runs_folder, model, wanted))

    def upload(files: list[str] | None, model: str, count: int, *chosen: str | None) -> list[Any]:
        if not files:
            return [gr.skip()] * (4 + MAX_PANES)
        try:
            source = upload_files(files, context.runs_folder, model, context.access)
        except FtlabError as error:
            return [field_error([str(error)]), *[gr.skip()] * (3 + MAX_PANES)]
        found = free_place(chosen, count)
        if found is None and source.name not in chosen:
            now = setup(context.store.runs(), context.runs_folder, model, chosen)
            label = f"Six panes are taken. Who makes room for {source.label}?"
            room = gr.update(
                choices=room_choices(chosen, now.choices), value=None, label=label, visible=True
            )
            return ["", gr.skip(), room, source.name, *_choosers(now)]
        place, count = found or (chosen.index(source.name), count)
        wanted = [*chosen[:place], source.name, *chosen[place + 1 :]]
        return ["", count, _no_room(), "", *chosen_again(model, wanted)]

    def make_room(place: int | None, newcomer: str, model: str, *chosen: str | None) -> list[Any]:
        """Puts the new adapter into the chosen pane, or into none."""
        if place is None or not newcomer:
            return [gr.skip()] * (2 + MAX_PANES)
        wanted = [newcomer if n == place else pane for n, pane in enumerate(chosen)]
        return [_no_room(), "", *chosen_again(model, wanted)]

    def vouched(session: Session, place: int, model: str) -> list[Any]:
        try:
            context.access.check_upload()
            vouch(session, place, model, context.runs_folder)
        except FtlabError as error:
            return [field_error([str(error)]), *[gr.skip()] * (1 + len(judged))]
        return ["", session, *_vouchers(context, session), *_shown(session)]

    def forget(model: str, count: int, *chosen: str | None) -> list[Any]:
        """Deletes the uploaded adapters in open panes."""
        gone = {pane for pane in chosen[:count] if pane and pane.startswith(UPLOADED)}
        try:
            for name in gone:
                forget_adapter(context.runs_folder, name)
        except FtlabError as error:
            return [field_error([str(error)]), *[gr.skip()] * MAX_PANES]
        wanted = ["" if pane in gone else pane for pane in chosen]
        return ["", *chosen_again(model, wanted)]

    texts, had_runs = gr.State([]), gr.State(None)
    chosen = [ask_bar.model, panes.count, *panes.choosers]
    judged = [*panes.vouchers, *panes.screen]
    taking: dict[str, Any] = {
        "inputs": [session, *chosen],
        "outputs": [
            session, texts, panes.forget, panes.share.link_note, *ask_bar.examples, *panes.columns,
            *judged,
        ],
        **_PRIVATE,
    }  # fmt: skip
    entering = [had_runs, *taking["inputs"]]
    entered = [
        panes.count, had_runs, ask_bar.model, empty, panes.engine, panes.unload,
        *panes.choosers, *taking["outputs"],
    ]  # fmt: skip
    gr.on(
        [opened(), link.change],
        enter, [link, *entering], entered, trigger_mode="always_last", **_PRIVATE,
    )  # fmt: skip
    ask_bar.model.input(
        lambda *given: enter(None, *given),
        entering,
        entered,
        trigger_mode="always_last",
        **_PRIVATE,
    )
    # Not `change`: each of six choosers that a handler sets would draw all panes anew.
    chosen_by_hand = [chooser.input for chooser in panes.choosers]
    gr.on([panes.count.input, *chosen_by_hand], take, trigger_mode="always_last", **taking)
    panes.upload.upload(
        upload,
        [panes.upload, *chosen],
        [panes.error, panes.count, panes.room, panes.newcomer, *panes.choosers],
        **_PRIVATE,
    ).then(take, **taking)
    panes.room.input(
        make_room,
        [panes.room, panes.newcomer, ask_bar.model, *panes.choosers],
        [panes.room, panes.newcomer, *panes.choosers],
        **_PRIVATE,
    ).then(take, **taking)
    for place, button in enumerate(panes.vouchers):
        button.click(
            lambda session, model, place=place: vouched(session, place, model),
            [session, ask_bar.model],
            [panes.error, session, *judged],
            **_PRIVATE,
        )
    panes.forget.click(forget, chosen, [panes.error, *panes.choosers], **_PRIVATE).then(
        take, **taking
    )
    for place, button in enumerate(ask_bar.examples):
        button.click(
            lambda texts, place=place: texts[place] if place < len(texts) else gr.skip(),
            texts,
            ask_bar.prompt,
            **_PRIVATE,
        )
    panes.unload.click(lambda: unload(context), None, None, **_PRIVATE).then(
        lambda: [engine_html(context.playground), gr.update(visible=False)],
        None,
        [panes.engine, panes.unload],
        **_PRIVATE,
    )


def _wire_prompt(ask_bar: AskBar, link: gr.State) -> None:
    """Fills in the prompt of an address; the visitor sends it."""

    def fill_in(asked: Asked[str] | None) -> Any:
        return taken(asked) or gr.skip()

    link.change(fill_in, link, ask_bar.prompt, **QUIET)


def _wire_asking(
    context: AppContext,
    ask_bar: AskBar,
    panes: PanePool,
    vote: blind_vote.VoteSheet,
    session: gr.State,
) -> None:
    """Events for Send, Stop, a new chat, and the differences between answers."""
    errors = [ask_bar.prompt_error, ask_bar.settings_error, panes.error]
    screen = [*errors, *panes.screen, *vote.outputs]

    def sheet(session: Session) -> list[Any]:
        if not session.is_blind:
            return [gr.skip()] * len(vote.outputs)
        return blind_vote.sheet_updates(session, context.runs_folder)

    def answer(
        request: gr.Request,
        session: Session,
        prompt: str,
        mode: str,
        model: str,
        against: int,
        blind: bool,
        count: int,
        *rest: Any,
    ) -> Iterator[list[Any]]:
        chosen, values = rest[:MAX_PANES][:count], rest[MAX_PANES:]
        choose(session, chosen, context.runs_folder)  # the page's selection answers
        judge_bases(session, model)
        try:
            prompted = make_request(prompt, model, mode, dict(zip(SETTINGS, values, strict=True)))
        except InvalidRequest as error:
            session.errors = error.errors
            yield [*_errors(session), *[gr.skip()] * (len(screen) - len(errors))]
            return
        seed = secrets.randbits(32) if blind else None
        last: list[Any] = [None] * len(screen)
        answers = ask(
            session, prompted, mode == CHAT, context.playground, context.held_out, seed,
            visitor=visitor_of(request),
        )  # fmt: skip
        for now in answers:
            new = [*_errors(now), *_shown(now), *sheet(now)]
            yield [gr.skip() if a == b else a for a, b in zip(new, last, strict=True)]
            last = new
        if not blind and against >= 0:
            compare(session, against)
            yield [*_errors(session), *_shown(session), *sheet(session)]

    def after(session: Session, prompt: str, mode: str) -> list[Any]:
        answered = mode == CHAT and not session.errors
        return [
            "" if answered else prompt,
            engine_html(context.playground),
            gr.update(visible=_may_unload(context)),
            *blind_vote.sheet_updates(session, context.runs_folder),
        ]

    def ended(session: Session) -> list[Any]:
        shown = _shown(stop(session))
        return [*shown, *blind_vote.sheet_updates(session, context.runs_folder)]

    answering = gr.on(
        [ask_bar.send.click, ask_bar.prompt.submit],
        answer,
        [
            session, ask_bar.prompt, ask_bar.mode, ask_bar.model, ask_bar.against, ask_bar.blind,
            panes.count, *panes.choosers, *ask_bar.settings,
        ],
        screen,
        concurrency_limit=16,  # the client queues them and reports who waits
        **_PRIVATE,
    )  # fmt: skip
    tell = {
        "inputs": [session, ask_bar.prompt, ask_bar.mode],
        "outputs": [ask_bar.prompt, panes.engine, panes.unload, *vote.outputs],
    }
    answering.then(after, **tell, **_PRIVATE).then(
        None, ask_bar.blind, None, js="(blind) => window.ft.readyToVote(blind)", **_PRIVATE
    )
    ask_bar.stop.click(
        ended, session, [*panes.screen, *vote.outputs], cancels=[answering], **_PRIVATE
    )
    ask_bar.fresh.click(
        lambda session: _shown(new_chat(session)), session, panes.screen, **_PRIVATE
    )
    ask_bar.mode.change(
        lambda mode: gr.update(visible=mode == CHAT), ask_bar.mode, ask_bar.fresh, **_PRIVATE
    )
    ask_bar.against.change(
        lambda session, against: _shown(compare(session, against)),
        [session, ask_bar.against],
        panes.screen,
        **_PRIVATE,
    )
    gr.on(
        [setting.change for setting in ask_bar.settings],
        lambda *values: gr.update(
            label=describe_settings(dict(zip(SETTINGS, values, strict=True)))
        ),
        ask_bar.settings,
        ask_bar.folded,
        **_PRIVATE,
    )


def _wire_vote(
    context: AppContext,
    ask_bar: AskBar,
    panes: PanePool,
    vote: blind_vote.VoteSheet,
    session: gr.State,
) -> None:
    def shown(session: Session) -> list[Any]:
        updates = blind_vote.sheet_updates(session, context.runs_folder)
        return [session, *updates, *_shown(session)]

    def blinded(session: Session, blind: bool) -> list[Any]:
        """Hides the dropdowns during a blind vote, as they show the names."""
        choosers = [gr.update(visible=not blind) for _ in panes.choosers]
        hidden = [gr.update(visible=False) for _ in panes.vouchers]
        buttons = hidden if blind else _vouchers(context, session)
        return [*shown(in_order(session)), gr.update(visible=blind), *choosers, *buttons]

    outputs = [session, *vote.outputs, *panes.screen]
    ask_bar.blind.change(
        blinded,
        [session, ask_bar.blind],
        [*outputs, vote.sheet, *panes.choosers, *panes.vouchers],
        **_PRIVATE,
    )
    for place, button in (*enumerate(vote.letters), (None, vote.tie)):

        def cast(session: Session, place: int | None = place) -> list[Any]:
            return shown(blind_vote.cast(session, place, context.runs_folder))

        button.click(cast, session, outputs, **_PRIVATE)
    vote.skip.click(lambda session: shown(reveal(session)), session, outputs, **_PRIVATE)


def _no_room() -> Any:
    """Hides the question which pane makes room."""
    return gr.update(value=None, visible=False)


def _choosers(now: Setup) -> list[Any]:
    return [gr.update(choices=now.choices, value=pane) for pane in now.panes]


def _vouchers(context: AppContext, session: Session) -> list[Any]:
    """Shows the confirm button in each pane whose adapter names another base than the page's."""
    may = context.access.may_upload
    return [gr.update(visible=may and pane.name in session.doubts) for pane in session.panes]


def _may_unload(context: AppContext) -> bool:
    """False in a demo: all visitors share the engine, which unloads by itself when idle."""
    return context.access.may_train and context.playground.is_loaded


def unload(context: AppContext) -> None:
    if _may_unload(context):
        context.playground.close()


def _shown(session: Session) -> list[Any]:
    """Updates for `PanePool.screen`."""
    return [*(pane_html(pane) for pane in session.shown()), *share_updates(session)]


def _errors(session: Session) -> list[str]:
    """HTML: the error messages beside prompt, settings and panes."""
    errors = session.errors
    return [
        errors_of(errors, "prompt"),
        errors_of(errors, *SETTINGS, "mode"),
        errors_of(errors, "panes", "model", "histories"),
    ]


TAB = TabSpec(
    "Playground",
    4,
    build,
    address=("panes", "prompt"),
    longest={"panes": LONGEST_PANES, "prompt": LONGEST_PROMPT},
)
