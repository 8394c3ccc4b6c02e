"""The tour for a browser that has launched nothing yet: three steps above the comparison.

`assets/opening.js` decides whether it is shown, and which step; the stylesheet shows that step and
frames what it speaks of. All steps are in the page, so it needs no event of the server.
"""

from __future__ import annotations

from ftlab.tabs.widgets import Markup, escape

_CLOSE = ("closed", "Close for good")
_STEPS = (
    (
        "What it saves to train only a part of a model",
        "Full fine-tuning changes every weight of a model. The other methods train a small part, "
        "on the same examples. The sentence below says what that saved in memory and in the size "
        "of the file, and what it did to the quality of the answers. Every number was measured "
        "in a run.",
        (("2", "Next"), _CLOSE),
    ),
    (
        "Show it to others",
        Markup(
            "<b>Card</b> saves a picture for a slide, <b>Report</b> one file with every number and "
            "how it was measured. <b>Copy link</b> leads colleagues who can open this app to this "
            "view."
        ),
        (("3", "Next"), ("1", "Back"), _CLOSE),
    ),
    (
        "Try it with your own data",
        Markup(
            "<b>Experiment</b> takes a file with a question and an answer in each row, such as a "
            "CSV, or one of three small tasks that come with ftlab. Tick the methods and press "
            "<b>Launch</b>: the comparison then appears here."
        ),
        (("experiment", "Open Experiment"), ("2", "Back"), _CLOSE),
    ),
)
_NO_TRAINING = (
    "This demo trains nothing. <b>Experiment</b> shows what can be set; ftlab on a machine of "
    "your own trains on your file, and the comparison then appears here."
)

TOUR_AGAIN = '<button class="ghost" data-tour-to="1">Show the tour</button>'
"""HTML: shows the tour again; the last line of the tab."""


def tour_html(may_train: bool) -> str:
    """HTML: the steps, each with its buttons; a demo says that it does not train."""
    steps = ""
    for number, (title, words, buttons) in enumerate(_STEPS, 1):
        said = words if may_train or number < len(_STEPS) else Markup(_NO_TRAINING)
        pressed = "".join(
            f'<button class="{"ghost" if place else "ghost first"}" data-tour-to="{to}">'
            f"{escape(label)}</button>"
            for place, (to, label) in enumerate(buttons)
        )
        steps += (
            f'<div data-step="{number}"><h2 tabindex="-1">{escape(title)}</h2>'
            f"<p>{escape(said)}</p>"
            f'<div class="chips">{pressed}<small>{number} of {len(_STEPS)}</small></div></div>'
        )
    return f'<section class="tour" aria-label="Tour">{steps}</section>'
