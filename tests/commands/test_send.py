"""Sending a sweep to Hugging Face Jobs, with a fake of the Hub's API: what is said, asked and left.

`tests/commands/test_send_job.py` does it over the Hub's protocol, with a job that really runs.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import JobHardwareInfo

from ftlab.__main__ import main
from ftlab.basics.devices import list_devices
from ftlab.basics.processes import DEVICES_VARIABLE
from ftlab.commands import send
from ftlab.jobs.launchers import hugging_face
from ftlab.jobs.launchers.cluster import copy_code
from ftlab.share import sent_sweep
from tests.fakes import make_sweep
from tests.hub_jobs import FLAVORS, OWNER, TOKEN
from tests.share.packed import pack

pytestmark = pytest.mark.slow

NO_CREDIT, FORBIDDEN, UNKNOWN_TOKEN = 402, 403, 401


class Refusal(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"{code} for Bearer {TOKEN}")
        self.response = SimpleNamespace(status_code=code)


class FakeApi:
    """An `HfApi` with one user. A job is over at once, at `stage`, and has left `results`.

    `errors` are raised by the functions with these names; `said` is what was printed when a job
    was started.
    """

    def __init__(self) -> None:
        self.stage, self.message = "COMPLETED", ""
        self.role = "write"
        self.results: bytes | None = None
        self.log = ["Installing …", "LoRA: done"]
        self.errors: dict[str, BaseException] = {}
        self.repos: dict[str, dict[str, bytes]] = {}
        self.made: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.sent = b""
        self.at_start: Callable[[], None] = lambda: None

    def _ask(self, name: str) -> None:
        if name in self.errors:
            raise self.errors[name]

    def whoami(self) -> dict[str, Any]:
        self._ask("whoami")
        return {"name": OWNER, "auth": {"accessToken": {"role": self.role}}}

    def list_jobs_hardware(self) -> list[JobHardwareInfo]:
        self._ask("list_jobs_hardware")
        return [JobHardwareInfo(**row) for row in FLAVORS]

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self._ask("create_repo")
        self.made.append(options)
        self.repos[repo_id] = {}

    def repo_info(self, repo_id: str, repo_type: str) -> Any:
        return SimpleNamespace(private=True)

    def upload_file(
        self, *, path_or_fileobj: Path, path_in_repo: str, repo_id: str, repo_type: str
    ) -> None:
        self._ask("upload_file")
        self.sent = path_or_fileobj.read_bytes()

    def run_job(self, **asked: Any) -> Any:
        self.at_start()
        if "started" not in str(self.errors.get("run_job")):
            self._ask("run_job")
        self.jobs.append(asked)
        self._ask("run_job")
        return self._info(len(self.jobs) - 1)

    def _info(self, number: int) -> Any:
        status = SimpleNamespace(stage=self.stage, message=self.message)
        labels = {"name": self.jobs[number]["name"]}
        durations = SimpleNamespace(running_secs=720)
        return SimpleNamespace(
            id=f"job{number}", status=status, labels=labels, durations=durations, flavor=""
        )

    def list_jobs(self, *, labels: dict[str, str], namespace: str) -> list[Any]:
        self._ask("list_jobs")
        every = [self._info(number) for number in range(len(self.jobs))]
        return [job for job in every if job.labels == labels]

    def inspect_job(self, *, job_id: str, namespace: str) -> Any:
        self._ask("inspect_job")
        number = int(job_id.removeprefix("job"))
        if number >= len(self.jobs):
            raise Refusal(404)
        return self._info(number)

    def cancel_job(self, *, job_id: str, namespace: str) -> None:
        self.cancelled.append(job_id)
        self.stage = "CANCELED"
        self.errors.pop("fetch_job_logs", None)

    def fetch_job_logs(self, *, job_id: str, namespace: str, follow: bool) -> Iterator[str]:
        yield from self.log
        error = self.errors.get("fetch_job_logs")
        if error is not None:
            if isinstance(error, OSError):
                del self.errors["fetch_job_logs"]  # the connection is back
            raise error

    def file_exists(self, repo_id: str, filename: str, repo_type: str) -> bool:
        return self.results is not None and repo_id in self.repos

    def hf_hub_download(self, repo: str, name: str, *, repo_type: str, local_dir: Path) -> None:
        assert self.results is not None
        (local_dir / name).write_bytes(self.results)

    def delete_repo(self, repo_id: str, *, repo_type: str, missing_ok: bool) -> None:
        self._ask("delete_repo")
        self.repos.pop(repo_id, None)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    api = FakeApi()
    make_sweep(tmp_path / "there")
    api.results = pack(tmp_path / "there", tmp_path / "sweep.zip").read_bytes()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv(DEVICES_VARIABLE, "")  # what the command sets is taken back
    monkeypatch.setattr(send, "hub_api", lambda token: api)
    monkeypatch.setattr(send, "seconds_beforehand", lambda *asked, **options: 600.0)
    monkeypatch.setattr(send, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(send, "_LATE_SECONDS", 0.0)
    monkeypatch.setattr(sent_sweep, "copy_code", lambda folder: None)
    yield api
    list_devices.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "mine.csv"
    file.write_text("prompt,completion\n" + "".join(f"say {n},word {n}\n" for n in range(60)))
    return file


@pytest.fixture
def sending(tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs `send` and returns its exit status and all that it printed."""

    def sending(*options: str, flavor: str = "t4-small") -> tuple[int, str]:
        what = ["--methods", "lora", "--task", str(data), "--model", "someone/remote"]
        given = options if "--resume" in options else ("--flavor", flavor, *what, *options)
        code = main(["send", *given, "--runs-dir", str(tmp_path / "runs")])
        said = capfd.readouterr()
        return code, said.out + said.err

    return sending


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub has every model."""
    from ftlab.models.resolve import ModelReach

    monkeypatch.setattr(ModelReach, "why_not", lambda self, model: "")


def answer(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """A terminal with a person who gives these answers; returns the questions."""
    asked, left = list[str](), list(answers)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or left.pop(0))
    return asked


def test_the_card_its_price_and_the_cost_are_said_before_anything_is_sent(
    api: FakeApi, sending: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    api.at_start = lambda: seen.append(capfd.readouterr().err)
    code, _ = sending("--yes")
    assert code == 0
    assert "t4-small: T4, 16 GB; 4 vCPU, 15 GB, $0.40 an hour." in seen[0]
    assert "This takes about 20 min 00 s there, with installing, and costs about $0.13." in seen[0]
    assert "The job is ended after 1 h at the latest, so it costs at most $0.40" in seen[0]
    assert api.jobs[0]["timeout"] == 3600


def test_nothing_is_sent_without_a_yes(
    api: FakeApi, sending: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer(monkeypatch, "n")
    code, said = sending()
    assert (code, asked) == (1, ["Start it? [y/N] "])
    assert "Nothing was started." in said
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal
    code, said = sending()
    assert code == 2
    assert "there is no terminal to ask on; add --yes" in said
    assert not api.made
    assert not api.jobs


def test_without_the_hubs_prices_only_yes_starts_a_job(
    api: FakeApi, sending: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.errors["list_jobs_hardware"] = OSError("away")
    answer(monkeypatch, "y")
    code, said = sending()
    assert code == 2
    assert "t4-small: Tesla T4; the Hub does not say what it costs." in said
    assert "What this costs is not known, so nothing was started; --yes agrees." in said
    assert not api.jobs
    assert sending("--yes")[0] == 0


def test_the_token_is_a_secret_of_the_job_and_in_nothing_else(
    api: FakeApi, sending: Callable[..., Any], tmp_path: Path
) -> None:
    api.log = [f"Bearer {TOKEN}"]
    _, said = sending("--yes")
    job = api.jobs[0]
    assert job.pop("secrets") == {"HF_TOKEN": TOKEN}
    assert TOKEN not in str(job) + said
    with tarfile.open(fileobj=io.BytesIO(api.sent)) as sent:
        files = [sent.extractfile(entry) for entry in sent if entry.isfile()]
        assert files
        assert all(TOKEN.encode() not in file.read() for file in files if file)
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert all(TOKEN.encode() not in path.read_bytes() for path in written)


def test_the_code_the_sweep_and_the_users_file_are_sent_without_their_place_here(
    api: FakeApi, sending: Callable[..., Any], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_sweep, "copy_code", copy_code)
    _, said = sending("--yes")
    assert "'mine.csv' goes along, to a private data set repository of yours." in said
    with tarfile.open(fileobj=io.BytesIO(api.sent)) as sent:
        names = sent.getnames()
        sweep = sent.extractfile("./request.json")
        mine = sent.extractfile("./data/mine.csv")
        assert sweep is not None
        assert mine is not None
        assert mine.read() == data.read_bytes()
        assert str(data.parent).encode() not in sweep.read()
        assert {entry.uname for entry in sent} == {""}
    assert {"./ftlab/commands/send_job.py", "./assets/cards.json", "./start.sh"} <= set(names)


@pytest.mark.parametrize(
    ("function", "error", "sentence"),
    [
        ("whoami", Refusal(UNKNOWN_TOKEN), "The Hub refuses the token"),
        ("run_job", Refusal(FORBIDDEN), "This token may not start the job (403)"),
        ("run_job", Refusal(NO_CREDIT), "There is no credit for this job (402)"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence_and_leaves_nothing_there(
    api: FakeApi,
    sending: Callable[..., Any],
    function: str,
    error: Exception,
    sentence: str,
) -> None:
    api.errors[function] = error
    code, said = sending("--yes")
    assert code == 2
    assert sentence in said
    assert TOKEN not in said
    assert not api.repos
    assert not api.jobs


def test_a_token_is_needed_that_may_write(
    api: FakeApi, sending: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.role = "read"
    assert "This token may only read" in sending("--yes")[1]
    monkeypatch.delenv("HF_TOKEN")
    assert "There is no token in the environment" in sending("--yes")[1]
    assert not api.made


def test_a_job_that_started_although_the_answer_was_lost_is_cancelled(
    api: FakeApi, sending: Callable[..., Any]
) -> None:
    api.errors["run_job"] = OSError("cut off after it started")
    assert sending("--yes")[0] == 2
    assert api.cancelled == ["job0"]
    assert not api.repos


def test_an_unknown_flavor_is_answered_with_the_nearest_and_no_job_runs_on_another_kind_of_card(
    api: FakeApi, sending: Callable[..., Any]
) -> None:
    assert "There is no flavor 't4'; the nearest: t4-small." in sending("--yes", flavor="t4")[1]
    assert "ftlab does not run on the accelerator" in sending("--yes", flavor="inf2x6")[1]
    assert not api.made


def test_a_sweep_is_checked_for_the_flavors_devices_before_it_is_sent(
    api: FakeApi, sending: Callable[..., Any], tiny_model: Path
) -> None:
    assert "no device 'cuda:1'" in sending("--yes", "--device", "cuda:1")[1]
    assert sending("--yes", "--device", "cuda:3", flavor="l4x4")[0] == 0
    api.jobs.clear()
    assert "models are not sent" in sending("--yes", "--model", str(tiny_model))[1]
    assert "There is no method 'lorra'" in sending("--yes", "--methods", "lorra")[1]
    assert not api.jobs


@pytest.mark.parametrize(
    ("stage", "message", "sentence"),
    [
        ("ERROR", "exit code 2", "The job failed (exit code 2). Its last lines: Installing … / Oh"),
        ("CANCELED", "", "The job was cancelled before it sent results."),
    ],
)
def test_a_job_that_left_no_results_is_a_sentence_with_its_last_lines(
    api: FakeApi, sending: Callable[..., Any], stage: str, message: str, sentence: str
) -> None:
    api.stage, api.message, api.results = stage, message, None
    api.log = ["Installing …", "Oh"]
    code, said = sending("--yes")
    assert code == 2
    assert sentence in said
    assert not api.repos


def test_ctrl_c_asks_whether_to_cancel_and_what_is_done_is_fetched(
    api: FakeApi, sending: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.errors["fetch_job_logs"] = KeyboardInterrupt()
    asked = answer(monkeypatch, "y", "y")
    code, said = sending()
    assert "Cancel the job?" in asked[1]
    assert (code, api.cancelled) == (0, ["job0"])
    assert "4 runs from another machine opened" in said


def test_a_job_that_is_left_alone_goes_on_and_is_fetched_later(
    api: FakeApi, sending: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.errors["fetch_job_logs"] = KeyboardInterrupt()
    answer(monkeypatch, "y", "n")
    code, said = sending()
    assert code == 130
    assert not api.cancelled
    assert "The job goes on, and is billed; to follow it again" in said
    assert f"send --resume {OWNER}/job0" in said
    assert len(api.repos) == 1
    del api.errors["fetch_job_logs"]
    code, said = sending("--resume", f"{OWNER}/job0")
    assert code == 0
    assert "4 runs from another machine opened" in said
    assert not api.repos
    assert len(api.jobs) == 1, "nothing was started again"


def test_a_connection_that_breaks_off_is_taken_up_without_repeating_the_log(
    api: FakeApi, sending: Callable[..., Any]
) -> None:
    api.errors["fetch_job_logs"] = OSError("reset by peer")
    code, said = sending("--yes")
    assert code == 0
    assert "reset by peer Trying again" in said
    assert said.count("LoRA: done") == 1


def test_a_job_is_ended_in_time_to_send_what_is_done(
    api: FakeApi, sending: Callable[..., Any]
) -> None:
    sending("--yes", "--hours", "2")
    assert api.jobs[0]["timeout"] == 7200
    seconds = 7200 - hugging_face.RESERVE_SECONDS
    assert f"ends=$(( $(date +%s) + {seconds} ))" in api.jobs[0]["command"][-1]
    assert "must be from 0.2 to 72" in sending("--yes", "--hours", "0.01")[1]
