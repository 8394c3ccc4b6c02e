"""Reads a Dockerfile and executes its instructions in order, without Docker.

It knows what the repository's own Dockerfile uses: one stage, and instructions and flags that are
named here. Others raise `NotUnderstood`, so that nothing is left out in silence.

https://docs.docker.com/reference/dockerfile/ defines the format, and .dockerignore's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What the official Python images set, in which Python is in /usr/local/bin."""


class NotUnderstood(ValueError):
    """An instruction or a flag that is not executed here."""


@dataclass(frozen=True)
class Instruction:
    """`RUN apt-get …` as name and rest; lines that were continued are one."""

    line: int
    name: str
    rest: str


def instructions(text: str) -> Iterator[Instruction]:
    """Yields the instructions of a Dockerfile, without comments."""
    began, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or parts):
            continue
        began = began or number
        continued = line.rstrip().endswith("\\")
        parts.append(line.rstrip()[:-1] if continued else line)
        if not continued:
            name, _, rest = "".join(parts).strip().partition(" ")
            yield Instruction(began, name.upper(), rest.strip())
            began, parts = 0, list[str]()


@dataclass(frozen=True)
class Healthcheck:
    """The command that says whether the container is healthy, and Docker's times for it."""

    command: tuple[str, ...]
    times: Mapping[str, str]


@dataclass(frozen=True)
class Image:
    """What an image says of a container that is started from it."""

    base: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": PATH})
    folder: str = "/"
    user: str = "root"
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    healthcheck: Healthcheck | None = None


class Steps(Protocol):
    """What changes the files of an image."""

    def run(self, command: Sequence[str], image: Image, arguments: Mapping[str, str]) -> None:
        """Executes the command as the image's user, in its folder."""

    def copy(self, sources: Sequence[str], target: str) -> None:
        """Copies files of the context, or the content of its folders, as root's."""

    def make_folder(self, path: str) -> None: ...


def build(text: str, steps: Steps, given: Mapping[str, str]) -> Image:
    """Executes the instructions; `given` are values of build arguments.

    Raises `NotUnderstood`, also for an argument that the Dockerfile does not have.
    """
    image = Image()
    arguments: dict[str, str] = {}
    for each in instructions(text):
        filled = _filled({**arguments, **image.environment})
        match each.name:
            case "FROM":
                if image.base or " " in each.rest:
                    raise NotUnderstood(f"line {each.line}: more than one stage")
                image = replace(image, base=each.rest)
            case "ARG":
                name, _, value = each.rest.partition("=")
                arguments[name] = given.get(name, filled(value))
            case "ENV":
                pairs = [part.partition("=") for part in filled(each.rest).split()]
                if not all(equals for _, equals, _ in pairs) or '"' in each.rest:
                    raise NotUnderstood(f"line {each.line}: ENV takes NAME=VALUE here")
                new = {name: value for name, _, value in pairs}
                image = replace(image, environment={**image.environment, **new})
            case "WORKDIR":
                path = PurePosixPath(image.folder) / filled(each.rest)
                steps.make_folder(str(path))
                image = replace(image, folder=str(path))
            case "COPY":
                *sources, target = _without_flags(each, filled(each.rest)).split()
                is_folder = "/" if target.endswith("/") else ""
                steps.copy(sources, str(PurePosixPath(image.folder) / target) + is_folder)
            case "RUN":
                command = _command(_without_flags(each, each.rest))
                steps.run(command, image, {k: v for k, v in arguments.items() if v})
            case "USER":
                image = replace(image, user=filled(each.rest))
            case "VOLUME":
                image = replace(image, volumes=(*image.volumes, *_list(each)))
            case "EXPOSE":
                image = replace(image, ports=(*image.ports, *filled(each.rest).split()))
            case "STOPSIGNAL":
                image = replace(image, stop_signal=filled(each.rest))
            case "HEALTHCHECK":
                image = replace(image, healthcheck=_healthcheck(each))
            case "ENTRYPOINT":
                image = replace(image, entrypoint=_list(each))
            case "CMD":
                image = replace(image, command=_list(each))
            case _:
                raise NotUnderstood(f"line {each.line}: {each.name}")
    if unknown := set(given) - set(arguments):
        raise NotUnderstood(f"no ARG of that name: {', '.join(sorted(unknown))}")
    return image


def _filled(values: Mapping[str, str]) -> Callable[[str], str]:
    """Fills in `$NAME` and `${NAME}`, as Docker does in all instructions but commands."""

    def filled(text: str) -> str:
        return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda m: values.get(m[1] or m[2], ""), text)

    return filled


def _without_flags(each: Instruction, rest: str) -> str:
    if rest.startswith("--"):
        raise NotUnderstood(f"line {each.line}: {each.name} {rest.split()[0]}")
    return rest


def _command(rest: str) -> tuple[str, ...]:
    return tuple(json.loads(rest)) if rest.startswith("[") else ("/bin/sh", "-c", rest)


def _list(each: Instruction) -> tuple[str, ...]:
    if not each.rest.startswith("["):  # as a shell's command, signals would not reach the app
        raise NotUnderstood(f"line {each.line}: {each.name} without a list")
    return tuple(json.loads(each.rest))


def _healthcheck(each: Instruction) -> Healthcheck:
    options, found, command = each.rest.partition("CMD ")
    if not found:
        raise NotUnderstood(f"line {each.line}: HEALTHCHECK without CMD")
    times = dict(part.removeprefix("--").split("=", 1) for part in options.split())
    return Healthcheck(_command(command.strip()), times)


@dataclass(frozen=True)
class Ignored:
    """The rules of a .dockerignore: the last that matches a path, or a folder above it, counts."""

    rules: tuple[tuple[re.Pattern[str], bool], ...]

    @classmethod
    def read(cls, text: str) -> Ignored:
        lines = [line.strip() for line in text.splitlines()]
        return cls(
            tuple(
                (_pattern(line.removeprefix("!").strip("/")), not line.startswith("!"))
                for line in lines
                if line and not line.startswith("#")
            )
        )

    def __call__(self, path: str) -> bool:
        """Whether the file is left out; `path` is relative to the context, with "/"."""
        places = [path, *map(str, PurePosixPath(path).parents)][:-1]
        ignored = False
        for pattern, is_out in self.rules:
            if any(pattern.fullmatch(place) for place in places):
                ignored = is_out
        return ignored


def _pattern(rule: str) -> re.Pattern[str]:
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", rule)
    return re.compile("".join(kinds.get(part, re.escape(part)) for part in parts))


def context_files(root: Path, source: str, ignored: Ignored) -> Iterator[tuple[Path, Path]]:
    """`(file, path below the target)` of each file that `COPY source` takes from the context."""
    start = root / source
    if start.is_file():
        if not ignored(source):
            yield start, Path(start.name)
        return
    for file in sorted(start.rglob("*")):
        if file.is_file() and not ignored(file.relative_to(root).as_posix()):
            yield file, file.relative_to(start)
