"""The commands that documents name, as they stand there, with their placeholders.

Documents are Markdown files, the Makefile, and what a script says of itself after "Run as:".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PYTHON = re.compile(r"python -m\s+(tests(?:\.\w+)+|ftlab(?:\.\w+)*)([^`\n]*)")
_SCRIPT = re.compile(r"\btests/[\w/]+\.py\b")
_TARGET = re.compile(r"`make ([a-z-]+)|^\s*make ([a-z-]+)\s*(?:#.*)?$", re.MULTILINE)
_OPTION = re.compile(r"--[a-z][a-z-]*")
_VARIABLE = re.compile(r"^(\w+) [?:]?= (.*)$", re.MULTILINE)
_RUN_AS = re.compile(r"^(?:.* )?Run as: (python -m .*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_SCRIPT_ENDS = 'if __name__ == "__main__":'


@dataclass(frozen=True)
class Command:
    """`python -m MODULE …` as a document names it; `rest` is what comes after the module."""

    document: str
    module: str
    rest: str

    @property
    def options(self) -> list[str]:
        return _OPTION.findall(self.rest)

    def __str__(self) -> str:
        return f"{self.module} {self.rest}".strip()


def documents() -> dict[str, str]:
    """The text of each by its path; the Makefile's has its variables filled in."""
    texts = {
        _name(path): path.read_text(encoding="utf-8")
        for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")]
    }
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts["Makefile"] = with_variables(makefile)
    for path in sorted([*ROOT.glob("tests/**/*.py"), *ROOT.glob("ftlab/**/*.py")]):
        found = _RUN_AS.search(path.read_text(encoding="utf-8"))
        if found:
            texts[_name(path)] = " ".join(found[1].split())
    return texts


def with_variables(makefile: str) -> str:
    """A Makefile with the values that it gives its variables, `$$` being a dollar sign."""
    values = dict(_VARIABLE.findall(makefile))
    for _ in range(2):  # a value may name another
        makefile = re.sub(r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), makefile)
    return makefile.replace("$$", "$")


def commands(texts: Mapping[str, str]) -> Iterator[Command]:
    """Every `python -m tests.…` and `python -m ftlab…` of the documents, and every script that
    they name by its path."""
    for name, text in texts.items():
        for found in _PYTHON.finditer(text):
            rest = re.split(r"\s[#>&|(]|\s{3,}", found[2], maxsplit=1)[0].strip()
            yield Command(name, found[1], rest)
        if name.endswith(".md"):
            for path in _SCRIPT.findall(text):
                if _SCRIPT_ENDS in (ROOT / path).read_text(encoding="utf-8"):
                    module = path.removesuffix(".py").replace("/", ".")
                    yield Command(name, module, "")


def make_targets(texts: Mapping[str, str]) -> set[tuple[str, str]]:
    """`(document, target)` for every `make TARGET` of the Markdown documents."""
    return {
        (name, target)
        for name, text in texts.items()
        if name.endswith(".md")
        for pair in _TARGET.findall(text)
        for target in pair
        if target
    }


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
