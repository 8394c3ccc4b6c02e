"""Builds one self-contained HTML file: no network, light and dark mode, printable.

Only the scripts given to it can run; the content security policy lists their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from markupsafe import escape

from ftlab.share.card import font_file

_STYLE = """
:root { color-scheme:light; --ink:#1b2129; --muted:#57606e; --line:#dfe3e8; --page:#f4f6f8;
  --panel:#fff; --ok:#11704f; --ok2:#dff3ea; --warn:#7a4f00; --warn2:#fbefd3; --bad:#b3261e;
  --bad2:#fce5e3; --sunk:#f4f6f8 }
@media screen and (prefers-color-scheme: dark) {
  :root { color-scheme:dark; --ink:#e4e8ed; --muted:#9ba6b4; --line:#2a313b; --page:#0b0e13;
    --panel:#14181f; --ok:#5fd3a5; --ok2:#12352a; --warn:#f0bd5b; --warn2:#3a2d10; --bad:#ff9088;
    --bad2:#43201e; --sunk:#0f1319 }
}
* { box-sizing:border-box }
body { margin:0; background:var(--page); color:var(--ink); font:14px/1.5 system-ui,sans-serif;
  font-variant-numeric:tabular-nums; overflow-wrap:anywhere }
main { max-width:1400px; margin:0 auto; padding:24px 16px 48px }
h1 { font-size:22px; line-height:1.3; margin:0 0 16px }
h2 { font-size:17px; line-height:1.35; margin:0 0 6px }
section { background:var(--panel); border:1px solid var(--line); border-radius:8px; padding:16px;
  margin:0 0 16px }
p { margin:0 0 12px }
.meta, small { color:var(--muted); font-size:13px }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; margin:0 0 16px }
th, td { text-align:left; vertical-align:top; padding:6px 8px; border-bottom:1px solid var(--line) }
th { font-size:13px; font-weight:600 }
td.num, th.num { text-align:right; white-space:nowrap }
.text { white-space:pre-wrap; font:13px/1.45 ui-monospace,monospace }
.sw { display:inline-block; width:10px; height:10px; border-radius:2px; margin-right:6px;
  background:var(--c) }
.chip { display:inline-block; border-radius:5px; padding:1px 7px; margin-top:4px; font-size:12px;
  background:var(--sunk); color:var(--muted); border:1px solid var(--line) }
.chip.ok { background:var(--ok2); color:var(--ok); border-color:transparent }
.chip.bad { background:var(--bad2); color:var(--bad); border-color:transparent }
.chip.warn { background:var(--warn2); color:var(--warn); border-color:transparent }
.answers { table-layout:fixed; min-width:640px }
.answers .n { width:40px; color:var(--muted) }
@media screen and (max-width: 700px) {
  section { padding:12px }
  .stack { min-width:0 }
  .stack, .stack tbody, .stack tr, .stack td, .stack tbody th { display:block; width:auto }
  .stack thead { display:none }
  .stack tr { border-bottom:2px solid var(--line); padding:8px 0 }
  .stack td, .stack tbody th { border:0; padding:3px 0 }
  .stack td[data-label]::before { content:attr(data-label); display:block; font-weight:600;
    font-size:13px }
  .stack td.num { display:flex; justify-content:space-between; gap:12px }
  .stack td.num::before { font-weight:400; text-align:left; color:var(--muted); white-space:normal }
}
@media print {
  * { print-color-adjust:exact }
  body { background:none; font-size:11.5px }
  main { padding:0; max-width:none }
  section { border:0; padding:0; margin:0 0 22px }
  h2, h3 { break-after:avoid }
  tr { break-inside:avoid }
  .scroll { overflow:visible }
}
"""

_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
    "font-src data:; img-src data:"
)
"""Opening the file runs no script of a section and loads nothing from the network."""


def standalone(
    title: str, sections: Sequence[str], style: str = "", scripts: Sequence[str] = ()
) -> str:
    """Returns the page as one self-contained document.

    `title` is plain text. Each section is HTML from a function of this package, in which all text
    of models, files and people is escaped. `style` is extra CSS. `scripts` run in order, after the
    sections; they contain nothing from a record.
    """
    body = "".join(f"<section>{section}</section>\n" for section in sections)
    run = "".join(f"<script>{script}</script>\n" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}</main>\n{run}</body>\n</html>\n"
    )


def _policy(scripts: Sequence[str]) -> str:
    if not scripts:
        return _POLICY
    for script in scripts:
        if "</script" in script.lower() or "\r" in script or "\0" in script:
            raise ValueError("a browser would not read this script as it is written")
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return f"{_POLICY} blob:; script-src {hashes}"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def stylesheet() -> str:
    """The CSS rules, with the card's font embedded if it is found: the file loads nothing."""
    return "".join(_face(bold) for bold in (False, True)) + _RULES


def _face(bold: bool) -> str:
    path = font_file(bold)
    if path is None:
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'@font-face {{ font-family:"IBM Plex Sans"; font-weight:{700 if bold else 400};'
        f' src:url("data:font/woff2;base64,{data}") format("woff2") }}\n'
    )


_RULES = """
:root { --figink:#57606e; --figgrid:#e6e9ee }
@media screen and (prefers-color-scheme: dark) { :root { --figink:#aab4c0; --figgrid:#2a313b } }
body { font-family:"IBM Plex Sans",system-ui,sans-serif }
th, b { font-weight:700 }
h3 { font-size:14px; line-height:1.4; margin:14px 0 4px }
h4 { font-size:13px; line-height:1.4; margin:8px 0 2px }
small { font-size:12px; font-weight:400 }
code, pre { font:12.5px/1.5 ui-monospace,monospace }
pre { white-space:pre-wrap; background:var(--sunk); border:1px solid var(--line); border-radius:6px;
  padding:10px 12px; margin:0 0 12px }
ul { margin:0 0 12px; padding-left:20px }
.list { margin:0 0 4px }
.chip { margin-top:0 }
.chip.measured, .chip.recorded, .chip.imported { color:var(--ink); background:none;
  border-color:var(--muted) }
.chip.recorded { background:repeating-linear-gradient(135deg,
  color-mix(in srgb, var(--muted) 22%, transparent) 0 3px, transparent 3px 7px) }
.chip.imported { border-style:dashed }
.card svg { display:block; width:100%; max-width:1100px; height:auto; margin:0 auto;
  border:1px solid var(--line); border-radius:8px }
.card.dark { display:none }
@media screen and (prefers-color-scheme: dark) {
  .card.dark { display:block }
  .card.light { display:none }
}
.fair { margin:6px 0 10px }
.fair p { margin:6px 0 0 }
.fair b { color:var(--ink) }
.fair .differs { color:var(--warn) }
table.results { table-layout:fixed }
table.results thead th:first-child { width:190px }
table.results small { display:block; color:var(--muted) }
table.results td.num { white-space:normal }
table.results thead th { white-space:normal }
table.pairs { max-width:1000px }
table.pairs th { width:190px; font-weight:400; color:var(--muted) }
.key { display:flex; flex-wrap:wrap; gap:2px 18px; margin:0 0 4px; font-size:13px }
.fig { margin:0 0 10px; min-width:0 }
.fig h3, .fig h4 { text-wrap:balance }
.fig .meta { margin:2px 0 0 }
.bars { display:grid; grid-template-columns:repeat(auto-fit, minmax(min(100%, 290px), 1fr));
  gap:4px 20px }
.figs { display:grid; grid-template-columns:repeat(auto-fit, minmax(min(100%, 520px), 1fr));
  gap:14px 28px }
.plot { min-width:0; color:var(--muted); font-size:12px }
.js-plotly-plot text[style*="rgb(87, 96, 110)"] { fill:var(--figink) !important }
.js-plotly-plot .gridlayer path { stroke:var(--figgrid) !important }
.example { border-top:1px solid var(--line); padding:4px 0 12px }
.prompt { background:var(--sunk); border-radius:6px; padding:8px 10px; margin:0 0 6px }
.wanted { margin:0 0 8px }
.side { display:grid; grid-template-columns:repeat(auto-fill, minmax(min(100%, 300px), 1fr));
  gap:10px 18px }
.said p { margin:0 0 2px }
@media print {
  table.results thead th:first-child { width:24% }
  .fig, .example, .card, figure, pre { break-inside:avoid }
  .bars { grid-template-columns:1fr 1fr }
  .figs { grid-template-columns:1fr }
  .side { grid-template-columns:1fr 1fr }
  .plot { height:auto !important }
  .js-plotly-plot .plot-container, .js-plotly-plot .svg-container { width:100% !important;
    height:auto !important }
  .js-plotly-plot .main-svg { width:100% !important; height:auto !important }
  .js-plotly-plot .main-svg:first-of-type { position:static !important }
  .modebar, .hoverlayer { display:none }
}
"""
