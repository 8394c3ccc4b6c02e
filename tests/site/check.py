"""Checks a built site: each file and anchor of a link exists, no page loads from another host.

Run as: python -m tests.site.check [build/site]

A link to another host is only parsed: no network is asked. Ends with status 1 if anything is wrong.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"script", "img", "source", "iframe", "video", "audio", "embed", "object"}
"""Elements whose address the browser fetches by itself."""

_FETCHED_LINKS = {
    "stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload",
}  # fmt: skip
"""Relations of a `link` that the browser acts on by itself; `canonical` or `next` it does not."""

_URL_OF_CSS = re.compile(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//([^\"')\s]+)")


@dataclass
class _Page(HTMLParser):
    """The anchors of a page, the addresses that it links to, and those that it loads."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        relations = set(given.get("rel", "").split())
        fetches = tag in _LOADED or (tag == "link" and bool(relations & _FETCHED_LINKS))
        sources = [given[name] for name in ("href", "src", "data", "poster") if name in given]
        sources += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        (self.loaded if fetches else self.links).extend(sources)


def problems(site: Path) -> Iterator[str]:
    """A sentence for each wrong address of the site: "PAGE: ADDRESS, and why"."""
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        for address in page.loaded:
            if urlsplit(address).netloc:
                yield f"{name}: loads {address} from another host"
        for address in [*page.links, *page.loaded]:
            why = _wrong(address, path, pages, site)
            if why:
                yield f"{name}: {address} {why}"
    for path in sorted(site.rglob("*.css")):
        for host in _URL_OF_CSS.findall(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site).as_posix()}: loads {host} from another host"


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _wrong(address: str, page: Path, pages: dict[Path, _Page], site: Path) -> str:
    """Why a link leads nowhere; "" if it leads somewhere, or to another host."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        return f"is no address: {error}"
    if parts.scheme in ("data", "mailto", "javascript"):
        return ""
    if parts.scheme or parts.netloc:
        is_web = parts.scheme in ("http", "https") and "." in parts.netloc
        is_local = (parts.hostname or "") in ("127.0.0.1", "localhost")
        return "" if is_web or is_local else "is no address of a web page"
    path = unquote(parts.path)
    if path.startswith("/"):
        target = site / path.lstrip("/")  # of the page "not found", which lies anywhere
    else:
        target = (page.parent / path).resolve() if path else page
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return "is not there"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "has no such anchor"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    site = Path(given[0] if given else "build/site").resolve()
    if not (site / "index.html").is_file():
        print(f"{site} holds no site; `make docs` builds it.", file=sys.stderr)
        return 2
    found = list(problems(site))
    for line in found:
        print(line)
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages, {len(found)} wrong addresses.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
