"""The stylesheet of a sweep's report, on top of the page's own."""

from __future__ import annotations

import base64

from ftlab.report.card.fonts import font_file


def stylesheet() -> str:
    """The rules, and the card's typeface in them where it is at hand: the file loads nothing."""
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
