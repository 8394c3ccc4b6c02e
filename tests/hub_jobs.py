"""A Hub of the tests' own with private data set repositories and jobs, over its protocol.

A job executes its command on this machine, in a folder of its own, with `uv` replaced by a command
that installs nothing: what ftlab needs is installed here already.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from tests.hub_server import COMMIT, Hub

OWNER = "me"
TOKEN = "hf_planted_aBcDeF0123456789"

T4 = {
    "name": "t4-small", "prettyName": "Nvidia T4 - small", "cpu": "4 vCPU", "ram": "15 GB",
    "accelerator": {"type": "gpu", "model": "T4", "quantity": "1", "vram": "16 GB",
                    "manufacturer": "Nvidia"},
    "unitCostMicroUSD": 6667, "unitCostUSD": 0.006667, "unitLabel": "minute",
}  # fmt: skip
FLAVORS = [
    {"name": "cpu-basic", "prettyName": "CPU Basic", "cpu": "2 vCPU", "ram": "16 GB",
     "unitCostMicroUSD": 167, "unitCostUSD": 0.000167, "unitLabel": "minute"},
    T4,
    {**T4, "name": "l4x4", "accelerator": {**T4["accelerator"], "model": "L4", "quantity": "4",  # type: ignore[dict-item]
                                           "vram": "96 GB"}, "unitCostMicroUSD": 63333},
    {**T4, "name": "inf2x6", "accelerator": {**T4["accelerator"], "type": "neuron",  # type: ignore[dict-item]
                                             "manufacturer": "AWS"}},
]  # fmt: skip


@dataclass
class JobsHub:
    """`repos` are folders by name; `jobs` what was asked of each job, by its id."""

    folder: Path
    hub: Hub
    repos: dict[str, Path] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    made: list[dict[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.hub.more = self.answer

    def answer(self, asked: Any, path: str) -> bool:
        """Answers a request for a repository or a job; `False` if it is for neither."""
        size = int(asked.headers.get("Content-Length") or 0)
        body = asked.rfile.read(size) if asked.command in ("POST", "DELETE") else b""
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            asked.json({"name": OWNER, "auth": {"accessToken": {"role": "write"}}})
        elif path == "/api/repos/create":
            self.made.append(json.loads(body))
            name = f"{OWNER}/{self.made[-1]['name']}"
            self.repos[name] = self.folder / "repos" / name
            self.repos[name].mkdir(parents=True)
            asked.json({"url": f"{self.hub.address}/datasets/{name}"})
        elif path == "/api/repos/delete":
            self.removed.append(f"{OWNER}/{json.loads(body)['name']}")
            self.repos.pop(self.removed[-1], None)
            asked.json({})
        elif parts[:2] == ["api", "jobs"]:
            self._job(asked, parts[2:], body)
        elif parts[0] == "datasets" and "/".join(parts[1:3]) in self.repos:
            file = self.repos["/".join(parts[1:3])].joinpath(*parts[5:])
            if not file.is_file():
                asked.json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            else:
                asked.file(file, asked.command == "GET")
        elif parts[:2] == ["api", "datasets"] and "/".join(parts[2:4]) in self.repos:
            self._repo(asked, "/".join(parts[2:4]), parts[4:], body)
        else:
            return False
        return True

    def _repo(self, asked: Any, name: str, rest: list[str], body: bytes) -> None:
        folder = self.repos[name]
        if rest[:1] == ["preupload"]:
            files = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            asked.json({"files": [{"path": file["path"], **how} for file in files]})
        elif rest[:1] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = folder / line["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
                    self.files.append(line["value"]["path"])
            url = f"{self.hub.address}/datasets/{name}/commit/{COMMIT}"
            asked.json({"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            names = [str(path.relative_to(folder)) for path in files]
            if rest[:1] == ["tree"]:
                asked.json(
                    [
                        {"type": "file", "path": name, "size": path.stat().st_size, "oid": "0" * 40}
                        for name, path in zip(names, files, strict=True)
                    ]
                )
            else:
                siblings = [{"rfilename": name} for name in names]
                asked.json({"id": name, "sha": COMMIT, "private": True, "siblings": siblings})

    def _job(self, asked: Any, rest: list[str], body: bytes) -> None:
        if rest == ["hardware"]:
            return asked.json(FLAVORS)
        if len(rest) == 1 and asked.command == "POST":
            job = f"job{len(self.jobs)}"
            self.jobs[job] = json.loads(body)
            self._start(job)
            return asked.json(self._info(job))
        if len(rest) == 1:
            return asked.json([self._info(job) for job in self.jobs])
        if rest[1] not in self.jobs:
            return asked.json({"error": "no such job"}, 404)
        if rest[2:] == ["cancel"]:
            self.stages[rest[1]] = "CANCELED"
            os.killpg(self.processes[rest[1]].pid, signal.SIGTERM)
            return asked.json({})
        if rest[2:] == ["logs"]:
            return self._logs(asked, rest[1])
        return asked.json(self._info(rest[1]))

    def _logs(self, asked: Any, job: str) -> None:
        """The whole log, until the job has ended."""
        asked.head(200, {"Content-Type": "text/event-stream", "Connection": "close"})
        log, sent = self.folder / job / "log", 0
        while True:
            is_over = self.processes[job].poll() is not None
            lines = log.read_text(errors="replace").splitlines()
            for line in lines[sent:]:
                event = {"data": line, "timestamp": "2026-01-01T00:00:00.000Z"}
                asked.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            sent = len(lines)
            if is_over or self.hub.is_gone:
                asked.close_connection = True
                return
            time.sleep(0.1)

    def _start(self, job: str) -> None:
        asked = self.jobs[job]
        folder = self.folder / job
        commands = folder / "bin"
        commands.mkdir(parents=True)
        for installer in ("pip", "uv"):
            (commands / installer).write_text("#!/bin/sh\n")
            (commands / installer).chmod(0o755)
        bin_folder = Path(sys.executable).parent
        environment = {
            "PATH": f"{commands}:{bin_folder}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "FTLAB_HOME": str(folder / "ftlab"),
            **self.hub.environment(folder / "hf"),
            **asked["environment"],
            **asked.get("secrets", {}),
        }
        with (folder / "log").open("wb") as log:
            self.processes[job] = subprocess.Popen(
                asked["command"], env=environment, cwd=folder, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _info(self, job: str) -> dict[str, Any]:
        asked, code = self.jobs[job], self.processes[job].poll()
        stage = "RUNNING" if code is None else "ERROR" if code else "COMPLETED"
        return {
            "id": job, "owner": {"id": "1", "name": OWNER, "type": "user"},
            "status": {"stage": self.stages.get(job, stage), "message": None},
            "labels": asked.get("labels"), "flavor": asked["flavor"],
            "durations": {"runningSecs": 60},
        }  # fmt: skip

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
