"""Executes the Dockerfile in a fresh Debian, without Docker, and uses the app there: as the user of
the image, without a network but for the proxy of compose.yaml.

Run as: python -m tests.install.container

It needs root, debootstrap and iproute2; where one is missing it says so in one line and tests
nothing. Without Caddy it leaves out the proxy, and says so. How all this differs from Docker is in
tests/install/fresh_root.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.install import fresh_root
from tests.install.compose import Compose
from tests.install.dockerfile import build, instructions
from tests.install.fresh_root import FreshRoot
from tests.install.tried import Said, Tried
from tests.processes import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--torch",
        choices=("cpu", "cuda"),
        help="the variant (default: cpu where PyTorch's index of CPU builds answers, else cuda, "
        "which is taken from PyPI and also runs on a CPU)",
    )
    options = parser.parse_args(arguments)
    if why := fresh_root.why_not():
        print(f"SKIPPED: the container was not tested: {why}.")
        return 0
    said = Said(time.monotonic())
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    variant = options.torch or variant_to_be_had(text)
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="container-", dir=ROOT / "build") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        root = FreshRoot(folder / "root")
        root.make(next(each.rest for each in instructions(text) if each.name == "FROM"))
        said("debootstrap made what stands for the base image")
        image = build(text, root, {"TORCH": variant})
        said(f"the instructions were executed, TORCH={variant}")
        Tried(root, image, folder, variant, Compose.read(), said).all()
    return 0


def variant_to_be_had(text: str) -> str:
    """The smaller variant, if this machine reaches the index that it is taken from."""
    named = [each.rest.partition("=") for each in instructions(text) if each.name == "ARG"]
    (index,) = [value for name, _, value in named if name == "TORCH_CPU_INDEX"]
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=20):
            return "cpu"
    except OSError as error:
        print(f"SKIPPED: TORCH=cpu was not tested: its index cannot be reached ({error}).")
        return "cuda"


if __name__ == "__main__":
    sys.exit(main())
