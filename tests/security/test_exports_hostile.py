"""Files made for visitors, and runs changed by them, over HTTP with ids and values made up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, recorded_folder
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore, read_run
from ftlab.share.bundle import run_bundle, write_zip
from ftlab.tabs.gate import Limits, OpenRequests
from ftlab.tabs.serve import Serving
from tests.fakes import make_run
from tests.security.servers import ACCOUNTS, Running, call, log_in, press, running, tree
from tests.security.test_actions_hostile import FORGED

RUN, OPEN_RUN = "20261125-120000-ab12-01-lora", "20261125-120000-ab12-02-full"
WRONG: list[Any] = [None, 7, -1.5, True, [], [RUN], {}, {"run": RUN}, [[[]]], "a" * 100_000]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("exports")
    runs = folder / "runs"
    make_run(runs, "lora", run_id=RUN)
    make_run(runs, "full", "running", run_id=OPEN_RUN)
    outside = make_run(folder / "outside")
    (runs / "linked-run-0001").symlink_to(outside.path)
    (runs / "foreign-folder").mkdir()
    (runs / "foreign-folder" / "thesis.txt").write_text("mine")
    limits = Limits(open_requests=OpenRequests(10_000), rate=None)  # those of the gate: test_gate
    with running(Serving(accounts=ACCOUNTS, limits=limits), runs) as app:
        yield app


@pytest.fixture
def client(app: Running) -> Iterator[httpx.Client]:
    with log_in(app.url) as client:
        yield client


def named(app: Running, name: str, place: int = 0) -> int:
    """The number of an event of the page, by its handler's name."""
    found = [
        number for number, function in app.page.fns.items()
        if getattr(getattr(function.fn, "func", function.fn), "__qualname__", "").endswith(name)
    ]  # fmt: skip
    return found[place]


def fire(
    app: Running, client: httpx.Client, number: int, session: str, event: Any = None
) -> tuple[bool, str]:
    """The event with what the page holds at first; what is in a state is the server's own."""
    values = [
        None if isinstance(part, gr.State) else getattr(part, "value", None)
        for part in app.page.fns[number].inputs
    ]
    return press(client, number, values, session, event)


def shipped() -> list[str]:
    return [run.run_id for run in RunStore(Path("/nowhere"), recorded_folder()).shipped()][:2]


USES = {"zip": 0, "merged zip": 1, "script": 2}


@pytest.mark.hostile("exports")
@pytest.mark.parametrize("what", USES)
def test_a_forged_id_gives_no_file(
    what: str, app: Running, client: httpx.Client, record_property: pytest.RecordProperty
) -> None:
    ids = ["../outside", "linked-run-0001", "foreign-folder", OPEN_RUN, shipped()[0], RUN]
    before = tree(app.runs.parent)
    for number, run_id in enumerate(ids if what != "script" else ids[:3]):
        session = f"{what.replace(' ', '')}{number}"
        fire(app, client, named(app, "_wire_opening.<locals>.select"), session, {"run": run_id})
        done, said = fire(app, client, named(app, "offer.<locals>.made", USES[what]), session)
        assert done
        assert '"path"' not in said
        assert "Traceback" not in said
    assert tree(app.runs.parent) == before
    record_property("hostile inputs", len(ids))


ACTIONS = (
    [("offer.<locals>.made", place) for place in (0, 1)]
    + [("wire_use.<locals>.press", place) for place in (0, 1)]
    + [("hang.<locals>.press", place) for place in range(7)]
    + [("wire_bar.<locals>.ask", place) for place in (0, 1)]
    + [("wire_side.<locals>.save", 0)]
)
ALWAYS = [
    ("hang.<locals>.press", 3), ("wire_bar.<locals>.ask", 0), ("wire_bar.<locals>.really", 0),
]  # fmt: skip
"""Archiving and deleting what is ticked."""


@pytest.mark.slow
@pytest.mark.hostile("forged ids of runs")
def test_ids_that_the_page_does_not_offer_change_and_delete_nothing(
    app: Running,
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    record_property: pytest.RecordProperty,
) -> None:
    monkeypatch.setattr("subprocess.Popen", _no_process)
    ids: list[Any] = [*(x for x in FORGED if x.isprintable() and x.isascii()), *WRONG, *shipped()]
    ids = ids[::2]
    assert len(ids) >= len(ACTIONS)
    select, tick = named(app, "_wire_opening.<locals>.select"), named(app, "wire_bar.<locals>.tick")
    before, assets = tree(app.runs.parent), tree(assets_folder())
    sent = 0
    for number, run_id in enumerate(ids):
        fire(app, client, select, f"forged{number}", {"run": run_id})
        fire(app, client, tick, f"forged{number}", {"on": [run_id]})
        for name, place in {ACTIONS[number % len(ACTIONS)], *ALWAYS}:
            _, said = fire(app, client, named(app, name, place), f"forged{number}")
            assert "Traceback" not in said
            assert "a" * 400 not in said
            sent += 1
    assert tree(app.runs.parent) == before
    assert tree(assets_folder()) == assets
    record_property("hostile inputs", sent)


@pytest.mark.hostile("forged ids of runs")
@pytest.mark.parametrize("key", ["run_ids", "sweep_id"])
def test_cancelling_by_ids_made_up_is_one_sentence(
    key: str, app: Running, client: httpx.Client, record_property: pytest.RecordProperty
) -> None:
    before = tree(app.runs.parent)
    ids = [*FORGED[1:12:3], *shipped(), *WRONG[1:]]
    for run_id in ids:
        if key == "run_ids" and run_id == [RUN]:  # ended already: left as it is
            continue
        wrapped = [run_id] if key == "run_ids" and isinstance(run_id, str) else run_id
        if wrapped == []:
            continue
        done, said = call(client, "cancel", **{key: wrapped})
        assert not done
        assert len(str(said)) < 1_000
        assert "Traceback" not in str(said)
    assert tree(app.runs.parent) == before
    record_property("hostile inputs", len(ids))


@pytest.mark.hostile("forged ids of runs")
def test_the_queue_ends_nothing_by_an_id_made_up(
    app: Running, client: httpx.Client, record_property: pytest.RecordProperty
) -> None:
    before = tree(app.runs.parent)
    number = named(app, "build.<locals>.press")
    ids = [*FORGED[1:12:3], shipped()[0], *WRONG[::2]]
    for key in ("run", "further"):
        for run_id in ids:
            _, said = fire(app, client, number, f"queue{key}", {key: run_id})
            assert len(said) < 2_000
    assert tree(app.runs.parent) == before
    record_property("hostile inputs", 2 * len(ids))


@pytest.mark.slow
@pytest.mark.hostile("exports")
def test_many_files_at_once_are_refused_in_a_sentence_and_the_app_stays_awake(
    app: Running, client: httpx.Client, record_property: pytest.RecordProperty
) -> None:
    number = named(app, "_wire_files.<locals>.export")
    start = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        jobs = [pool.submit(fire, app, client, number, f"many{k}") for k in range(60)]
        slowest = 0.0
        while not all(job.done() for job in jobs):
            began = time.monotonic()
            httpx.get(f"{app.url}/healthz", timeout=30)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.05)
    answers = [job.result() for job in jobs]
    made = [said for done, said in answers if done and '"path"' in said]
    assert 10 <= len(made) <= 11 + (time.monotonic() - start) / 5
    refused = [said for done, said in answers if not done]
    assert all("You have asked for many files" in said for said in refused)
    record_property("hostile inputs", len(jobs))
    record_property("told", f"/healthz within {slowest:.2f} s")


def test_the_same_events_do_delete_a_run_that_was_ticked(
    app: Running, client: httpx.Client
) -> None:
    own = make_run(app.runs, run_id="20261125-120000-cd34-01-lora", sweep_id="20261125-120000-cd34")
    fire(app, client, named(app, "wire_bar.<locals>.tick"), "own", {"on": [own.run_id]})
    fire(app, client, named(app, "wire_bar.<locals>.ask"), "own")
    fire(app, client, named(app, "wire_bar.<locals>.really"), "own")
    assert not own.path.exists()


@pytest.mark.hostile("long texts in a field")
@pytest.mark.parametrize("text", ["1" * 1_000_000, "a<1;" * 200_000, " " * 1_000_000, "(" * 10**6])
def test_conditions_that_are_long_are_refused_before_they_are_searched(
    text: str, app: Running, client: httpx.Client
) -> None:
    session = f"conditions{ord(text[0])}"
    redraw = next(
        number for number, function in app.page.fns.items()
        if any(getattr(part, "elem_id", "") == "results-facets" for part in function.outputs)
    )  # fmt: skip
    began = time.monotonic()
    done, _ = press(client, named(app, "with_conditions"), [None, text], session)
    assert done
    done, said = fire(app, client, redraw, session)
    assert done
    assert "The conditions have more than 2,000 characters" in said
    assert time.monotonic() - began < 5


@pytest.mark.hostile("long texts in a field")
@pytest.mark.parametrize(
    "values",
    [
        {"model": "/" * 1_000_000}, {"task": "/" * 1_000_000}, {"settings": {"a" * 1_000_000: 1}},
        {"seeds": "1" * 1_000_000}, {"methods": ["a=" * 500_000]},
    ],
    ids=lambda values: next(iter(values)),
)  # fmt: skip
def test_a_value_of_a_million_characters_is_one_short_sentence_at_once(
    values: dict[str, Any], app: Running, client: httpx.Client
) -> None:
    began = time.monotonic()
    done, said = call(client, "launch_sweep", **values)
    assert not done
    assert len(str(said)) < 1_500
    assert time.monotonic() - began < 5


def _no_process(*_: Any, **__: Any) -> None:
    raise OSError(1, "no process in this test")


# What lies in a run's folder


def with_weights(folder: Path) -> RunDirectory:
    directory = make_run(folder)
    directory.adapter.mkdir(exist_ok=True)
    (directory.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (directory.adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    return directory


def _sparse(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, 2**42)


def _link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")


PLANTED: dict[str, Callable[[Path], None]] = {
    "sparse weights": lambda folder: _sparse(folder / "adapter_model.safetensors"),
    "sparse config": lambda folder: _sparse(folder / "adapter_config.json"),
    "linked config": lambda folder: _link(folder / "adapter_config.json"),
    "linked weights": lambda folder: _link(folder / "more.safetensors"),
    "config of a list": lambda folder: _write(folder / "adapter_config.json", "[1]"),
    "deep config": lambda folder: _write(folder / "adapter_config.json", "[" * 100_000),
}


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.hostile("exports")
@pytest.mark.parametrize("planted", PLANTED)
def test_what_was_planted_in_a_run_is_not_packed(planted: str, tmp_path: Path) -> None:
    directory = with_weights(tmp_path / "runs")
    PLANTED[planted](directory.adapter)
    target = tmp_path / "out.zip"
    with pytest.raises(FtlabError) as error:
        write_zip(run_bundle(read_run(directory)), target)
    assert len(str(error.value)) < 300
    assert not list(tmp_path.glob("*.zip*"))


@pytest.mark.hostile("exports")
def test_a_pipe_in_a_run_is_left_out_and_not_waited_for(tmp_path: Path) -> None:
    directory = with_weights(tmp_path / "runs")
    for name in ("tokenizer_config.json", "more.safetensors"):
        os.mkfifo(directory.adapter / name)
    bundle = run_bundle(read_run(directory))
    assert {*bundle.texts, *bundle.files} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
