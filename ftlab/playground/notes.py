"""What differs between a pane's arithmetic and that of the run that made it."""

from __future__ import annotations

from ftlab.playground.panes import BASE, BROUGHT, PaneSource
from ftlab.playground.protocol import PRECISIONS, Precision


def note_on(source: PaneSource, precision: Precision) -> str:
    """A sentence for the pane; "" where nothing differs."""
    if source.name == BASE or source.name.startswith(BROUGHT):
        return ""  # how an adapter from elsewhere was trained is not known
    here = PRECISIONS[precision]
    if source.base_precision != (precision if precision == "nf4" else None):
        if source.is_part:
            return ""  # it cannot answer there, and says so itself
        if not source.is_adapter:
            return "A full fine-tuning has weights of its own; they answer here in 16 bits."
        if source.base_precision is not None:
            return (
                f"Trained on a base held in {source.base_precision}; answered here on the base in "
                f"{here}, so the answer may differ from the run's own samples."
            )
        return f"Trained on an unquantised base; answered here on the base in {here}."
    policy = "fp32" if precision == "fp32" else "bf16"
    if source.base_precision is None and source.dtype_policy != policy:
        return (
            f"Trained under the dtype policy {source.dtype_policy}; answered here in {here}, "
            "so the answer may differ from the run's own samples."
        )
    return ""
