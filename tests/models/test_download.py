"""A model of the Hub is fetched in a process of its own, which is heard and can be stopped."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftlab.models.resolve import _ALLOWED
from tests.hub_server import PADDING, Hub, publish, serving

NAME = "tiny/llama"
ASK = """
import json, sys, time
from ftlab.basics.errors import FtlabError
from ftlab.models.resolve import resolve_model
{patch}
def say(**told):
    print(json.dumps(told | {{"at": time.monotonic()}}), flush=True)
def progress(done, total):
    say(done=done, total=total)
    {on_progress}
try:
    model = resolve_model(sys.argv[1], progress=progress)
    say(folder=str(model.folder), hash=model.fingerprint())
except FtlabError as error:
    say(error=str(error))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return publish(tiny_model, tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    with serving(Hub({NAME: published})) as hub:
        yield hub


class Asker:
    """Starts processes that ask for the model; each has the same cache folder."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self._hub = hub
        self.home = folder / "hf"
        self._environment = hub.environment(self.home) | {"FTLAB_HOME": str(folder / "ftlab")}

    def start(
        self, name: str = NAME, patch: str = "", on_progress: str = "pass", **how: Any
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", ASK.format(patch=patch, on_progress=on_progress), name],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | self._environment,
            **how,
        )

    def __call__(self, name: str = NAME, **how: Any) -> list[dict[str, Any]]:
        """What the process said, a dictionary a line."""
        said, _ = self.start(name, **how).communicate(timeout=60)
        return [json.loads(line) for line in said.splitlines()]

    def left_in_half(self) -> list[Path]:
        return list(self.home.rglob("*.incomplete"))


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Asker:
    return Asker(hub, tmp_path)


def weights(published: Path) -> int:
    """Bytes of the files that are read."""
    return sum(path.stat().st_size for kind in _ALLOWED for path in published.glob(kind))


def reports(said: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(line["done"], line["total"]) for line in said if "done" in line]


def got(hub: Hub) -> set[str]:
    """The files that were sent."""
    return {line.rpartition("/")[2] for line in hub.requests if line.startswith("GET /tiny")}


@pytest.mark.slow
def test_bytes_are_reported_at_most_twice_a_second_and_then_the_model_is_here_without_the_hub(
    hub: Hub, ask: Asker, published: Path
) -> None:
    hub.bytes_a_second = PADDING / 2.5
    said = ask()
    told = reports(said)
    total = weights(published)
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert told == sorted(told)
    assert len({done for done, _ in told}) > 4, "progress was not reported"
    seconds = said[-1]["at"] - said[0]["at"]
    assert len(told) <= 2 * seconds + 2, "the first and the last come on top"
    assert "pytorch_model.bin" not in got(hub)
    hub.requests.clear()
    hub.is_gone = True
    (again,) = ask()
    assert (again["folder"], again["hash"]) == (said[-1]["folder"], said[-1]["hash"])
    assert got(hub) == set()


@pytest.mark.slow
def test_a_config_that_a_prediction_fetched_is_no_model(hub: Hub, ask: Asker) -> None:
    fetch = f"from huggingface_hub import hf_hub_download as f; f('{NAME}', 'config.json')"
    environment = os.environ | hub.environment(ask.home)
    subprocess.run([sys.executable, "-c", fetch], env=environment, check=True)
    hub.is_gone = True
    (said,) = ask()
    assert "could not be had: it is not in the local cache and the Hugging" in said["error"]


@pytest.mark.slow
@pytest.mark.fault("Hub gone in the middle of a download")
def test_a_hub_that_goes_away_is_one_sentence_and_whole_files_are_kept(
    hub: Hub, ask: Asker, published: Path
) -> None:
    hub.cut_after = PADDING // 2
    sentence = ask()[-1]["error"]
    assert sentence.startswith(f"The download of '{NAME}' stopped at ")
    assert " of 4.4 MB: the Hugging Face Hub could no longer be reached (" in sentence
    assert sentence.endswith("run it again: files that came in whole are kept.")
    assert ask.left_in_half() == []
    hub.is_gone, hub.cut_after = False, None
    hub.requests.clear()
    said = ask()
    assert reports(said)[0] == (0, PADDING)
    assert got(hub) == {"padding.safetensors"}
    assert "folder" in said[-1]


@pytest.mark.slow
def test_a_connection_that_breaks_once_is_taken_up_where_it_stopped(hub: Hub, ask: Asker) -> None:
    hub.break_once_after = PADDING // 2
    said = ask()
    assert "folder" in said[-1]
    (part,) = hub.ranges
    assert 1_000_000 < int(part.removeprefix("bytes=").removesuffix("-")) <= PADDING // 2


@pytest.mark.slow
def test_a_model_that_the_hub_does_not_have_is_one_sentence(ask: Asker) -> None:
    (said,) = ask("tiny/none")
    assert said["error"] == "The Hub has no model 'tiny/none' (or it is private: set HF_TOKEN)."


@pytest.mark.fault("no room for a download")
def test_a_disk_without_room_is_said_before_anything_is_fetched(hub: Hub, ask: Asker) -> None:
    patch = "import ftlab.models.download as d; d.free_disk_bytes = lambda folder: 1_000_000"
    (said,) = ask(patch=patch)
    assert said["error"] == (
        f"The model '{NAME}' needs 4.4 MB more, and 1.0 MB are free in '{ask.home / 'hub'}'; free "
        "some space, or name another folder in HF_HOME."
    )
    assert got(hub) == set()


@pytest.mark.slow
@pytest.mark.fault("disk full in the middle of a download")
def test_a_disk_that_refuses_a_file_is_one_sentence(ask: Asker) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    sentence = ask(preexec_fn=limited)[-1]["error"]
    assert f" of 4.4 MB: '{ask.home / 'hub'}' cannot be written (File too large); " in sentence
    assert "free some space there, or name another folder in HF_HOME, and run it" in sentence
    assert ask.left_in_half() == []


@pytest.fixture
def stalled(hub: Hub) -> None:
    """In the middle of a file the Hub sends no more."""
    hub.stall_after = PADDING // 2


def begun(process: subprocess.Popen[str], ask: Asker) -> psutil.Process:
    """The process that downloads, once it has written some of a file."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["done"] > 1_000_000:
            break
    assert ask.left_in_half()
    (child,) = psutil.Process(process.pid).children()
    return child


@pytest.mark.slow
@pytest.mark.fault("process that asked for a download killed with SIGKILL")
@pytest.mark.usefixtures("stalled")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_download_ends_at_once_with_the_process_that_asked_and_leaves_no_incomplete_file(
    ask: Asker, number: signal.Signals
) -> None:
    process = ask.start(stderr=subprocess.DEVNULL)
    child = begun(process, ask)
    process.send_signal(number)
    process.wait(30)
    child.wait(30)
    assert ask.left_in_half() == []


@pytest.mark.slow
@pytest.mark.usefixtures("stalled")
def test_an_error_in_the_progress_callback_ends_the_download_and_is_raised(ask: Asker) -> None:
    process = ask.start(
        on_progress="if done > 1_000_000: raise ZeroDivisionError", stderr=subprocess.PIPE
    )
    child = begun(process, ask)
    _, errors = process.communicate(timeout=20)
    assert errors.rstrip().endswith("ZeroDivisionError")
    assert not child.is_running()
    assert ask.left_in_half() == []


@pytest.mark.slow
@pytest.mark.usefixtures("stalled")
def test_a_killed_download_is_reported_in_one_sentence(ask: Asker) -> None:
    process = ask.start()
    begun(process, ask).kill()
    said, _ = process.communicate(timeout=20)
    sentence = json.loads(said.splitlines()[-1])["error"]
    assert (
        ", as its process was killed, perhaps because memory ran out; run it again: f" in sentence
    )


@pytest.mark.slow
@pytest.mark.usefixtures("stalled")
def test_several_signals_at_once_end_the_download_too(ask: Asker) -> None:
    """Ctrl-C reaches all processes of the terminal, and the caller then ends the download too."""
    process = ask.start(stderr=subprocess.DEVNULL)
    child = begun(process, ask)
    with suppress(psutil.NoSuchProcess):
        for number in 10 * (signal.SIGINT, signal.SIGTERM):
            child.send_signal(number)
            time.sleep(0.002)
    child.wait(30)
    process.wait(30)
    assert ask.left_in_half() == []
