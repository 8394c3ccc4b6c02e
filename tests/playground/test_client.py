"""The client, with a fake worker that speaks the protocol."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftlab.basics.errors import InvalidRequest
from ftlab.basics.processes import start_time
from ftlab.basics.visitor_turns import Visitor
from ftlab.jobs.inputs import Access
from ftlab.playground import client as client_module
from ftlab.playground.client import PlaygroundClient, as_record
from ftlab.playground.requests import GenerateRequest, NextToken, PaneUpdate
from tests.fakes import make_run
from tests.waiting import wait_until

FAKE = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[PlaygroundClient]:
    client = PlaygroundClient(tmp_path, FAKE)
    yield client
    client.close()


def ask(prompt: str, panes: int = 2) -> GenerateRequest:
    return GenerateRequest(("base",) * panes, prompt)


def finals(client: PlaygroundClient, prompt: str) -> list[tuple[str, str]]:
    return [(u.kind, u.text) for u in client.generate(ask(prompt)) if u.is_final]


def pid_of(text: str) -> int:
    return int(text.rpartition(" ")[2])


def test_updates_stream_and_the_worker_is_started_once(client: PlaygroundClient) -> None:
    with pytest.raises(InvalidRequest, match="The prompt is empty"):
        client.generate(ask(" "))
    assert not client.is_loaded
    assert client.resident_bytes() is None
    updates = list(client.generate(ask("hello")))
    assert [(u.pane, u.kind) for u in updates] == [
        (0, "text"), (0, "done"), (1, "text"), (1, "done"),
    ]  # fmt: skip
    assert client.is_loaded
    assert pid_of(updates[-1].text) == pid_of(finals(client, "again")[0][1])
    held = client.resident_bytes()
    assert held is not None
    assert held > 1 << 20


def test_if_no_pane_can_answer_no_worker_is_started(
    client: PlaygroundClient, tmp_path: Path
) -> None:
    failed = make_run(tmp_path, "lora", "failed")
    panes = ("no-such-run", failed.run_id)
    updates = list(client.generate(GenerateRequest(panes, "hello")))
    assert [(update.pane, update.kind) for update in updates] == [(0, "error"), (1, "error")]
    assert "There is no run 'no-such-run'" in updates[0].text
    assert "is failed, so it has no adapter" in updates[1].text
    assert not client.is_loaded


def test_a_problem_of_one_pane_is_reported_once_and_the_others_answer(
    client: PlaygroundClient,
) -> None:
    updates = list(client.generate(GenerateRequest(("base", "no-such-run", "base"), "hello")))
    assert (updates[0].pane, updates[0].kind) == (1, "error")
    assert [update.pane for update in updates].count(1) == 1
    assert [u.pane for u in updates if u.kind == "done"] == [0, 2]


def test_a_killed_worker_is_reported_in_the_unfinished_panes_and_replaced(
    client: PlaygroundClient,
) -> None:
    pid = pid_of(finals(client, "hello")[0][1])
    first, second = finals(client, "die")
    assert first[0] == "done"
    assert second[0] == "error"
    assert "ended before it had answered (killed" in second[1]
    assert "a new one has been started, so send the prompt again" in second[1]
    assert str(client.log_file) in second[1]
    assert client.is_loaded, "nobody has asked again"
    other = client.process_id
    assert other != pid
    assert [pid_of(text) for _, text in finals(client, "hello")] == [other, other]


def test_an_abandoned_answer_does_not_mix_with_the_next(
    client: PlaygroundClient,
) -> None:
    updates = client.generate(ask("slow"))
    assert next(updates).text == "slow"
    updates.close()
    began = time.monotonic()
    assert [text.split()[0] for _, text in finals(client, "next")] == ["next", "next"]
    assert time.monotonic() - began < 2, "the answer that was left went on to its end"


def test_a_second_reader_waits_for_its_turn(
    client: PlaygroundClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SECONDS_BETWEEN_SIGNS", 0.05)
    first = client.generate(ask("slow"))
    next(first)
    seen: list[str] = []

    def read() -> None:
        seen.extend(update.text for update in client.generate(ask("second")))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: bool(seen))
    first.close()
    reader.join(60)
    assert seen[0] == client_module.BUSY
    assert seen[-1].startswith("second")


def test_a_visitor_s_second_prompt_waits_for_the_first_of_another(
    client: PlaygroundClient,
) -> None:
    first = client.generate(ask("slow"), Visitor("ann"))
    next(first)
    answered: list[str] = []

    ann, bob = Visitor("ann"), Visitor("bob")

    def read(prompt: str, visitor: Visitor) -> None:
        answered.append(list(client.generate(ask(prompt), visitor))[-1].text.split()[0])

    readers = [
        threading.Thread(target=read, args=asked)
        for asked in (("again", ann), ("once-more", ann), ("other", bob))
    ]
    for number, reader in enumerate(readers, 1):
        reader.start()
        while len(client._turns._waiting) < number:
            time.sleep(0.001)
    first.close()
    for reader in readers:
        reader.join(10)
    assert answered == ["other", "again", "once-more"]


def test_in_a_demo_an_answer_ends_at_the_time_limit_with_its_text(
    tmp_path: Path,
) -> None:
    client = PlaygroundClient(tmp_path, FAKE, access=Access(answer_seconds=0.2))
    try:
        long, other = (
            [update for update in client.generate(ask(prompt)) if update.is_final]
            for prompt in ("slow", "hello")
        )
    finally:
        client.close()
    assert [(update.kind, update.text) for update in long[:1]] == [("done", "slow")]
    assert long[0].note == "Ended after 0.2 s, so that the next visitor is answered."
    assert long[1].kind == "error", "it had not begun"
    assert "fewer panes" in long[1].text
    assert [update.kind for update in other] == ["done", "done"]
    assert not any(update.note for update in other)


def test_close_ends_the_process_even_in_an_answer(client: PlaygroundClient) -> None:
    pid = pid_of(finals(client, "hello")[0][1])
    updates = client.generate(ask("slow"))
    next(updates)
    client.close()
    assert not client.is_loaded
    assert start_time(pid) is None
    last = list(updates)[-1]
    assert last.kind == "error"
    assert "a new one" not in last.text, "it was closed on purpose"
    assert not client.is_loaded


def test_updates_are_repeated_during_a_silent_wait(
    client: PlaygroundClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who has left is noticed when an update is sent."""
    monkeypatch.setattr(client_module, "SECONDS_BETWEEN_SIGNS", 0.05)
    updates = client.generate(ask("silent"))
    seen = [update for update in (next(updates) for _ in range(20)) if update.text == "loading"]
    updates.close()
    assert len(seen) > 3
    assert {update.pane for update in seen} == {1}


def test_a_worker_that_leaves_as_it_is_asked_is_started_once_more(tmp_path: Path) -> None:
    client = PlaygroundClient(tmp_path, [*FAKE, "leave"])
    kinds = finals(client, "hello")
    assert [kind for kind, _ in kinds] == ["error", "error"]
    assert "exit status 0" in kinds[0][1]
    client.close()


def test_a_command_that_does_not_exist_is_reported_in_each_pane(tmp_path: Path) -> None:
    client = PlaygroundClient(tmp_path, ["/no/such/program"])
    assert finals(client, "hello")[0][1].startswith("The playground's worker could not be started")


def test_generate_all_gives_one_record_a_pane(client: PlaygroundClient, tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", hyperparameters={"r": 4})
    told: list[str] = []
    panes = ("base", run.run_id, "no-such-run")
    base, lora, lost = client.generate_all(GenerateRequest(panes, "hello"), told.append)
    assert told == [], "an answer is no status"
    assert (lost["label"], lost["answer"]) == ("no-such-run", "")
    assert "There is no run" in lost["error"]
    assert (base["pane"], base["run_id"], base["label"]) == (0, None, "Base")
    assert (lora["pane"], lora["run_id"], lora["label"]) == (1, run.run_id, "LoRA r=4")
    assert lora["answer"].startswith("hello by")
    assert lora["error"] == ""
    assert set(lora) == {
        "pane", "name", "run_id", "label", "answer", "tokens", "tokens_per_second",
        "first_token_seconds", "swap_seconds", "adapter_sha256", "next_token", "changes_nothing",
        "note", "error",
    }  # fmt: skip
    assert json.loads(json.dumps([base, lora])) == [base, lora]


def test_generate_all_passes_the_status_on(client: PlaygroundClient) -> None:
    told: list[str] = []
    waiting = threading.Thread(target=client.generate_all, args=[ask("silent"), told.append])
    waiting.start()
    wait_until(lambda: "loading" in told)
    client.close()
    waiting.join(10)
    assert not [words for words in told if "silent by" in words], "an answer is no status"


def test_an_update_becomes_a_record_with_what_it_told() -> None:
    told = NextToken(kl_nats=0.0, token="a", base_token="b", top1_changed=True)
    update = PaneUpdate(1, "error", "why", tokens=3, next_token=told, partial="half")
    record = as_record(update, "r-1", "LoRA")
    assert (record["answer"], record["error"]) == ("half", "why")
    assert record["next_token"] == {
        "kl_nats": 0.0, "token": "a", "base_token": "b", "top1_changed": True,
    }  # fmt: skip
    assert record["changes_nothing"] is True
