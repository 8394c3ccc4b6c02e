"""What a visitor of the public demo is told at the top of every tab."""

from __future__ import annotations

import re

from ftlab.ui.html import escape

_SPACE_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def banner_html(space: str) -> str:
    """What can be done here and what cannot, and how to duplicate the Space of that id."""
    duplicate = "duplicate this Space"
    if _SPACE_ID.fullmatch(space):
        address = f"https://huggingface.co/spaces/{space}?duplicate=true"
        duplicate = f'<a href="{escape(address)}" target="_blank" rel="noopener">{duplicate}</a>'
    return (
        '<p class="meta" role="note"><b>Public demo.</b> Look at the recorded sweeps in Results '
        "and Compare, ask the adapters that ship in the Playground, see what fits your card in "
        "Plan, and how the methods work in Learn. Nothing is trained, uploaded or kept here: to "
        f"run it on your own data, {duplicate} and set its secret <code>FTLAB_AUTH</code> to "
        "<code>user:password</code>.</p>"
    )
