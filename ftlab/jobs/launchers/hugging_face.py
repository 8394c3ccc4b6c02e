"""A whole sweep as one job of Hugging Face Jobs, which shares no folder with this machine.

What the job needs goes into a private data set repository of the user's, and its results come back
by it. A job's name here is OWNER/ID; the repository has the name that the job is labelled with.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.log import redact
from ftlab.jobs.launchers.hub_errors import TOKEN, hub_errors
from ftlab.jobs.launchers.launcher import Ended

IMAGE = "python:3.11-bookworm"
SWEEP, RESULTS = "sweep.tar.gz", "results.zip"
"""The files of the repository: what the job gets, and what it leaves."""

START = "start.sh"  # in `SWEEP`; gets the repository, and the Unix time when the sweep must end

RESERVE_SECONDS = 300
"""Before its time is over, a job ends its sweep and sends what is done."""

_NAME = re.compile(r"ftlab-sweep-[0-9a-f]{12}")
_SCRIPT = """set -e
ends=$(( $(date +%s) + {seconds} ))
pip install --quiet uv
uv pip install --system --quiet huggingface_hub=={hub}
cd "$(mktemp -d)"
hf download {repo} {sweep} --repo-type dataset --local-dir . > /dev/null
tar -xzf {sweep}
exec bash {start} {repo} "$ends"
"""
_CODES = {"COMPLETED": 0, "ERROR": 1, "DELETED": -9, "CANCELED": -15}


@dataclass(frozen=True)
class SweepEnded(Ended):
    """`stage` and `message` are the Hub's words; `seconds` is how long it was billed, if known."""

    stage: str = ""
    message: str = ""
    seconds: float | None = None


class HuggingFaceJobs:
    """Every method raises `FtlabError` for an error of the Hub, without the token."""

    def __init__(self, api: Any, token: str) -> None:
        self._api, self._token = api, token
        self._repos: dict[str, str] = {}

    def start(self, sweep: Path, owner: str, flavor: str, seconds: int) -> str:
        """Uploads `SWEEP` and starts it; the job ends after so many seconds at the latest.

        If that fails, nothing is left on the Hub, or the error says what.
        """
        name = f"ftlab-sweep-{secrets.token_hex(6)}"
        repo = f"{owner}/{name}"
        left, hub = seconds - RESERVE_SECONDS, version("huggingface_hub")
        script = _SCRIPT.format(repo=repo, seconds=left, hub=hub, sweep=SWEEP, start=START)
        may_run = False
        try:
            with hub_errors("take the sweep", self._token):
                self._api.create_repo(repo, repo_type="dataset", private=True)
                if self._api.repo_info(repo, repo_type="dataset").private is False:
                    raise FtlabError(f"{repo} cannot be made private, so nothing was uploaded.")
                self._api.upload_file(
                    path_or_fileobj=sweep, path_in_repo=SWEEP, repo_id=repo, repo_type="dataset"
                )
            may_run = True
            with hub_errors("start the job", self._token):
                job = self._api.run_job(
                    image=IMAGE, command=["bash", "-c", script], flavor=flavor, timeout=seconds,
                    secrets={TOKEN: self._token}, name=name, namespace=owner,
                )  # fmt: skip
        except BaseException as error:
            self._undo(repo, may_run and not getattr(error, "is_refusal", False), error)
            raise
        self._repos[f"{owner}/{job.id}"] = repo
        return f"{owner}/{job.id}"

    def _undo(self, repo: str, may_run: bool, why: BaseException) -> None:
        """Removes the repository, and a job that may have started without our knowing."""
        owner, _, name = repo.partition("/")
        try:
            if may_run:
                for job in self._api.list_jobs(labels={"name": name}, namespace=owner):
                    self._api.cancel_job(job_id=job.id, namespace=owner)
            self._api.delete_repo(repo, repo_type="dataset", missing_ok=True)
        except Exception:
            left = "a job may run (https://huggingface.co/settings/jobs) and " if may_run else ""
            left += f"the data set repository {repo} may be left"
            raise FtlabError(f"{one_line(why)} On the Hub, {left}.") from None

    def status(self, job: str) -> SweepEnded | None:
        """How the job ended; `None` while it waits or runs."""
        info = self._inspect(job)
        stage = str(getattr(info.status.stage, "value", info.status.stage))
        if stage not in _CODES:
            return None
        seconds = getattr(info.durations, "running_secs", None)
        message = str(info.status.message or "")
        return SweepEnded(_CODES[stage], stage=stage, message=message, seconds=seconds)

    def cancel(self, job: str) -> None:
        owner, _, id = job.partition("/")
        with hub_errors("cancel the job", self._token):
            self._api.cancel_job(job_id=id, namespace=owner)

    def log(self, job: str) -> Iterator[str]:
        """All lines from the first one on, until the job ends or the connection does."""
        owner, _, id = job.partition("/")
        with hub_errors("show the job's log", self._token):
            for line in self._api.fetch_job_logs(job_id=id, namespace=owner, follow=True):
                yield redact(str(line), [self._token])

    def results(self, job: str, folder: Path) -> Path | None:
        """Fetches the packed sweep; `None` if the job has sent none."""
        with hub_errors("give the job's results", self._token):
            if not self._api.file_exists(repo := self.repo(job), RESULTS, repo_type="dataset"):
                return None
            self._api.hf_hub_download(repo, RESULTS, repo_type="dataset", local_dir=folder)
        return folder / RESULTS

    def remove(self, job: str) -> None:
        with hub_errors(f"remove {self.repo(job)}", self._token):
            self._api.delete_repo(self.repo(job), repo_type="dataset", missing_ok=True)

    def repo(self, job: str) -> str:
        """Raises for a job that is not one of `start`."""
        if job not in self._repos:
            name = str((self._inspect(job).labels or {}).get("name", ""))
            if not _NAME.fullmatch(name):
                raise FtlabError(f"The job {job} is none that `python -m ftlab send` started.")
            self._repos[job] = f"{job.partition('/')[0]}/{name}"
        return self._repos[job]

    def _inspect(self, job: str) -> Any:
        owner, _, id = job.partition("/")
        with hub_errors(f"say how the job {job} is", self._token):
            return self._api.inspect_job(job_id=id, namespace=owner)
