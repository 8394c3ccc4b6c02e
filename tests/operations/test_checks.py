"""The doctor's checks, each with what is wrong put before it."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.operations import doctor, health
from ftlab.operations import requirements as listing
from ftlab.operations.doctor import (
    check_bundled,
    check_clock,
    check_device,
    check_disk,
    check_folder,
    check_port,
    check_python,
    check_queue,
    check_records,
    check_torch,
    check_versions,
    has_bf16,
    look_at_device,
)
from ftlab.operations.health import QueueState
from ftlab.operations.requirements import lowest, read_requirements, requirements_file
from ftlab.records.store import RunStore
from tests.fake_nvml import FakeCard, use_cards
from tests.fakes import CREATED, make_run, make_unreadable

CPU = Device("cpu", "CPU, 2 cores", 16_000_000_000)
GPU = Device("cuda:0", "NVIDIA T4", 16_000_000_000)
REQUIREMENTS = [Requirement("gradio>=6.31,<7"), Requirement("torch>=2.10,<3")]


def installed(versions: dict[str, str]) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    return version


def test_every_requirement_of_ours_has_a_lower_bound_and_is_installed() -> None:
    requirements = read_requirements(requirements_file())
    assert len(requirements) > 10
    assert [r.name for r in requirements if lowest(r) is None] == []
    assert check_versions(requirements).mark == "ok"


def test_make_audit_gets_the_lowest_version_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    listing.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(read_requirements(requirements_file()))
    assert [line for line in lines if not re.fullmatch(r"[\w-]+==\d+(\.\d+)*", line)] == []
    assert "torch==2.10" in lines


@pytest.mark.parametrize("text", ["gradio >= \n", "-r other.txt\n", "not a requirement\n"])
def test_a_requirements_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "requirements.txt"
    with pytest.raises(FtlabError, match="cannot be read"):
        read_requirements(path)
    path.write_text("torch>=2  # why\n\n" + text)
    with pytest.raises(FtlabError, match="no requirement"):
        read_requirements(path)


T4 = Device("cuda:0", "Tesla T4", 16_000_000_000, "GPU-t4", (7, 5))
NEW, OLD = {"gradio": "6.31.0", "torch": "2.13.0+cpu"}, {"gradio": "6.7.0", "torch": "2.13.0"}
DEV = {"gradio": "6.31.0", "torch": "2.14.0.dev20261101+cu130"}
ROOT = Path("/")
TOLD = {"device": "cpu", "error": "", "bitsandbytes": ""}
NO_KERNELS = "the card has compute capability 7.0, and this torch has kernels for 7.5, 8.0"
OLD_DRIVER = "RuntimeError: the NVIDIA driver is too old"


@pytest.mark.parametrize(
    ("finding", "mark", "found", "fix"),
    [
        (check_python((3, 12, 1)), "ok", "3.12.1", ""),
        (check_python((3, 10, 2)), "fail", "3.10.2", "3.11"),
        (check_versions(REQUIREMENTS, installed(NEW)), "ok", "2 within their bounds", ""),
        (check_versions(REQUIREMENTS, installed(DEV)), "ok", "2 within their bounds", ""),
        (check_versions(REQUIREMENTS, installed(OLD)),
         "fail", "gradio 6.7.0 (needs <7,>=6.31)", "requirements.txt"),
        (check_versions(REQUIREMENTS, installed({"gradio": "7.0", "torch": "2.9.1"})),
         "fail", "torch 2.9.1", "requirements.txt"),
        (check_versions(REQUIREMENTS, installed({"torch": "2.13.0"})),
         "fail", "gradio is missing (needs <7,>=6.31)", "requirements.txt"),
        (check_device(CPU, 9_000_000_000, [], True),
         "ok", "CPU, 2 cores, 9.00 GB free of 16.00 GB, bf16 in hardware", ""),
        (check_device(GPU, None, ["NVIDIA T4"], None), "ok", "NVIDIA T4", ""),
        (check_device(CPU, None, [], False), "ok", "by conversion", ""),
        (check_device(T4, None, ["Tesla T4"], False), "ok", "fp16 with scaled gradients", ""),
        (check_device(T4, None, ["Tesla T4"], False), "ok", "holds its weights in fp32", ""),
        (check_device(CPU, 1_000_000_000, [], None), "warn", "1.00 GB free", "2.00 GB or more"),
        (check_device(CPU, 9_000_000_000, ["NVIDIA H100"], None),
         "warn", "NVIDIA H100 is idle", "torch"),
        (check_disk("runs disk", ROOT, 2_000_000_000, 5_000_000_000), "ok", "5.00 GB free", ""),
        (check_disk("runs disk", ROOT, 2_000_000_000, 1_000_000_000), "warn", "", "2.00 GB"),
        (check_disk("runs disk", ROOT, 2_000_000_000, 50_000_000), "fail", "", "2.00 GB"),
        (check_disk("runs disk", ROOT / "a" / "b", 0), "ok", "free", ""),  # not there yet
        (check_queue(ROOT, QueueState(0, 0, "idle")), "ok", "no run waits", ""),
        (check_queue(ROOT, QueueState(3, 1, "working", 17, 9000.0)), "ok", "running", ""),
        (check_queue(ROOT, QueueState(3, 0, "working", 17, 2.0)), "ok", "running", ""),
        (check_queue(ROOT, QueueState(3, 0, "starting", None, 2.0)), "ok", "3 queued", ""),
        (check_queue(ROOT, QueueState(3, 0, "working", 17, 9000.0)), "warn", "", "process 17"),
        (check_queue(ROOT, QueueState(3, 0, "missing", None, 60.0)),
         "fail", "no dispatcher", "start the app"),
        (doctor._of_answer(TOLD), "ok", "train on cpu", ""),
        (doctor._of_answer(TOLD | {"error": OLD_DRIVER}), "fail", OLD_DRIVER, "driver"),
        (doctor._of_answer(TOLD | {"error": NO_KERNELS}),
         "fail", NO_KERNELS, "install a torch that is built for the card"),
        (doctor._of_answer(TOLD | {"bitsandbytes": "ImportError: libbitsandbytes_cpu.so"}),
         "warn", "bitsandbytes does not: ImportError: libbitsandbytes_cpu.so", "QLoRA"),
    ],
)  # fmt: skip
def test_a_finding_has_its_mark_what_was_found_and_a_fix_unless_it_is_ok(
    finding: doctor.Finding, mark: str, found: str, fix: str
) -> None:
    assert finding.mark == mark
    assert found in finding.found
    assert fix in finding.fix
    assert bool(finding.fix) == bool(fix)
    assert "driver" not in finding.fix or fix == "driver"


def test_a_card_has_bf16_by_its_capability() -> None:
    assert has_bf16(T4) is False
    assert has_bf16(replace(T4, capability=(8, 0))) is True


def test_a_driver_that_cannot_run_this_torch_fails_with_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_cards(monkeypatch, FakeCard("L4", "GPU-l4"), cuda=11040)
    finding = look_at_device(Device("cuda:0", "L4", 24_000_000_000, "GPU-l4", (8, 9)))
    assert finding.mark == "fail"
    assert "driver 470.82 runs CUDA 11.4" in finding.found
    assert "cpu" in finding.fix


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16\n", True),
        ("flags\t\t: fpu avx2\n", False),
        ("Features\t: fp asimd bf16\n", True),
        ("processor\t: 0\n", None),
    ],
)
def test_bf16_of_a_cpu_is_read_from_the_kernel(
    tmp_path: Path, text: str, found: bool | None
) -> None:
    assert has_bf16(CPU, tmp_path) is None
    (tmp_path / "cpuinfo").write_text(text)
    assert has_bf16(CPU, tmp_path) is found


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_torch_and_bitsandbytes_really_work_here() -> None:
    finding = check_torch(CPU)
    assert (finding.mark, finding.fix) == ("ok", "")


@pytest.mark.fault("torch does not start")
def test_a_torch_that_does_not_start_is_told_with_its_last_line() -> None:
    finding = check_torch(CPU, python("raise ImportError('libcudart.so: no such file')"))
    assert finding.mark == "fail"
    assert "libcudart.so" in finding.found
    assert check_torch(CPU, python("")).mark == "fail"
    assert check_torch(CPU, ["/no/such/python"]).mark == "fail"


@pytest.mark.fault("torch hangs")
def test_a_torch_that_hangs_is_given_up() -> None:
    finding = check_torch(CPU, python("import time; time.sleep(60)"), seconds=0.3)
    assert finding.mark == "fail"
    assert "no answer" in finding.found


def test_warnings_of_libraries_before_the_probes_answer_are_ignored() -> None:
    told = json.dumps(TOLD | {"error": OLD_DRIVER})
    assert check_torch(GPU, python(f"print('a warning'); print({told!r})")).found == OLD_DRIVER


@pytest.mark.slow
def test_a_device_that_is_not_there_is_what_the_probe_says() -> None:
    command = [sys.executable, "-m", "ftlab.operations.torch_probe", "cuda:7"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["error"]


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    finding = check_folder("runs folder", tmp_path, "FTLAB_RUNS", "--runs-dir")
    assert finding.mark == "ok"
    assert list(tmp_path.iterdir()) == []
    later = tmp_path / "a" / "b"
    assert check_folder("runs folder", later, "FTLAB_RUNS").found == f"{later} can be created"
    assert not later.exists()


@pytest.mark.fault("runs folder is a file")
def test_a_file_in_place_of_a_folder_fails_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    path.write_text("in the way")
    for folder in (path, path / "below"):
        finding = check_folder("runs folder", folder, "FTLAB_RUNS", "--runs-dir")
        assert finding.mark == "fail"
        assert "--runs-dir or FTLAB_RUNS" in finding.fix


@pytest.mark.fault("folder that refuses to be written")
def test_a_folder_that_refuses_writes_fails() -> None:
    finding = check_folder("runs folder", Path("/proc"), "FTLAB_RUNS")  # root is refused there too
    assert finding.mark == "fail"
    assert finding.found.startswith("/proc: ")


def test_a_disk_without_locks_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Everybodys:
        def __init__(self, path: Path) -> None: ...
        def try_acquire(self) -> bool:
            return True

        def release(self) -> None: ...

    monkeypatch.setattr(health, "FileLock", Everybodys)
    finding = check_folder("locks folder", tmp_path, "FTLAB_LOCKS")
    assert finding.mark == "fail"
    assert "same lock" in finding.found


def _cut(folder: Path, name: str, size: int) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:size])


def test_a_whole_model_is_ok_and_one_not_fetched_is_a_warning(
    tiny_model: Path, tmp_path: Path
) -> None:
    assert check_bundled(tiny_model).mark == "ok"
    missing = check_bundled(tmp_path / "missing")
    assert (missing.mark, missing.fix) == ("warn", "python -m ftlab model")


@pytest.mark.fault("bundled model damaged on disk")
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda f: _cut(f, "model.safetensors", -1), "its header says"),
        (lambda f: _cut(f, "model.safetensors", 20), "model.safetensors"),
        (lambda f: _cut(f, "model.safetensors", 0), "model.safetensors"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: _cut(f, "config.json", 10), "config.json is no JSON"),
        (lambda f: _cut(f, "tokenizer.json", 0), "tokenizer.json is no JSON"),
        (lambda f: (f / "tokenizer_config.json").unlink(), "tokenizer_config.json"),
    ],
)
def test_a_damaged_model_fails_with_the_file_and_the_way_out(
    tiny_model: Path, tmp_path: Path, damage: Callable[[Path], None], found: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    damage(copy)
    finding = check_bundled(copy)
    assert finding.mark == "fail"
    assert found in finding.found
    assert f"delete {copy}" in finding.fix


@contextmanager
def serving(body: bytes) -> Iterator[int]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.fault("port taken by another program")
@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"other": 1}', b"\xff"])
def test_a_port_of_another_program_fails_and_one_of_ours_does_not(body: bytes) -> None:
    with serving(body) as port:
        finding = check_port("127.0.0.1", port)
        assert finding.mark == "fail"
        assert "--port" in finding.fix
    with serving(b'{"status": "ok"}') as port:
        assert check_port("127.0.0.1", port).mark == "ok"


def test_a_free_port_is_ok_and_an_impossible_one_fails() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert check_port("127.0.0.1", port).mark == "ok"
    assert check_port("127.0.0.1", 70_000).mark == "fail"
    assert check_port("no.such.host.invalid", port).mark == "fail"


def test_records_that_cannot_be_read_are_a_warning(tmp_path: Path) -> None:
    make_run(tmp_path, "lora")
    store = RunStore(tmp_path)
    assert check_records(store.runs(), store.unreadable).found == "1 record, all readable"
    make_unreadable(tmp_path)
    finding = check_records(store.runs(), store.unreadable)
    assert finding.mark == "warn"
    assert "1 of 2 cannot be read" in finding.found


@pytest.mark.fault("clock set back")
def test_a_clock_that_went_back_is_a_warning(tmp_path: Path) -> None:
    make_run(tmp_path, "lora")
    runs = RunStore(tmp_path).runs()
    assert check_clock(runs, now=CREATED + 5).mark == "ok"
    assert check_clock(runs, now=CREATED - 3600).mark == "warn"
    assert check_clock([], now=0.0).mark == "ok"
