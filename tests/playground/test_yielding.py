"""The device is yielded to a waiting process, with its memory on a GPU; answers then continue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.basics import locks
from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import Line, Signs, python_environment
from ftlab.models.decoding import OpenRows
from ftlab.playground import decoding
from ftlab.playground import engine as engine_module
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.decoding import Answer
from ftlab.playground.engine import LOADING_AGAIN
from ftlab.playground.requests import WAITING, GenerateRequest, PaneUpdate
from ftlab.playground.worker import Progress, serve
from ftlab.tasks.spec import Message
from tests.playground.card import WAITS, Card, FakeTime, OneRequest, card_in, finals_of, served
from tests.playground.conftest import SaveAdapter, Sources
from tests.playground.kinds import chat_ids
from tests.waiting import wait_until

CPU = Device("cpu", "CPU, 2 cores", 8 * 10**9)
CLEAR_LEAD = 5e-4
"""Logits; both ways of reading differ by 4e-5 at most."""

KINDS = ("base", "lora", "prompt_tuning", "prefix_tuning", "dora", "full")
SAMPLED = {"temperature": 1.2, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 5}


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, save_adapter: SaveAdapter
) -> Iterator[Sources]:
    """A runs folder for all tests of this file, with device locks of its own."""
    folder = tmp_path_factory.mktemp("yielding")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTLAB_LOCKS", str(folder / "locks"))
        yield Sources(folder / "runs", tiny_model, save_adapter)


@pytest.fixture(scope="module")
def kinds(sources: Sources) -> dict[str, str]:
    """A pane of every kind: rows of the shared batch, lanes of their own, a full model."""
    return {
        "base": "base",
        "lora": sources.adapter("lora").name,
        "prompt_tuning": sources.adapter("prompt_tuning", noise=0.5).name,
        "prefix_tuning": sources.adapter("prefix_tuning", noise=0.5).name,
        "dora": sources.adapter("dora").name,
        "full": sources.run("full").run_id,
    }


@pytest.fixture
def card(sources: Sources, one_thread: None) -> Iterator[Card]:
    with card_in(sources.runs_folder) as card:
        yield card


@pytest.fixture(scope="module")
def long(sources: Sources, kinds: dict[str, str], one_thread: None) -> GenerateRequest:
    """A prompt for which no answer depends on a near tie of two tokens.

    Tokens that are read at once give logits with other last digits than tokens that are read one by
    one, and with a near tie that decides: differently on each machine.
    """
    for prompt in ("the capital of France", "who was it", "a king", "how many", "of the sea"):
        request = GenerateRequest(
            ("base",), prompt, model=str(sources.model), precision="fp32", max_new_tokens=14
        )
        with card_in(sources.runs_folder, CPU) as card, smallest_lead() as lead:
            served(card, replace(request, panes=tuple(kinds.values())))
        if lead() > CLEAR_LEAD:
            return request
    raise AssertionError("every prompt has a near tie; name more")


@contextmanager
def smallest_lead() -> Iterator[Callable[[], float]]:
    """The smallest difference of the two largest logits in all forward passes of lanes."""
    leads: list[float] = []
    forward = OpenRows.read

    def watched(rows: OpenRows, **inputs: torch.Tensor) -> torch.Tensor:
        logits = forward(rows, **inputs)
        best = logits.topk(2).values
        leads.append(float((best[:, 0] - best[:, 1]).min()))
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenRows, "read", watched)
        yield lambda: min(leads)


def contents(updates: list[PaneUpdate]) -> list[tuple[object, ...]]:
    """The end of each pane, without times."""
    return [
        (u.kind, u.text, u.tokens, u.note, u.adapter_sha256, u.next_token)
        for u in finals_of(updates)
    ]


@pytest.mark.parametrize(("points", "settings"), [((0,), {}), ((3, 9), {}), ((1, 1), SAMPLED)])
def test_all_panes_continue_after_training_used_the_device(
    points: tuple[int, ...],
    settings: dict[str, float],
    card: Card,
    kinds: dict[str, str],
    long: GenerateRequest,
) -> None:
    request = replace(long, panes=tuple(kinds.values()), **settings)
    wanted = contents(served(card, request))
    updates = served(card, request, wanted_at=points)
    assert card.trained == len(points)
    assert card.left == [[]] * len(points), "this was still in memory when the device was yielded"
    assert contents(updates) == wanted
    assert [u[0] for u in wanted] == ["done"] * len(kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pane_of_each_kind_continues_alone(
    kind: str, card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    request = replace(long, panes=(kinds[kind],))
    wanted = contents(served(card, request))
    assert contents(served(card, request, wanted_at=[3, 6])) == wanted
    assert card.left == [[], []]


def test_chats_of_different_length_continue_and_an_ended_pane_gets_nothing_more(
    card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    """The first chat leaves three tokens of the model's context of 128."""
    room = 128 - 3 - len(chat_ids(Path(str(long.model)), "", "y", long.prompt))
    chats = (
        (Message("user", "x" * room), Message("assistant", "y")),
        (),
        (Message("user", "who?"), Message("assistant", "a king")),
    )
    panes = (kinds["lora"], "base", kinds["dora"])
    request = replace(long, panes=panes, histories=chats)
    wanted = contents(served(card, request))
    updates = served(card, request, wanted_at=[6], pane=1)
    assert contents(updates) == wanted
    assert finals_of(updates)[0].tokens == 3
    assert updates[-1].pane != 0
    end = next(place for place, update in enumerate(updates) if update.is_final)
    assert not [update for update in updates[end + 1 :] if update.pane == 0]
    assert card.left == [[]]


def test_each_pane_shows_what_it_waits_for_and_keeps_its_text(
    card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    panes = ("base", kinds["dora"])
    updates = served(card, replace(long, panes=panes), wanted_at=[4])
    for pane in (0, 1):
        own = [update for update in updates if update.pane == pane]
        after = next(place for place, u in enumerate(own) if u.text == WAITS)
        assert own[after - 1].kind == "text"
        assert [u.text for u in own[after : after + 3]] == [WAITS, LOADING_AGAIN, WAITING]
        assert all(u.kind == "status" for u in own[after : after + 3])
        assert own[after + 3].kind == "text"
        assert own[after + 3].text.startswith(own[after - 1].text)


def test_the_times_contain_neither_the_pause_nor_the_reload(
    card: Card, kinds: dict[str, str], long: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each forward pass takes a second, loading 1,000 and the training run 100."""
    clock = FakeTime()
    for module in (decoding, engine_module):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(decoding, "Answer", lambda **own: Answer(began=clock.now, **own))
    load, forward = card.made.load, OpenRows.read

    def slow_load(*arguments: Any) -> None:
        load(*arguments)
        clock.passes(1000)

    def slow_forward(rows: OpenRows, **inputs: Any) -> torch.Tensor:
        clock.passes(1)
        return forward(rows, **inputs)

    monkeypatch.setattr(card.made, "load", slow_load)
    monkeypatch.setattr(OpenRows, "read", slow_forward)
    card.while_training = lambda: clock.passes(100)
    request = replace(long, panes=("base", kinds["full"]))

    def times(*wanted_at: int) -> list[tuple[float | None, float | None]]:
        ends = finals_of(served(card, request, wanted_at))
        return [(end.first_token_seconds, end.tokens_per_second) for end in ends]

    times()  # loads for the first time, and attaches the adapters
    wanted = times()
    assert all(first and rate for first, rate in wanted)
    assert times(0) == wanted
    assert times(5, 10) == wanted
    assert card.trained == 3


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (torch.OutOfMemoryError, "out of memory; send the prompt again once its memory is free."),
        (FtlabError, "The card is full."),
    ],
)
def test_if_the_base_cannot_be_reloaded_each_pane_keeps_its_text_and_reports_it(
    error: type[Exception], why: str, card: Card, kinds: dict[str, str], long: GenerateRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    request = replace(long, panes=("base", kinds["prompt_tuning"], kinds["full"]))
    before = served(card, request)
    real = engine_module.load_base_model
    sentence = "After other work on the device the base model could not be loaded again: "

    def full_card(*arguments: object) -> None:
        part = real(*arguments)  # type: ignore[arg-type]
        card.watch("part of the base", part)
        raise error("The card is full.")

    def taken() -> None:
        monkeypatch.setattr(engine_module, "load_base_model", full_card)

    card.while_training = taken
    updates = served(card, request, wanted_at=[4])
    for found, whole in zip(finals_of(updates), finals_of(before), strict=True):
        assert (found.kind, found.text) == ("error", sentence + why)
        assert found.partial
        assert whole.text.startswith(found.partial)
        assert found.adapter_sha256 == whole.adapter_sha256
    card.note_what_is_left()
    assert card.left == [[], []], "a part of the failed load was still in memory"
    monkeypatch.setattr(engine_module, "load_base_model", real)
    assert contents(served(card, request)) == contents(before)


def test_an_adapter_replaced_or_removed_during_the_wait_is_reported_in_its_pane(
    card: Card, sources: Sources, long: GenerateRequest
) -> None:
    """The text above a hash must not come from two adapters."""
    lost, other, stays = (
        sources.adapter(kind, seed) for kind, seed in (("lora", 1), ("dora", 2), ("lora", 3))
    )
    request = replace(long, panes=("base", lost.name, other.name, stays.name))
    wanted = finals_of(served(card, request))

    def meanwhile() -> None:
        shutil.rmtree(lost.folder)
        sources.save("dora", other.folder, 4)

    card.while_training = meanwhile
    found = finals_of(served(card, request, wanted_at=[4]))
    assert [update.kind for update in found] == ["done", "error", "error", "done"]
    assert [found[0].text, found[3].text] == [wanted[0].text, wanted[3].text]
    assert "cannot be found" in found[1].text
    assert found[2].text == (
        "The weights of 'dora' were replaced while the prompt waited; send the prompt again."
    )
    for pane in (1, 2):
        assert found[pane].partial
        assert wanted[pane].text.startswith(found[pane].partial)
        assert found[pane].adapter_sha256 == wanted[pane].adapter_sha256


def test_a_cancellation_during_the_wait_frees_device_and_memory(
    card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    card.training_takes = None  # until it is told to end
    request = replace(long, panes=("base", kinds["dora"]))
    updates = served(card, request, [4], stop_at=lambda update: update.text == WAITS)
    assert not [update for update in updates if update.is_final]
    card.note_what_is_left()
    assert card.left == [[], []]
    card.end_training()
    turn = DeviceLock(card.device.id)
    turn.acquire()
    turn.release()
    assert [u.kind for u in finals_of(served(card, request))] == ["done", "done"]


def test_memory_is_freed_also_if_training_waits_when_the_answer_ends(
    card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    request = replace(long, panes=(kinds["dora"],))
    (done,) = finals_of(served(card, request))
    served(card, request, wanted_at=[done.tokens])
    served(card, request, [4], stop_at=lambda update: update.tokens == 4)
    assert card.left == [[], []]
    assert card.trained == 2


def test_a_prompt_that_waits_for_training_frees_the_models_of_an_earlier_prompt(
    card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    request = replace(long, panes=("base", kinds["dora"]))
    wanted = contents(served(card, request))
    training = DeviceLock(card.device.id)
    assert training.try_acquire()

    def waits(update: PaneUpdate) -> bool:
        if update.text == WAITS and update.pane == 1:
            card.note_what_is_left()
            training.release()
        return False

    assert contents(served(card, request, stop_at=waits)) == wanted
    assert card.left == [[]]


def test_a_loaded_base_stays_while_no_process_waits(card: Card, long: GenerateRequest) -> None:
    served(card, long)
    base = card.made.base
    served(card, long)
    assert card.made.base is base


def test_a_cpu_is_yielded_with_its_memory_kept(
    sources: Sources, kinds: dict[str, str], long: GenerateRequest
) -> None:
    """On a CPU each process's own memory is measured."""
    with card_in(sources.runs_folder, CPU) as card:
        request = replace(long, panes=("base", kinds["dora"]))
        wanted = contents(served(card, request))
        base = card.made.base
        updates = served(card, request, wanted_at=[4])
        assert contents(updates) == wanted
        assert card.made.base is base
        assert card.trained == 1
        assert {"base", "cache", "rows"} <= set(card.left[0])
        assert LOADING_AGAIN not in {update.text for update in updates}


def test_two_prompts_that_wait_for_each_other_both_end(
    sources: Sources, long: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has just loaded its base when the other waits; so each keeps the device for a while."""
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.005)
    requests = [OneRequest(long), OneRequest(long)]
    ends: list[PaneUpdate] = []

    def write(line: Line) -> None:
        if line.content is not None and line.content.is_final:
            ends.append(line.content)

    def answer(request: Any) -> None:
        engines: Any = Card(sources.runs_folder)
        serve(request, engines, write, 1, Progress(Signs()))

    threads = [threading.Thread(target=answer, args=[request]) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for request in requests:
        request.is_stopped = True
    assert [update.kind for update in ends] == ["done", "done"]


_PLAYGROUND = """
import sys, time
from pathlib import Path
import torch
from ftlab.basics.devices import Device
from ftlab.basics.processes import Signs
from ftlab.playground import worker
from ftlab.playground.engine import Engine
from ftlab.playground.decoding import Lane

class OnCard(worker.Engines):
    def engine(self):
        self._engine = self._engine or Engine(self._runs_folder, torch.device("cpu"))
        return self._engine

def slow_step(lane, tokens, step=Lane.step):
    time.sleep(0.05)
    return step(lane, tokens)

Lane.step = slow_step
torch.set_num_threads(1)
progress = worker.Progress(Signs())
write, requests = worker.line_writer(), worker.Requests(progress.heard_stop)
engines = OnCard(Path(sys.argv[1]), Device("cuda:0", "Card 0", 8 * 10**9))
worker.serve(requests, engines, write, 60, progress)
"""
"""The worker, on a device that is a GPU for its locks only."""

_TRAINING = """
import sys
from ftlab.basics.locks import DeviceLock
turn = DeviceLock("cuda:0")
print("ready", flush=True)
sys.stdin.readline()
turn.acquire()
print("has it", flush=True)
sys.stdin.readline()
turn.release()
"""


class Training:
    """A process that waits for the card, and later releases it, when told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TRAINING],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=python_environment(),
        )  # fmt: skip
        assert self.says() == "ready"

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def training() -> Iterator[Training]:
    training = Training()
    yield training
    training.process.kill()
    training.process.communicate()


@pytest.fixture(scope="module")
def client(sources: Sources) -> Iterator[PlaygroundClient]:
    folder = sources.runs_folder
    client = PlaygroundClient(folder, [sys.executable, "-c", _PLAYGROUND, str(folder.resolve())])
    yield client
    client.close()


def interrupted(
    client: PlaygroundClient,
    request: GenerateRequest,
    training: Training,
    has_it: Callable[[], object],
) -> list[PaneUpdate]:
    """All updates; training waits after three tokens, and `has_it` is called when it trains."""
    updates: list[PaneUpdate] = []
    for update in client.generate(request):
        if update.tokens == 3 and not any(earlier.tokens == 3 for earlier in updates):
            training.tell()
        is_last = update.text == WAITS and update.pane == len(request.panes) - 1
        if is_last and not any((u.text, u.pane) == (WAITS, update.pane) for u in updates):
            assert training.says() == "has it"
            has_it()
        updates.append(update)
    return updates


@pytest.mark.slow
def test_another_process_gets_the_device_during_an_answer(
    client: PlaygroundClient, training: Training, kinds: dict[str, str], long: GenerateRequest
) -> None:
    request = replace(long, panes=("base", kinds["lora"], kinds["dora"]), max_new_tokens=10)
    wanted = [record["answer"] for record in client.generate_all(request)]
    updates = interrupted(client, request, training, training.tell)
    assert [update.text for update in finals_of(updates)] == wanted
    texts = [update.text for update in updates if update.pane == 0 and update.kind == "status"]
    assert texts.index(WAITS) < texts.index(LOADING_AGAIN)


@pytest.mark.slow
@pytest.mark.fault("playground's worker killed while training has its GPU")
def test_a_worker_killed_while_it_waits_does_not_block_the_device(
    client: PlaygroundClient, training: Training, long: GenerateRequest
) -> None:
    def kill() -> None:
        assert client.process_id is not None
        os.kill(client.process_id, signal.SIGKILL)

    (end,) = finals_of(interrupted(client, long, training, kill))
    assert end.kind == "error"
    assert "ended before it had answered (killed" in end.text
    turn = DeviceLock("cuda:0")
    assert not turn.try_acquire(), "the training run has it"
    training.tell()
    wait_until(turn.try_acquire, 10)
    turn.release()
