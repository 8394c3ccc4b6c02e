"""The running app in each of its four modes, asked by a stranger for everything there is."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.files import assets_folder
from ftlab.basics.log import app_log
from ftlab.tabs.gate import Limits, OpenRequests
from ftlab.tabs.hub_login import COOKIE, EndedLogins, HubLogin, HubPerson, parse_users
from ftlab.tabs.serve import Serving
from tests.fakes import make_run
from tests.hub_people import PeopleHub
from tests.hub_server import Hub, serving
from tests.security.attack.fire import BOUND_SECONDS, Attack, Probe, probed
from tests.security.attack.raw import on_lines, send_raw
from tests.security.attack.shots import (
    Shot,
    first_value,
    on_bodies,
    on_calls,
    on_events,
    on_headers,
    on_routes,
)
from tests.security.servers import ACCOUNTS, Running, log_in, running, tree
from tests.security.test_hub_login import HOST, STATIC, signed
from tests.security.test_hub_login import OPEN as OPEN_FOR_HUB
from tests.security.test_login import OPEN

RUN = "20261125-120000-ab12-01-lora"
MOST_PRINTED = 4_000  # bytes, of thousands of requests
ALL_ANSWERED = Limits(open_requests=OpenRequests(10_000), rate=None)
"""So that the attack reaches the app, and not only the limits of a visitor."""

HEALTHY_SECONDS = 0.3  # but for pauses of a machine that runs other tests beside these


@pytest.fixture(autouse=True)
def no_search_for_sniffio(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpcore looks for it at each request, in every folder of `sys.path` where it is missing."""
    if importlib.util.find_spec("sniffio") is None:
        monkeypatch.setitem(sys.modules, "sniffio", None)  # type: ignore[arg-type]


@contextmanager
def attacked(served: Serving, folder: Path) -> Iterator[Running]:
    """The app in that mode, with a run whose log holds a secret, and its own log beside it."""
    make_run(folder / "runs", "lora", run_id=RUN, log="planted-secret")
    with (
        serving(Hub()) as hub,
        app_log(folder / "log"),
        served.runs_folder(folder / "runs") as runs,
        running(with_provider(served, PeopleHub(hub)), runs) as app,
    ):
        yield app


def with_provider(served: Serving, people: PeopleHub) -> Serving:
    if served.hub is None:
        return served
    return replace(served, hub=replace(served.hub, provider=people.hub.address))


Told = Callable[[str, object], None]


def check(attack: Attack, probe: Probe, capfd: pytest.CaptureFixture[str], record: Told) -> None:
    """No answer was one that is not promised, the app stayed awake, and it printed next to
    nothing."""
    printed = "".join(capfd.readouterr())
    told = f"{attack.sent} requests in {attack.seconds:.0f} s: {attack.statuses}"
    assert not attack.broken, "\n".join(
        [told, f"{len(attack.broken)} broken:", *attack.broken[:40]]
    )
    assert len(printed) < MOST_PRINTED, printed[:MOST_PRINTED]
    assert probe.share_within(HEALTHY_SECONDS) > 0.8, sorted(probe.seconds)[-50:]
    assert max(probe.seconds) < BOUND_SECONDS
    record("hostile inputs", attack.sent)
    record("told", f"{told}; /healthz within {max(probe.seconds):.2f} s")


class NeverEnded(EndedLogins):
    """So that an attack goes on after it has logged out."""

    def end(self, person: HubPerson) -> None:
        return


HUB = HubLogin("id", "a secret", "openid", "", HOST, parse_users("ada"), NeverEnded())
"""Its provider is one of the tests' own, while an app runs with it."""

MODES = {
    "on loopback": Serving(),
    "with a login": Serving(accounts=ACCOUNTS, limits=ALL_ANSWERED),
    "as a public demo": Serving(space="ada/ftlab", limits=ALL_ANSWERED),
    "with Hugging Face": Serving(space="ada/ftlab", hub=HUB, limits=ALL_ANSWERED),
}
SAMPLE = 7
"""Of so many requests the slow attacks send one, so that each kind is among them."""
EVENT_SAMPLE = 3
"""Of so many presses one is sent, so that each event is among them."""


@pytest.mark.hostile("requests to a running app")
@pytest.mark.parametrize(
    ("mode", "every"),
    [
        ("on loopback", 1),
        pytest.param("with a login", SAMPLE, marks=pytest.mark.slow),
        pytest.param("as a public demo", SAMPLE, marks=pytest.mark.slow),
        pytest.param("with Hugging Face", SAMPLE, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_given_away_and_nobody_is_held_up(
    mode: str,
    every: int,
    tmp_path: Path,
    started: list[Any],
    capfd: pytest.CaptureFixture[str],
    record_property: Told,
) -> None:
    served = MODES[mode]
    with attacked(served, tmp_path) as app, probed(app.url) as probe:
        shipped, before, planted = tree(assets_folder()), tree(app.runs), tree(app.runs / RUN)
        kinds = (on_routes, on_bodies, on_headers, on_calls)
        attack = Attack(app.url)
        if served.logs_in:
            attack = Attack(app.url, may_answer=is_open if served.hub is None else is_open_for_hub)
            for shots in kinds:
                attack.fire(shots(app.page)[::every])
            assert tree(app.runs) == before
            attack.log_in(cookies_of(served, app.url))
        for shots in kinds:
            attack.fire(shots(app.page)[::every])
        attack.press(on_events(app.page)[:: max(every, EVENT_SAMPLE)])
        attack.sent += send_raw(app.url, on_lines(), attack.broken)
        assert tree(assets_folder()) == shipped
        assert tree(app.runs / RUN) == planted
        assert not served.is_demo or tree(app.runs) == before
    check(attack, probe, capfd, record_property)
    assert attack.sent >= 3_000 / every
    # Outside a demo some of the changed launches are still right, and the first starts it.
    allowed = () if served.is_demo else ("ftlab.jobs.dispatcher",)
    assert processes(started, *allowed) == []


def cookies_of(served: Serving, url: str) -> dict[str, str]:
    """The cookies of somebody who has logged in."""
    if served.hub is None:
        return dict(log_in(url).cookies)
    return {COOKIE: signed(served.hub.key)}


def is_open_for_hub(shot: Shot) -> bool:
    path = (shot.route or shot.path).rstrip("/") or "/"
    return path in OPEN_FOR_HUB or path.startswith(STATIC)


def is_open(shot: Shot) -> bool:
    """Whether that is a route that answers those who have not logged in."""
    path = (shot.route or shot.path).rstrip("/") or "/"
    return path in OPEN


def processes(started: list[Any], *allowed: str) -> list[Any]:
    """Those that were started besides the playground's worker, and what whoever may train starts
    with a Launch that is right but for nothing that counts."""
    known = ("fake_worker.py", *allowed)
    return [command for command in started if not any(name in str(command) for name in known)]


@pytest.mark.slow
@pytest.mark.hostile("states that a browser makes up")
def test_a_state_that_a_browser_makes_up_names_no_run(
    tmp_path: Path, started: list[Any], record_property: Told
) -> None:
    """What was ticked, or asked to be deleted, is what the app itself keeps of the session."""
    with attacked(Serving(), tmp_path) as app:
        before = tree(app.runs)
        made_up: list[Any] = [[RUN], {"run": RUN, "ids": [RUN]}]
        calls = [
            {"fn_index": number, "data": [made if is_kept else value for is_kept, value in inputs]}
            for number, inputs in with_states(app.page)
            for made in made_up
        ]
        attack = Attack(app.url)
        attack.press(calls)
        assert attack.broken == []
        assert tree(app.runs) == before
        assert app.context.store.runs()[-1].run_id == RUN
    assert processes(started) == []
    record_property("hostile inputs", len(calls))


def with_states(page: gr.Blocks) -> Iterator[tuple[int, list[tuple[bool, Any]]]]:
    """Each event that reads what is kept of a session: for each input, whether it is such a one,
    and what the page sends for it."""
    for number, function in page.fns.items():
        kept = [isinstance(part, gr.State) for part in function.inputs]
        if function.fn is not None and any(kept):
            yield number, list(zip(kept, map(first_value, function.inputs), strict=True))
