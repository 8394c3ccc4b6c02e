"""Reports and cards as files."""

from __future__ import annotations

import re
from pathlib import Path

from ftlab.errors import FtlabError
from ftlab.report.card.content import Card
from ftlab.report.card.png import card_png
from ftlab.report.card.svg import card_svg
from ftlab.runs.directory import write_atomically

CARD_KINDS = (".png", ".svg")
REPORT_KINDS = (".html", ".htm")


def check_target(path: Path) -> None:
    """Raises `FtlabError` where no file of that name can be made; costs nothing."""
    if path.is_dir():
        raise FtlabError(f"'{path}' is a folder; name a file in it, as in {path / 'report.html'}.")
    if path.exists() and not path.is_file():
        raise FtlabError(f"'{path}' is no file that can be replaced; name another.")
    if not path.absolute().parent.is_dir():
        raise FtlabError(
            f"The folder '{path.absolute().parent}' does not exist; make it first, or name a file "
            "in a folder that does."
        )


def check_report_target(path: Path) -> None:
    """As `check_target`; a report is an .html or .htm."""
    check_target(path)
    if path.suffix.lower() not in REPORT_KINDS:
        raise FtlabError(
            f"'{path}' is no name for a report: end it with {' or '.join(REPORT_KINDS)}."
        )


def check_card_target(path: Path) -> None:
    """As `check_target`; a card is a .png or an .svg."""
    if path.suffix.lower() not in CARD_KINDS:
        raise FtlabError(f"'{path}' is no name for a card: end it with {' or '.join(CARD_KINDS)}.")
    check_target(path)


def write_report(path: Path, page: str) -> None:
    """Writes the page as a whole; raises `FtlabError` if the file cannot be written."""
    # A record may hold halves of characters that no file can.
    _write(path, page.encode("utf-8", errors="replace"))


def write_card(path: Path, card: Card) -> None:
    """Writes the card as its name asks for, .png or .svg; raises as `write_report` does."""
    is_png = path.suffix.lower() == ".png"
    _write(path, card_png(card) if is_png else card_svg(card).encode("utf-8", errors="replace"))


def file_stem(kind: str, *names: str) -> str:
    """A file's name without its ending, safe anywhere: "ftlab-card-20261125-120000-ab12-LoRA"."""
    text = "-".join(["ftlab", kind, *filter(None, names)])
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:120]


def _write(path: Path, data: bytes) -> None:
    check_target(path)
    try:
        write_atomically(path.resolve(), data)  # a link's target, not the link
    except OSError as error:
        raise FtlabError(
            f"'{path}' cannot be written ({error.strerror}); "
            "make its folder writable or name another file."
        ) from None
