"""The gradio theme, and what `launch()` puts into the page's head."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from ftlab.paths import assets_folder

RESTORE_MODE = """() => {
  const mode = localStorage.getItem('ftlab-theme');
  if (mode && !location.search.includes('__theme')) {
    document.body.classList.toggle('dark', mode === 'dark');
  }
}"""
"""Run when the page has loaded: light or dark as it was chosen last."""

FIT_FIGURES = "() => setTimeout(() => window.ft.fit(), 60)"
"""Run when a tab is opened: a figure drawn in a hidden tab has a wrong width."""

_SANS = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))
_MONO = gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700))

# Light and dark value of the theme variables that have a twin for dark mode.
_PAIRS = {
    "body_background_fill": ("#f4f5f7", "#0d1015"),
    "background_fill_primary": ("#ffffff", "#14181f"),
    "background_fill_secondary": ("#f7f8fa", "#1a1f27"),
    "body_text_color": ("#1b2129", "#e4e8ed"),
    "body_text_color_subdued": ("#57606e", "#9ba6b4"),
    "border_color_primary": ("#dfe3e8", "#2a313b"),
    "block_background_fill": ("transparent", "transparent"),
    "block_border_width": ("0px", "0px"),
    "block_title_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
    "input_background_fill": ("#ffffff", "#0f1319"),
    "input_border_color": ("#848e9b", "#616d7c"),  # 3:1: the border says where a field is
    "input_border_color_focus": ("#4f46e5", "#8f8cff"),
    "input_placeholder_color": ("#6b7482", "#8e99a8"),
    "slider_color": ("#4f46e5", "#818cf8"),
    "button_border_width": ("1px", "1px"),
    "button_primary_background_fill": ("#4f46e5", "#5b54ec"),
    "button_secondary_background_fill": ("#ffffff", "#1a1f27"),
    "button_secondary_background_fill_hover": ("#f0f2f5", "#232a34"),
    "button_secondary_border_color": ("#cfd5dc", "#343d49"),
    "button_secondary_text_color": ("#1b2129", "#e4e8ed"),
    "button_cancel_text_color": ("#b3261e", "#ff9088"),
    "button_cancel_border_color": ("#e3b3b0", "#6b3532"),
    "button_cancel_background_fill": ("transparent", "transparent"),
    "checkbox_border_color": ("#848e9b", "#616d7c"),
    "checkbox_label_background_fill": ("transparent", "transparent"),
    "checkbox_label_border_width": ("0px", "0px"),
    "table_even_background_fill": ("#ffffff", "#14181f"),
    "table_odd_background_fill": ("#ffffff", "#14181f"),
    "table_border_color": ("#e6e9ee", "#262d36"),
    "accordion_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
}

_SINGLES = {
    "block_padding": "0px",
    "block_title_text_size": "12px",
    "block_title_text_weight": "400",
    "block_title_padding": "0 0 3px",
    "block_info_text_size": "12px",
    "layout_gap": "10px",
    "form_gap_width": "10px",
    "input_border_width": "1px",
    "input_padding": "6px 8px",
    "input_text_size": "13px",
    "color_accent": "#4f46e5",
    "section_header_text_size": "13px",
    "section_header_text_weight": "700",
    "button_primary_background_fill_hover": "#4338ca",
    "button_primary_border_color": "#4f46e5",
    "button_large_padding": "7px 16px",
    "button_large_text_size": "13px",
    "button_medium_padding": "5px 12px",
    "button_small_padding": "3px 10px",
    "button_small_text_size": "12px",
    "checkbox_label_padding": "4px 8px",
}


def make_theme() -> gr.themes.Base:
    """Dense, grey, one accent; gradio's own fonts, so nothing comes from a network."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.Size("1px", "2px", "4px", "6px", "8px", "8px", "12px"),
        text_size=gr.themes.Size("10px", "11px", "12px", "13px", "14px", "16px", "20px"),
        font=[_SANS, "system-ui", "sans-serif"],
        font_mono=[_MONO, "monospace"],
    )
    values = dict(_SINGLES)
    for name, (light, dark) in _PAIRS.items():
        values |= {name: light, f"{name}_dark": dark}
    return theme.set(**values)


def page_head() -> str:
    """Script and stylesheets for the page's head; `style.css` comes first, then each tab's own.

    Not `css=`: gradio rewrites that and drops `@container` and page rules inside `@media`.
    """
    assets = assets_folder()
    scripts = "".join(f"<script>{_read(path)}</script>" for path in sorted(assets.glob("*.js")))
    sheets = sorted(assets.glob("*.css"), key=lambda path: (path.name != "style.css", path.name))
    return scripts + "".join(f"<style>{_read(path)}</style>" for path in sheets)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
