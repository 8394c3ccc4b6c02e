"""What one check of the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mark = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what is there, and what to do about it ("" where it is well).

    "warn" means that ftlab works, but not as well as it could; "fail" that something will not work.
    """

    check: str
    mark: Mark
    found: str
    fix: str = ""
