"""Two people behind one login page: what one keeps private, the other neither sees, ends, changes,
deletes nor exports: by the page's events and routes, the API, the tools for agents, links and
files. Each attempt is what a person could really send who knows every id."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import httpx2
import pytest
from gradio.utils import get_upload_folder
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from ftlab.basics.bearer import read_tokens
from ftlab.basics.files import assets_folder
from ftlab.basics.people import Person, asked_by
from ftlab.jobs.inputs import Access
from ftlab.methods.variant import Variant
from ftlab.playground.grid import Cell, GridDirectory, GridRequest, GridResult, new_grid
from ftlab.playground.panes import AdapterRecord, uploaded_folder, write_record
from ftlab.playground.requests import GenerateRequest
from ftlab.race.record import RaceDirectory, RaceRequest, RaceSettings, new_race
from ftlab.records.run import Annotations, RunDirectory, write_annotations
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.pack import pack_sweep
from ftlab.share.unpack import open_packed
from ftlab.tabs.gate import Limits
from ftlab.tabs.serve import Accounts, Serving
from tests.asynchronous import run as run_now
from tests.fakes import LOG, make_run, make_sweep, plausible_samples
from tests.security.servers import Running, call, log_in, press, running

SECRET = f"planted-{uuid.uuid4().hex}"
WORDS = {"root": "the operators words", "ada": "the first ones words", "bob": "the seconds words"}
TOKENS = {name: uuid.uuid4().hex for name in ("ada", "bob")}
SWEEP, OPEN_SWEEP = "20261125-120000-ada1", "20261125-130000-ada2"
BOBS = "20261125-140000-b0b1"
ADA, BOB = Person("ada", False, False), Person("bob", False, False)


@dataclass(frozen=True)
class Things:
    """What ada has, each of which holds the secret somewhere."""

    done: RunDirectory
    running: RunDirectory
    queued: RunDirectory
    race: RaceDirectory
    grid: GridDirectory
    adapter: str
    opened: str
    upload: Path

    @property
    def ids(self) -> list[str]:
        return [
            self.done.run_id, self.running.run_id, self.queued.run_id, SWEEP, OPEN_SWEEP,
            self.race.race_id, self.grid.grid_id, self.adapter, self.opened,
        ]  # fmt: skip


def make_things(runs: Path, elsewhere: Path) -> Things:
    with asked_by(ADA):
        samples = [{**row, "answer_after": SECRET} for row in plausible_samples()]
        *_, done = make_sweep(
            runs, ("full", "lora"), sweep_id=SWEEP, samples=samples, log=f"{LOG}{SECRET}\n",
            notes=[SECRET],
        )  # fmt: skip
        write_annotations(done, Annotations(tags=(SECRET[:30],), note=SECRET))
        write_adapter(done.adapter)
        running = make_run(runs, "lora", "running", sweep_id=OPEN_SWEEP, log=SECRET)
        queued = make_run(runs, "full", "queued", sweep_id=OPEN_SWEEP)
        request = SweepRequest(variants=(Variant("lora"),))
        race = new_race(runs)
        race.write_request(RaceRequest(request, RaceSettings(), (0,), owner="ada"))
        race.report({"event": "left", "label": SECRET, "reason": SECRET})
        grid = new_grid(runs.resolve())
        asked = GenerateRequest(panes=("base",), prompt="", model="bundled")
        grid.write_request(GridRequest(asked, (SECRET,), labels=("Base",), owner="ada"))
        grid.add_cell(Cell(0, 0, SECRET))
        grid.write_result(GridResult("done"))
        folder = uploaded_folder(runs) / "hers-12345678"
        write_adapter(folder)
        model = "HuggingFaceTB/SmolLM2-135M-Instruct"
        write_record(folder, AdapterRecord(SECRET, "lora", model, "0" * 64, owner="ada"))
        packed = elsewhere / "packed.zip"
        pack_sweep(sweep_data(RunStore(runs), SWEEP), packed, False)
        opened = open_packed(packed, runs).sweep_id
        upload = runs / ".ftlab/uploads/0123456789abcdef" / "hers.csv"
        upload.parent.mkdir(parents=True)
        upload.write_text(f"prompt,completion\n{SECRET},b\n")
    return Things(done, running, queued, race, grid, "adapter:hers-12345678", opened, upload)


def write_adapter(folder: Path) -> None:
    shutil.copytree(assets_folder() / "adapters" / "sql", folder)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Things]]:
    patch = pytest.MonkeyPatch()
    for module in ("tabs.api", "tabs.experiment.tab", "tabs.experiment.rates",
                   "tabs.results.actions", "jobs.control", "race.runner"):  # fmt: skip
        patch.setattr(f"ftlab.{module}.start_dispatcher", lambda runs_folder: None)
    for module in ("jobs.control", "race.start", "playground.grid", "share.merge_control"):
        patch.setattr(f"ftlab.{module}.start_detached", lambda *args: None)
    place = tmp_path_factory.mktemp("apart")
    things = make_things(place / "runs", place)
    with asked_by(BOB):
        make_sweep(place / "runs", ("lora",), sweep_id=BOBS)
    variable = "FTLAB_MCP_TOKEN"
    tokens = ",".join(f"{name}:{token}" for name, token in TOKENS.items())
    served = Serving(
        accounts=Accounts(WORDS), private=True, folders=(place,), limits=Limits(rate=None),
        agents=read_tokens(variable, {variable: tokens}),
    )  # fmt: skip
    with running(served, place / "runs") as found:
        found.page._queue.sleep_when_free = 0.002  # or thousands of events take minutes
        yield found, things
    patch.undo()


def as_person(app: Running, name: str) -> httpx.Client:
    return log_in(app.url, name, WORDS[name])


def hers(things: Things) -> dict[str, bytes]:
    """Every file of ada's, with its bytes; what the page keeps for itself is not hers."""
    folders = [
        *things.done.path.parent.glob("*-ada*"), things.race.path, things.grid.path,
        things.upload.parent, *uploaded_folder(things.done.path.parent).iterdir(),
        *(things.done.path.parent / ".ftlab/opened").iterdir(),
    ]  # fmt: skip
    return {
        str(file): file.read_bytes()
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def events_of(one: str) -> list[dict[str, Any]]:
    """What the page's own elements send with a press, for that thing."""
    return [
        {"run": one, "on": [one], "ask": "stop", "race": one, "further": one},
        {"run": one, "on": [one], "ask": "resume", "race": one},
    ]


def presses(app: Running, client: httpx.Client, one: str, things: Things) -> Iterator[str]:
    """What every event of the page answers, in one session: with nothing in its fields and with
    that thing in each, so that what one event keeps another one finds."""
    client.timeout = 120
    for turn, event in enumerate(events_of(one)):
        for number, function in app.page.fns.items():
            values = [value_of(part, one, things) for part in function.inputs]
            given = values if turn == 1 else [None] * len(values)
            yield press(client, number, given, f"of-{one}", event)[1]


@pytest.mark.slow
@pytest.mark.hostile("things of another person")
def test_no_event_of_the_page_gives_or_changes_anything_of_another_person(
    app: tuple[Running, Things], record_property: pytest.RecordProperty
) -> None:
    served, things = app
    before, tried = hers(things), 0
    with as_person(served, "bob") as client:
        for said in presses(served, client, things.done.run_id, things):
            assert SECRET not in said
            assert "too much at once" not in said
            tried += 1
    assert hers(things) == before
    assert not list((things.done.path.parent / ".ftlab").glob("cancel/*"))
    assert tried > 200
    record_property("hostile inputs", tried)


@pytest.fixture(scope="module")
def told(app: tuple[Running, Things]) -> list[str]:
    """What the same events answer to ada herself."""
    served, things = app
    with as_person(served, "ada") as client:
        return list(presses(served, client, things.done.run_id, things))


@pytest.mark.slow
def test_the_same_events_do_give_their_owner_what_they_hold(told: list[str]) -> None:
    """Or the test above could pass with events that answer nobody."""
    assert sum(SECRET in said for said in told) >= 10


def value_of(component: Any, one: str, things: Things) -> Any:
    """What a page could send of that component to mean that thing."""
    kind = type(component).__name__
    file = {"path": str(things.upload), "meta": {"_type": "gradio.FileData"}}
    if kind in ("Number", "Slider"):
        return 1
    if kind == "Checkbox":
        return False
    if kind in ("File", "UploadButton"):
        return file
    if kind in ("Textbox", "HTML", "Dropdown", "Radio", "Code"):
        return one
    return None


@pytest.mark.hostile("things of another person")
def test_no_call_of_the_api_does_either(
    app: tuple[Running, Things], record_property: pytest.RecordProperty
) -> None:
    served, things = app
    before, tried = hers(things), 0
    runs = things.done.path.parent
    with as_person(served, "bob") as client:
        ok, rows = call(client, "runs")
        assert ok
        own = {row["run_id"] for row in rows[0] if row["origin"] == "measured"}
        assert own
        assert all(run_id.startswith(BOBS) for run_id in own)
        attempts: list[tuple[str, dict[str, Any]]] = [
            *(("runs", {"sweep": one}) for one in things.ids),
            *(("results", {"text": one}) for one in [*things.ids, "ada", SECRET]),
            *(("cancel", {"run_ids": [one]}) for one in things.ids),
            *(("cancel", {"sweep_id": one}) for one in things.ids),
            *(("generate", {"prompt": "x", "runs": [one]}) for one in things.ids),
            *(("launch_sweep", {"model": str(path), "steps": 1}) for path in (
                things.done.adapter, things.done.path, runs, things.done.merged)),
            *(("launch_sweep", {"task": str(path), "steps": 1}) for path in (
                things.done.samples_file, things.done.metrics_file, things.grid.cells_file,
                runs / ".ftlab/uploads", runs / ".ftlab" / "index.tsv")),
        ]  # fmt: skip
        for name, values in attempts:
            ok, said = call(client, name, **values)
            tried += 1
            assert SECRET not in json.dumps(said), (name, values)
            if name in ("cancel", "launch_sweep"):
                assert not ok, (name, values, said)
            elif ok and name in ("runs", "results"):
                assert all("ada" not in row["run_id"] for row in said[0])
    assert hers(things) == before
    assert not list((runs / ".ftlab").glob("cancel/*"))
    record_property("hostile inputs", tried)


@pytest.mark.hostile("things of another person")
def test_no_tool_for_agents_does_either(
    app: tuple[Running, Things], record_property: pytest.RecordProperty
) -> None:
    served, things = app
    before, tried = hers(things), 0
    calls: list[tuple[str, dict[str, Any]]] = [("results", {}), ("status", {})]
    for one in things.ids:
        calls += [
            ("status", {"id": one}), ("compare", {"sweep_id": one}), ("report", {"sweep_id": one}),
            ("cancel", {"id": one}), ("cancel", {"run_ids": [one]}),
            ("results", {"sweep_id": one, "every_measure": True}), ("results", {"text": one}),
        ]  # fmt: skip
    said = agent(served, "bob", calls)
    for (name, values), (is_error, text) in zip(calls, said, strict=True):
        tried += 1
        assert SECRET not in text, (name, values)
        if name in ("compare", "report", "cancel") or (name == "status" and values):
            assert is_error, (name, values, text)
        else:
            assert not any(one in text for one in things.ids[:5]), (name, values, text)
    assert hers(things) == before
    ((is_error, text),) = agent(served, "ada", [("results", {"sweep_id": SWEEP})])
    assert not is_error
    assert things.done.run_id in text, "her own token does show it"
    record_property("hostile inputs", tried)


def agent(served: Running, name: str, calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """What each call was answered with: whether it was refused, and the text."""

    async def ask() -> list[Any]:
        headers = {"Authorization": f"Bearer {TOKENS[name]}"}
        async with httpx2.AsyncClient(headers=headers, timeout=90) as http:
            way = streamable_http_client(f"{served.url}/mcp", http_client=http)
            async with Client(way) as client:
                found = [await client.call_tool(tool, values) for tool, values in calls]
        return [(one.is_error, "\n".join(part.text for part in one.content)) for one in found]

    return list(run_now(ask()))


@pytest.mark.slow
@pytest.mark.hostile("things of another person")
def test_no_file_that_was_made_for_another_person_is_served(
    app: tuple[Running, Things], told: list[str], record_property: pytest.RecordProperty
) -> None:
    served, things = app
    answers = [json.loads(said) for said in told if said.startswith("{")]
    made = sorted({path for answer in answers for path in _paths(answer)})
    assert {Path(path).suffix for path in made} >= {".png", ".csv", ".html"}, made
    tried = 0
    with as_person(served, "ada") as hers_, as_person(served, "bob") as client:
        uploaded = hers_.post(
            "/gradio_api/upload", files={"files": ("hers.csv", f"prompt,completion\n{SECRET},b\n")}
        ).json()
        guessed = Path(get_upload_folder()) / "ftlab" / "use" / things.done.run_id / "lora.zip"
        guessed.parent.mkdir(parents=True, exist_ok=True)
        guessed.write_bytes(b"PK" + SECRET.encode())  # as an export that the browser has not got
        for path in [*made, *uploaded, str(guessed)]:
            if path != str(guessed):
                assert hers_.get(f"/gradio_api/file={path}").status_code == 200, "her own is served"
            folder, _, name = path.rpartition("/")
            for form in (path, f"/{path}", f"{folder}/./{name}", f"{folder}/x/../{name}",
                         quote(path), quote(path, safe=""), path + "?x=1"):  # fmt: skip
                for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/"):
                    answer = client.get(f"{route}{form}")
                    tried += 1
                    assert answer.status_code >= 400 or SECRET not in answer.text, (route, form)
                    assert answer.content[:2] != b"PK", (route, form)
                    assert answer.status_code != 200, (route, form)
        for query in (f"sweep={SWEEP}", f"sweep={OPEN_SWEEP}", "race=x", "queue=x&sweep=newest"):
            found = client.get(f"/watch?page=p&{query}").text
            tried += 1
            assert SECRET not in found
            assert "ada" not in found.replace("data-", "")
    record_property("hostile inputs", tried)


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


@pytest.mark.hostile("things of another person")
def test_a_page_cannot_send_the_file_of_another_person_as_its_own(
    app: tuple[Running, Things], record_property: pytest.RecordProperty
) -> None:
    served, _ = app
    tried = 0
    with as_person(served, "ada") as hers_, as_person(served, "bob") as client:
        (path,) = hers_.post(
            "/gradio_api/upload", files={"files": ("hers.csv", f"prompt,completion\n{SECRET},b\n")}
        ).json()
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for number, function in served.page.fns.items():
            kinds = [type(part).__name__ for part in function.inputs]
            if "File" in kinds or "UploadButton" in kinds:
                data = [file if kind in ("File", "UploadButton") else None for kind in kinds]
                for given in (data, [[one] if one else one for one in data]):
                    ok, said = press(client, number, given, "files", {})
                    tried += 1
                    assert SECRET not in said
                    assert not ok, (number, said)
    assert tried > 4
    record_property("hostile inputs", tried)


def test_an_admin_sees_and_ends_everything(app: tuple[Running, Things]) -> None:
    served, things = app
    with as_person(served, "root") as client:
        ok, rows = call(client, "runs", sweep=SWEEP)
        assert ok
        assert len(rows[0]) == 2
        ok, ended = call(client, "cancel", run_ids=[things.queued.run_id])
        assert ok
        assert ended[0] == [things.queued.run_id]
    (things.done.path.parent / ".ftlab/cancel" / things.queued.run_id).unlink()


def test_a_folder_of_runs_cannot_be_named_though_its_parent_may_be(tmp_path: Path) -> None:
    served = Serving(accounts=Accounts(WORDS), folders=(tmp_path,))
    runs = tmp_path / "runs"
    model = runs / "a-run" / "merged"
    model.mkdir(parents=True)
    served.access(runs).check_model(str(model))
    with pytest.raises(Exception, match="does not lie in a folder that may be named"):
        replace(served, private=True).access(runs).check_model(str(model))
    assert isinstance(served.access(runs), Access)
