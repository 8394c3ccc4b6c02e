"""A GPU's memory is given back before its turn is, and the answers go on as if nothing had been."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
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
from ftlab.basics.processes import Line, python_environment
from ftlab.playground import decoding, engine
from ftlab.playground import engine as engine_module
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.decoding import Answer, Lane
from ftlab.playground.engine import LOADING_AGAIN
from ftlab.playground.requests import WAITING, GenerateRequest, PaneUpdate
from ftlab.playground.worker import serve
from ftlab.records.run import RunDirectory
from ftlab.tasks.spec import Message
from tests.playground.card import WAITS, Card, FakeTime, OneRequest, card_in, finals_of, served
from tests.playground.conftest import Brought
from tests.playground.kinds import chat_ids

AddRun = Callable[..., RunDirectory]
AddAdapter = Callable[..., Brought]

CPU = Device("cpu", "CPU, 2 cores", 8 * 10**9)
CLEAR_LEAD = 5e-4
"""Logits; both ways of reading differ by 4e-5 at most."""

SAMPLED = {"temperature": 1.2, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 5}


@pytest.fixture
def card(runs_folder: Path, one_thread: None) -> Iterator[Card]:
    with card_in(runs_folder) as card:
        yield card


@pytest.fixture
def kinds(add_run: AddRun, add_adapter: AddAdapter) -> dict[str, str]:
    """A pane of every make: rows of the shared batch, lanes of their own, weights of its own."""
    return {
        "base": "base",
        "lora": add_adapter("lora").name,
        "prompt_tuning": add_adapter("prompt_tuning", noise=0.5).name,
        "prefix_tuning": add_adapter("prefix_tuning", noise=0.5).name,
        "dora": add_adapter("dora").name,
        "full": add_run("full").run_id,
    }


@pytest.fixture
def long(
    ask: GenerateRequest, kinds: dict[str, str], runs_folder: Path, one_thread: None
) -> GenerateRequest:
    """A prompt at which no answer hangs on a near tie of two tokens.

    What is read at once differs in the last digits from what was read token by token, and where
    two tokens are as good as equal that decides: another on each machine.
    """
    for prompt in ("the capital of France", "who was it", "a king", "how many", "of the sea"):
        request = replace(ask, prompt=prompt, max_new_tokens=24)
        with card_in(runs_folder, CPU) as card, smallest_lead() as lead:
            served(card, replace(request, panes=tuple(kinds.values())))
        if lead() > CLEAR_LEAD:
            return request
    raise AssertionError("every prompt has a near tie; name more")


@contextmanager
def smallest_lead() -> Iterator[Callable[[], float]]:
    """Of the best token's logit over the next one's, in all that lanes compute meanwhile."""
    leads: list[float] = []
    forward = Lane._forward

    def watched(lane: Lane, **inputs: torch.Tensor) -> torch.Tensor:
        logits = forward(lane, **inputs)
        best = logits.topk(2).values
        leads.append(float((best[:, 0] - best[:, 1]).min()))
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lane, "_forward", watched)
        yield lambda: min(leads)


def contents(updates: list[PaneUpdate]) -> list[object]:
    """What the panes say and prove in the end, times left out."""
    return [
        (u.kind, u.text, u.tokens, u.note, u.adapter_sha256, u.next_token)
        for u in finals_of(updates)
    ]


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("points", [(0,), (1,), (7,), (3, 9), (1, 1)], ids=str)
def test_all_panes_go_on_where_they_were_whenever_training_comes(
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
    assert card.left == [[]] * len(points), "this still lay in memory as the turn was given up"
    assert contents(updates) == wanted
    assert [u[0] for u in wanted] == ["done"] * len(kinds)


@pytest.mark.parametrize("kind", ["base", "lora", "prompt_tuning", "prefix_tuning", "dora", "full"])
def test_a_pane_of_any_make_goes_on_alone(
    kind: str, card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    request = replace(long, panes=(kinds[kind],))
    wanted = contents(served(card, request))
    assert contents(served(card, request, wanted_at=[5, 10])) == wanted
    assert card.left == [[], []]


def test_chats_of_different_length_go_on_and_a_pane_that_had_ended_stays_so(
    card: Card, kinds: dict[str, str], long: GenerateRequest, tiny_model: Path
) -> None:
    """The first chat leaves room for three tokens in the model's context of 128."""
    room = 128 - 3 - len(chat_ids(tiny_model, "", "y", long.prompt))
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


def test_the_panes_say_what_they_wait_for_and_keep_their_text(
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


def test_neither_the_pause_nor_the_loading_is_in_the_times(
    card: Card, kinds: dict[str, str], long: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each forward takes a second, loading 1,000 and the training run 100."""
    clock = FakeTime()
    for module in (decoding, engine, engine_module):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(decoding, "Answer", lambda **own: Answer(began=clock.now, **own))
    load, forward = card.made.load, Lane._forward

    def slow_load(*arguments: Any) -> None:
        load(*arguments)
        clock.passes(1000)

    def slow_forward(lane: Lane, **inputs: Any) -> torch.Tensor:
        clock.passes(1)
        return forward(lane, **inputs)

    monkeypatch.setattr(card.made, "load", slow_load)
    monkeypatch.setattr(Lane, "_forward", slow_forward)
    card.while_training = lambda: clock.passes(100)
    request = replace(long, panes=("base", kinds["full"]))

    def times(*wanted_at: int) -> list[tuple[float | None, float | None]]:
        ends = finals_of(served(card, request, wanted_at))
        return [(end.first_token_seconds, end.tokens_per_second) for end in ends]

    times()  # loads for the first time, and puts the adapters on
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
def test_a_base_that_cannot_be_loaded_again_leaves_each_pane_its_text_and_says_so(
    error: type[Exception], why: str, card: Card, kinds: dict[str, str], long: GenerateRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    panes = ("base", kinds["prompt_tuning"], kinds["full"])
    wanted = finals_of(served(card, replace(long, panes=panes)))
    real = engine_module.load_base_model
    sentence = "After other work on the device the base model could not be loaded again: "

    def full_card(*arguments: object) -> None:
        part = real(*arguments)  # type: ignore[arg-type]
        card.watch("part of the base", part)
        raise error("The card is full.")

    def taken() -> None:
        monkeypatch.setattr(engine_module, "load_base_model", full_card)

    card.while_training = taken
    updates = served(card, replace(long, panes=panes), wanted_at=[4])
    for found, whole in zip(finals_of(updates), wanted, strict=True):
        assert (found.kind, found.text) == ("error", sentence + why)
        assert found.partial
        assert whole.text.startswith(found.partial)
        assert found.adapter_sha256 == whole.adapter_sha256
    card.note_what_is_left()
    assert card.left == [[], []], "of what was loaded in vain something stayed"
    monkeypatch.undo()
    assert contents(served(card, replace(long, panes=panes))) == [
        (u.kind, u.text, u.tokens, u.note, u.adapter_sha256, u.next_token) for u in wanted
    ]


def test_an_adapter_that_is_another_or_gone_after_the_wait_is_said_in_its_pane(
    card: Card, add_adapter: AddAdapter, save_adapter: Callable[..., None], long: GenerateRequest
) -> None:
    """What is under its proof must not be the text of two adapters."""
    lost, other, stays = add_adapter("lora", 1), add_adapter("dora", 2), add_adapter("lora", 3)
    panes = ("base", lost.name, other.name, stays.name)
    wanted = finals_of(served(card, replace(long, panes=panes)))

    def meanwhile() -> None:
        shutil.rmtree(lost.folder)
        save_adapter("dora", other.folder, 4)

    card.while_training = meanwhile
    found = finals_of(served(card, replace(long, panes=panes), wanted_at=[4]))
    assert [update.kind for update in found] == ["done", "error", "error", "done"]
    assert [found[0].text, found[3].text] == [wanted[0].text, wanted[3].text]
    assert "is not there" in found[1].text
    assert found[2].text == (
        "The weights of 'dora' were replaced while its answer waited; send the prompt again."
    )
    for pane in (1, 2):
        assert found[pane].partial
        assert wanted[pane].text.startswith(found[pane].partial)
        assert found[pane].adapter_sha256 == wanted[pane].adapter_sha256


def test_a_stop_while_it_waits_leaves_neither_turn_nor_memory_behind(
    card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    card.training_takes = 3.0  # longer than a busy machine takes to hear the stop
    request = replace(long, panes=("base", kinds["dora"]))
    updates = served(card, request, [4], stop_at=lambda update: update.text == WAITS)
    assert not [update for update in updates if update.is_final]
    card.note_what_is_left()
    assert card.left == [[], []]
    turn = DeviceLock(card.device.id)
    turn.acquire()
    turn.release()
    assert [u.kind for u in finals_of(served(card, request))] == ["done", "done"]


def test_memory_is_given_back_also_where_training_comes_as_the_answer_ends(
    card: Card, kinds: dict[str, str], long: GenerateRequest
) -> None:
    request = replace(long, panes=(kinds["dora"],))
    (done,) = finals_of(served(card, request))
    served(card, request, wanted_at=[done.tokens])
    served(card, request, [4], stop_at=lambda update: update.tokens == 4)
    assert card.left == [[], []]
    assert card.trained == 2


def test_what_an_earlier_prompt_left_is_given_back_by_one_that_comes_while_training_runs(
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


def test_a_base_in_memory_stays_there_while_nobody_waits(card: Card, long: GenerateRequest) -> None:
    served(card, long)
    base = card.made.base
    served(card, long)
    assert card.made.base is base


def test_a_cpu_is_given_up_with_the_memory_kept(
    runs_folder: Path, one_thread: None, kinds: dict[str, str], long: GenerateRequest
) -> None:
    """There each process's own memory is measured."""
    with card_in(runs_folder, CPU) as card:
        request = replace(long, panes=("base", kinds["dora"]))
        wanted = contents(served(card, request))
        base = card.made.base
        updates = served(card, request, wanted_at=[4])
        assert contents(updates) == wanted
        assert card.made.base is base
        assert card.trained == 1
        assert {"base", "cache", "rows"} <= set(card.left[0])
        assert LOADING_AGAIN not in {update.text for update in updates}


def test_two_prompts_that_wait_for_each_other_both_get_on(
    runs_folder: Path, one_thread: None, long: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has just loaded its base when the other waits; so each keeps the turn for a while."""
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.005)
    requests = [OneRequest(long), OneRequest(long)]
    ends: list[PaneUpdate] = []

    def write(line: Line) -> None:
        if line.content is not None and line.content.is_final:
            ends.append(line.content)

    def answer(request: Any) -> None:
        engines: Any = Card(runs_folder)
        serve(request, engines, write, 1)

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
write, requests = worker._writer(), worker.Requests()
engines = OnCard(Path(sys.argv[1]), Device("cuda:0", "Card 0", 8 * 10**9))
worker.serve(requests, engines, write, 60)
"""
"""The worker, on a device that is a GPU for the turns on it alone."""

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
    """A process that wants the card when it is told to."""

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


@pytest.fixture
def client(runs_folder: Path) -> Iterator[PlaygroundClient]:
    client = PlaygroundClient(
        runs_folder, [sys.executable, "-c", _PLAYGROUND, str(runs_folder.resolve())]
    )
    yield client
    client.close()


def test_another_process_gets_the_turn_in_the_middle_of_an_answer_and_the_memory(
    client: PlaygroundClient, training: Training, kinds: dict[str, str], long: GenerateRequest
) -> None:
    request = replace(long, panes=("base", kinds["lora"], kinds["dora"]), max_new_tokens=16)
    wanted = [record["answer"] for record in client.generate_all(request)]
    updates: list[PaneUpdate] = []
    waited = False
    for update in client.generate(request):
        updates.append(update)
        if update.tokens == 3 and not waited:
            waited = True
            training.tell()
        if update.text == WAITS and update.pane == 2:
            assert training.says() == "has it"
            training.tell()
    assert [update.text for update in finals_of(updates)] == wanted
    texts = [update.text for update in updates if update.pane == 0 and update.kind == "status"]
    assert texts.index(WAITS) < texts.index(LOADING_AGAIN)


@pytest.mark.fault("playground's worker killed while training has its GPU")
def test_a_worker_killed_while_it_waits_leaves_the_turn_to_the_others(
    client: PlaygroundClient, training: Training, long: GenerateRequest
) -> None:
    updates: list[PaneUpdate] = []
    for update in client.generate(long):
        updates.append(update)
        if update.tokens == 3 and training.process.poll() is None and len(updates) < 50:
            training.tell()
        if update.text == WAITS and client.process_id is not None:
            assert training.says() == "has it"
            os.kill(client.process_id, signal.SIGKILL)
    (end,) = finals_of(updates)
    assert end.kind == "error"
    assert "ended before it had answered (killed" in end.text
    assert not DeviceLock("cuda:0").try_acquire(), "the training run has it"
    training.tell()
    turn = DeviceLock("cuda:0")
    deadline = time.monotonic() + 10
    while not turn.try_acquire():
        assert time.monotonic() < deadline, "the one that was killed still stands in line"
        time.sleep(0.05)
    turn.release()
