"""The endpoint as clients see it: OpenAI's own client, its errors, its limits, and who may ask."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from ftlab.__main__ import main
from ftlab.basics.bearer import BearerToken
from ftlab.basics.errors import FtlabError
from ftlab.playground import endpoint as endpoint_module
from ftlab.playground.chat import Offer
from ftlab.playground.chat_client import ChatClient
from ftlab.playground.endpoint import KEY_VARIABLE, Endpoint, Served, served
from ftlab.playground.openai_api import _HONOURED
from ftlab.playground.requests import GenerateRequest
from tests.playground.asking import texts
from tests.playground.conftest import PROMPT, AddRun, NewEngine
from tests.waiting import wait_until

WORKER = Path(__file__).with_name("fake_chat_worker.py")
NAMES = ("base", "run-1", "run-2", "run-3")
LABELS = dict(zip(NAMES, ("Base", "LoRA r=4", "DoRA", "DoRA"), strict=True))
NO_KEY = BearerToken(KEY_VARIABLE)
SERVED = Served(Offer("bundled", "fp32", NAMES), LABELS, NO_KEY)
KEY = "a-secret-of-some-length"


@dataclass(frozen=True)
class Running:
    """An endpoint in a thread of this process."""

    url: str
    log: Path

    def openai(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **options)

    def post(self, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(f"{self.url}/v1/chat/completions", content=content, **options)

    @property
    def noted(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []


@contextmanager
def running(what: Served, client: ChatClient, log: Path) -> Iterator[Running]:
    server = uvicorn.Server(
        uvicorn.Config(Endpoint(what, client).app(), log_level="error", timeout_graceful_shutdown=1)
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", log)
        finally:
            server.should_exit = True
            thread.join(10)
            client.close()


def without_a_model(folder: Path, **changes: Any) -> AbstractContextManager[Running]:
    """An endpoint whose worker only speaks the protocol."""
    log = folder / "noted.txt"
    client = ChatClient(folder, SERVED.offer, [sys.executable, str(WORKER), str(log)])
    return running(replace(SERVED, **changes), client, log)


Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts an endpoint of the test's own: `with start(most_waiting=1) as there`."""
    return partial(without_a_model, tmp_path)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An endpoint that several tests ask."""
    with without_a_model(tmp_path_factory.mktemp("endpoint")) as found:
        yield found


def body(told: str = "hello", model: str = "base", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": told}], **fields}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    return dict(error)


def test_openais_client_lists_models_and_asks_one_by_id_and_by_label(there: Running) -> None:
    with there.openai() as client:
        assert [model.id for model in client.models.list()] == list(NAMES)
        assert client.models.retrieve("LoRA r=4").id == "LoRA r=4"
        for model in ("run-1", "LoRA r=4"):
            answer = client.chat.completions.create(**body(model=model))
            assert answer.choices[0].message.content == "run-1 says hello"
            assert answer.choices[0].finish_reason == "stop"
            assert answer.model == model
            assert answer.usage is not None
            assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 7)


def test_openais_client_reads_a_stream_with_its_usage_at_the_end(there: Running) -> None:
    with there.openai() as client:
        asked = body(stream=True, stream_options={"include_usage": True})
        chunks = list(client.chat.completions.create(**asked))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "base says hello"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_fields_of_a_request_reach_the_worker(there: Running) -> None:
    with there.openai() as client:
        answer = client.chat.completions.create(
            model="run-2", max_completion_tokens=7, temperature=0.5, top_p=0.9, seed=-1,
            stop=["\n", "END"], user="someone", n=1, logprobs=False, tools=[],
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "echo"}]},
            ],
        )  # fmt: skip
    assert json.loads(answer.choices[0].message.content or "") == {
        "name": "run-2",
        "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "echo"},
        ],
        "max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.0,
        "seed": 2**32 - 1, "stop": ["\n", "END"], "stream": False,
    }  # fmt: skip


def test_an_unknown_model_is_404_with_the_nearest_name(there: Running) -> None:
    with there.openai() as client:
        with pytest.raises(openai.NotFoundError, match="Did you mean 'LoRA r=4'") as error:
            client.chat.completions.create(**body(model="LORA r=4"))
        assert (error.value.param, error.value.code) == ("model", "model_not_found")
        with pytest.raises(openai.NotFoundError, match="'DoRA' is not served"):
            client.models.retrieve("DoRA")  # two have this label


@pytest.mark.hostile("fields of a chat completion")
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"best_of": 3}, "best_of"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "\ud800"}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\udc00"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "x" * 100_001}]}, "messages"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_honoured_is_400_and_named(
    fields: dict[str, Any], param: str, there: Running
) -> None:
    before = there.noted
    error = error_of(there.post(body() | fields), 400)
    assert there.noted == before
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param.split(".")[0].split("[")[0] in error["message"]


@pytest.mark.hostile("bodies of a chat completion")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b'{"a": ' + b"1" * 5000 + b"}", 400),
        (b"x" * (4 * 2**20 + 1), 413),
    ],
)
def test_a_body_that_is_no_request_is_refused(sent: bytes, status: int, there: Running) -> None:
    error_of(there.post(sent), status)


def test_every_field_of_openais_client_is_honoured_or_refused_by_name(there: Running) -> None:
    from openai.types.chat import completion_create_params

    known = set(completion_create_params.CompletionCreateParamsBase.__annotations__)
    assert len(known) > 25
    for name in known - _HONOURED:
        answer = there.post(body() | {name: {"a": ["value"]}})
        assert answer.status_code == 200 or error_of(answer, 400)["param"] == name


def test_a_prompt_that_is_too_long_is_400_and_an_answer_that_failed_500(there: Running) -> None:
    for streams in (False, True):
        error = error_of(there.post(body("too long", stream=streams)), 400)
        assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
        assert error_of(there.post(body("broken", stream=streams)), 500)["code"]


def test_wrong_routes_and_methods_have_openais_error_too(there: Running) -> None:
    error_of(httpx.get(f"{there.url}/v1/embeddings"), 404)
    error_of(httpx.get(f"{there.url}/v1/chat/completions"), 405)


@pytest.mark.slow
@pytest.mark.fault("a client of the endpoint leaves in the middle of a stream")
def test_who_disconnects_ends_its_own_chat_alone(start: Start) -> None:
    with start() as there, ThreadPoolExecutor() as pool:
        other = pool.submit(there.post, body("slow", model="run-2"), timeout=30)
        asked = json.dumps(body("slow", model="run-1", stream=True)).encode()
        with socket.create_connection(("127.0.0.1", int(there.url.rpartition(":")[2]))) as leaving:
            head = f"Host: localhost\r\nContent-Length: {len(asked)}\r\n\r\n".encode()
            leaving.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + head + asked)
            assert b"200 OK" in leaving.recv(100)
        wait_until(lambda: "stopped run-1" in there.noted)
        assert other.result().json()["choices"][0]["message"]["content"] == "run-2 says slow"
        assert "stopped run-2" not in there.noted
        assert httpx.get(f"{there.url}/healthz").json()["answered"] == 0


@pytest.mark.slow
def test_too_many_chats_get_429_with_retry_after_and_later_ones_are_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "ROWS_AT_ONCE", 1)
    with start(most_waiting=1) as there, ThreadPoolExecutor() as pool:
        open_ones = [pool.submit(there.post, body("slow"), timeout=30) for _ in range(2)]
        health = f"{there.url}/healthz"
        wait_until(lambda: httpx.get(health).json()["waiting"] == 1)
        refused = there.post(body())
        assert error_of(refused, 429)["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        with there.openai(max_retries=5) as client:  # it waits as it is told, and asks again
            said = client.chat.completions.create(**body()).choices[0].message.content
        assert said == "base says hello"
        assert [one.result().status_code for one in open_ones] == [200, 200]


@pytest.mark.fault("the endpoint's worker dies during an answer")
def test_a_dead_worker_is_503_or_an_error_event_and_the_next_request_is_answered(
    start: Start,
) -> None:
    with start() as there:
        refused = there.post(body("die"))
        assert error_of(refused, 503)["code"] == "worker_ended"
        assert refused.headers["retry-after"]
        with there.openai(max_retries=0) as client:
            stream = client.chat.completions.create(**body("die later", stream=True))
            heard: list[str] = []
            with pytest.raises(openai.APIError, match="ended before this answer did"):
                heard.extend(c.choices[0].delta.content or "" for c in stream)
            answer = client.chat.completions.create(**body())
            assert answer.choices[0].message.content == "base says hello"


def test_with_a_key_only_who_sends_it_is_answered(start: Start) -> None:
    with start(key=BearerToken(KEY_VARIABLE, KEY)) as there:
        with there.openai(KEY) as client:
            assert len(list(client.models.list())) == 4
            assert client.chat.completions.create(**body()).choices
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            refused = there.post(b"not even read", headers=headers)
            assert error_of(refused, 401)["code"] == "invalid_api_key"
            assert refused.headers["www-authenticate"] == "Bearer"
            error_of(httpx.get(f"{there.url}/v1/models", headers=headers), 401)
            assert httpx.get(f"{there.url}/healthz", headers=headers).json() == {"status": "ok"}


@pytest.mark.hostile("pages of other sites at the endpoint")
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "127.0.0.1.evil.example:8000"},
    ],
)
def test_without_a_key_a_page_of_another_site_gets_nothing(
    headers: dict[str, str], there: Running
) -> None:
    before = there.noted
    error_of(there.post(body(), headers=headers), 403)
    error_of(httpx.get(f"{there.url}/v1/models", headers=headers), 403)
    told = httpx.get(f"{there.url}/healthz", headers=headers).json()
    assert told == {"status": "ok"}
    assert there.noted == before
    assert there.post(body(), headers={"Origin": "http://localhost:3000"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7"])
def test_an_address_that_others_reach_needs_a_key(host: str, tmp_path: Path) -> None:
    offer = Offer("bundled", "bf16", ("base",))
    with pytest.raises(FtlabError, match="FTLAB_API_KEY"):
        served(offer, tmp_path, host, NO_KEY)
    assert served(offer, tmp_path, host, BearerToken(KEY_VARIABLE, KEY)).key
    assert not served(offer, tmp_path, "127.0.0.1", NO_KEY).key


def test_the_command_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FTLAB_API_KEY", raising=False)
    runs = ["--runs-dir", str(tmp_path)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for options, words in (
            (["--host", "0.0.0.0"], "needs a key: set FTLAB_API_KEY"),
            (["--runs", "base,nobody"], "There is no run 'nobody'"),
            (["--waiting", "-1"], "--waiting is -1"),
            (["--port", str(taken.getsockname()[1])], "cannot be bound"),
        ):
            assert main(["serve", *options, *runs]) == 2
            assert words in capsys.readouterr().err


def test_the_endpoints_process_never_imports_torch() -> None:
    code = "import sys, ftlab.commands.serve, ftlab.playground.chat_client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "ftlab.playground.endpoint" in loaded.split()
    assert not {"torch", "transformers", "peft"} & set(loaded.split())


@pytest.mark.slow
def test_clients_at_once_get_the_texts_of_the_playground_from_adapters_in_one_batch(
    new_engine: NewEngine, runs_folder: Path, tiny_model: Path, add_run: AddRun,
    ask: GenerateRequest, tmp_path: Path,
) -> None:  # fmt: skip
    names = ("base", *(add_run("lora", seed).run_id for seed in (1, 2, 3)))
    engine = new_engine()
    alone = [texts(engine, ask, name)[0] for name in names]
    offer = Offer(str(tiny_model), "fp32", names)
    what = served(offer, runs_folder, "127.0.0.1", NO_KEY)

    def ask_one(client: openai.OpenAI, name: str, streams: bool) -> str | None:
        asked = body(PROMPT, name, max_tokens=12, temperature=0)
        if not streams:
            return client.chat.completions.create(**asked).choices[0].message.content
        chunks = client.chat.completions.create(**asked, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in chunks)

    with (
        running(what, ChatClient(runs_folder, offer), tmp_path) as there,
        there.openai() as client,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [(client, name, streams) for streams in (False, True) for name in names]
        found = list(pool.map(lambda one: ask_one(*one), asked))
    assert found == alone * 2
