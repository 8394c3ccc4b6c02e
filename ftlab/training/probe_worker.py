"""The process that probes one variant on a tiny model, which may be a PeftConfig of anybody.

It reads the variant as JSON from stdin, and writes its `Capability` as JSON to stdout.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from ftlab.methods.variant import Variant
from ftlab.models.libraries import lasting_imports, prepare_for_libraries


def main() -> int:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print to stdout
    variant = TypeAdapter(Variant).validate_json(sys.stdin.read())
    prepare_for_libraries("cpu")
    with lasting_imports():
        from ftlab.training.probe import in_silence, probe

    in_silence()
    with tempfile.TemporaryDirectory() as folder, answer:
        json.dump(asdict(probe([variant], Path(folder))[variant.method]), answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
