"""A fresh Debian in a folder, and processes in it, as a container of Docker has them.

debootstrap makes it, with the mirror of this machine. Python is Debian's own, in an environment in
/usr/local, where the official Python images have theirs. What pip and TLS are configured to use on
this machine holds while the image is built, and not while it runs.

A process has namespaces of its own for processes, mounts, the network and the host's name; so no
mount is left, and a process that is process 1 takes all others with it. There are no limits of
memory, no seccomp profile and no layers, which Docker adds.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.install.dockerfile import Ignored, Image, context_files
from tests.processes import ROOT

APART = ("unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child")
NEEDED = ("debootstrap", "unshare", "nsenter", "chroot", "mount", "ip")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_OF_TLS = re.compile(r"(SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(HTTPS?|NO)_PROXY)", re.I)


def why_not() -> str:
    """Why no such root can be made here; "" if it can."""
    if os.geteuid() != 0:
        return "it needs root, for chroot and mounts"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing (Debian: apt-get install debootstrap iproute2)"
    done = subprocess.run([*APART, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


@dataclass(frozen=True)
class Binding:
    """A file or folder of this machine at a path of the root, as a volume or a secret."""

    source: Path
    target: str


@dataclass(frozen=True)
class FreshRoot:
    """The root. As `Steps` it is changed by the instructions of a Dockerfile."""

    folder: Path

    def make(self, image: str) -> None:
        """Fills the folder with what stands for an image such as `python:3.11-slim-bookworm`."""
        version, suite = image.removeprefix("python:").split("-slim-")
        mirror = debian_mirror()
        command = [
            "debootstrap",
            "--variant=minbase",
            "--include=python3,python3-venv,ca-certificates",
        ]
        _quietly([*command, suite, str(self.folder), *([mirror] if mirror else [])])
        for name in ("apt.conf", "apt.conf.d", "auth.conf.d"):
            _copy(Path("/etc/apt") / name, self.folder)
        for path in (Path("/etc/resolv.conf"), Path("/etc/hosts"), _CERTIFICATES):
            _copy(path, self.folder)
        self._quietly("python3", "-m", "venv", "/usr/local")
        found = self._quietly("/usr/local/bin/python", "--version").split()[1]
        assert found.startswith(version), f"the image has Python {version}, Debian {suite} {found}"

    def run(self, command: Sequence[str], image: Image, arguments: Mapping[str, str]) -> None:
        home = {} if "HOME" in image.environment else {"HOME": "/root"}
        given = {**machine_settings(), **arguments, **home, **image.environment}
        bound = [Binding(path, str(path)) for path in named_folders(given)]
        print(f"        RUN {' '.join(command[-1].split())[:80]} …", flush=True)
        _quietly([*APART, "sh", "-ec", self.script(bound, self.as_user(image, given, command))])

    def copy(self, sources: Sequence[str], target: str) -> None:
        ignored = Ignored.read((ROOT / ".dockerignore").read_text(encoding="utf-8"))
        for source in sources:
            files = list(context_files(ROOT, source, ignored))
            assert files, f"COPY {source}: there is no such file in the context"
            is_file = (ROOT / source).is_file() and not target.endswith("/")
            for file, below in files:
                place = self.inside(target) if is_file else self.inside(target) / below
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, place)
                os.chown(place, 0, 0)

    def make_folder(self, path: str) -> None:
        self.inside(path).mkdir(parents=True, exist_ok=True)

    def inside(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def ids(self, user: str) -> tuple[int, int]:
        """The numbers of the user and of its group, from the root's own /etc/passwd."""
        for line in self.inside("/etc/passwd").read_text().splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if user in (name, uid):
                return int(uid), int(gid)
        raise AssertionError(f"USER {user}: there is no such user in the image")

    def as_user(
        self, image: Image, environment: Mapping[str, str], command: Sequence[str]
    ) -> list[str]:
        """The command as the image's user, in its folder, below the root."""
        uid, gid = self.ids(image.user)
        values = [f"{name}={value}" for name, value in environment.items()]
        inside = ["env", "--ignore-environment", f"--chdir={image.folder}", *values]
        rights = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        if uid:  # as compose.yaml has it: no-new-privileges, and no capability
            rights += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        return ["chroot", str(self.folder), *rights, *inside, *command]

    def script(self, bound: Sequence[Binding], command: Sequence[str], *first: str) -> str:
        """A shell's lines: what is mounted, then the command in place of the shell."""
        lines = list(first)
        for each in (Binding(Path("/dev"), "/dev"), Binding(Path("/sys"), "/sys"), *bound):
            place = self.inside(each.target)
            if each.source.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
            lines.append(shlex.join(["mount", "--rbind", str(each.source), str(place)]))
        lines.append(shlex.join(["mount", "-t", "proc", "proc", str(self.inside("/proc"))]))
        return "\n".join([*lines, f"exec {shlex.join(command)}"])

    def _quietly(self, *command: str) -> str:
        return _quietly(
            [*APART, "sh", "-ec", self.script([], ["chroot", str(self.folder), *command])]
        )


def debian_mirror() -> str:
    """The mirror that apt uses on this machine; "" where debootstrap's default is to be used."""
    if "\nID=debian\n" not in f"\n{Path('/etc/os-release').read_text()}\n":
        return ""
    sources = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    found = re.compile(r"^(?:URIs:|deb\s+(?:\[.*\]\s+)?)\s*(https?://\S+)", re.MULTILINE)
    addresses = [each for path in sorted(sources) for each in found.findall(path.read_text())]
    return next((each for each in addresses if "security" not in each), "")


def machine_settings() -> dict[str, str]:
    """What pip is configured to do here, as its variables, and what concerns TLS and proxies."""
    told = _quietly([sys.executable, "-m", "pip", "config", "list"])
    pip = {}
    for line in told.splitlines():
        name, _, value = line.partition("=")
        pip[f"PIP_{name.rpartition('.')[2].upper().replace('-', '_')}"] = ast.literal_eval(value)
    return pip | {name: value for name, value in os.environ.items() if _OF_TLS.fullmatch(name)}


def named_folders(settings: Mapping[str, str]) -> list[Path]:
    """What the values of pip's settings name on this machine: wheels, constraints, certificates."""
    words = [
        word
        for name, value in settings.items()
        if name.startswith("PIP_")
        for word in value.split()
    ]
    paths = {Path(word) for word in words if word.startswith("/")}
    return sorted(path for path in paths if path.exists())


def _copy(path: Path, root: Path) -> None:
    place = root / str(path).lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, place, dirs_exist_ok=True)
    elif path.is_file():
        shutil.copy(path, place)


def _quietly(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert done.returncode == 0, f"{shlex.join(command)}:\n{said}"
    return done.stdout
