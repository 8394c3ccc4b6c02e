"""What is said below the fields of "More": matched sizes, and PEFT's word on a PeftConfig."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftlab.access import EVERYTHING, Access
from ftlab.errors import FtlabError
from ftlab.methods.matching import FIELD as MATCH
from ftlab.methods.matching import Match, describe
from ftlab.methods.peft_variants import read_variants
from ftlab.runs.peft_check import FIELD as PEFT_JSON
from ftlab.runs.peft_check import Checked, check_variants
from ftlab.ui.experiment.request import EXTRA, read_form
from ftlab.ui.html import escape, field_error, plural
from ftlab.units import DASH, format_count

ASKING = '<p class="meta" role="status">Asking PEFT about it, which takes some seconds …</p>'


def more_summary(values: Mapping[str, Any]) -> str:
    """The label of the accordion: what is filled in there, or what could be."""
    lines = [line for line in str(values.get(EXTRA) or "").splitlines() if line.strip()]
    parts = [plural(len(lines), "further variant")] if lines else []
    budget = str(values.get(MATCH) or "").strip()
    if budget:
        parts.append(f"parameters matched to {budget[:20]}")
    if str(values.get(PEFT_JSON) or "").strip():
        parts.append("a PeftConfig by hand")
    usual = "a method at several settings, matched parameters, any other PEFT type"
    return "More: " + (", ".join(parts) or usual)


def matches_html(matches: Sequence[Match], budget: int) -> str:
    """One line a variant: the size that was chosen for it, and why it is off where it is."""
    lines = "".join(
        f'<li class="{"off" if match.reason else ""}">{escape(describe(match, budget))}</li>'
        for match in matches
    )
    return f'<ul class="matches">{lines}</ul>' if lines else ""


def has_config(values: Mapping[str, Any]) -> bool:
    """Whether there is a PeftConfig that PEFT can be asked about."""
    try:
        return bool(read_variants(str(values.get(PEFT_JSON) or "")))
    except FtlabError:
        return False  # said by the form's own check


def peft_html(values: Mapping[str, Any], access: Access = EVERYTHING) -> str:
    """What PEFT says of the form's configurations by hand. Takes seconds; remembered after."""
    if not has_config(values):
        return ""
    variants = read_variants(str(values[PEFT_JSON]))
    try:
        access.check_training()
        found = check_variants(variants, read_form(values, access).request)
    except FtlabError as error:
        return field_error([str(error)])
    return "".join(_verdict(checked) for checked in found)


def _verdict(checked: Checked) -> str:
    label = checked.variant.label
    if checked.error:
        return field_error([f"{label}: {checked.error}"])
    count = format_count(checked.trainable)
    learns = "" if count == DASH else f", {count} trainable parameters"
    return f'<p class="meta" role="status">{escape(label)}: PEFT takes it{learns}.</p>'
