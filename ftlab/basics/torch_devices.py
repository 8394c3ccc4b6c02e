"""Queries torch for the cards of this machine; the caller has already imported torch.

Run as: python -m ftlab.basics.torch_devices

Prints the cards that torch sees as one line of JSON, for cards that NVML does not list.
"""

from __future__ import annotations

import json
import re
from typing import Any

_OTHER_TORCH = "install a torch that is built for the card (see pytorch.org)"
_WAYS_OUT = {
    "this torch has kernels for": _OTHER_TORCH,
    "no kernel image is available": _OTHER_TORCH,
    "busy or unavailable": (
        "end the process that has the card to itself (see `nvidia-smi`), or choose another device"
    ),
}
"""Fixes for a card that cannot compute at all, by a part of the error message."""


def way_out(said: str) -> str:
    """The fix for an error message about an unusable card; "" for any other error."""
    return next((way for sign, way in _WAYS_OUT.items() if sign in said), "")


def why_no_kernels(torch: Any) -> str:
    """Reports that the installed torch has no kernels for the first visible card; else "".

    In torch's list of architectures, "sm_80" is machine code for 8.0 and later cards of the same
    major version; "compute_90" is code (PTX) that the driver compiles for 9.0 and all later cards.
    """
    if torch.version.hip or not torch.cuda.is_available():
        return ""
    major, minor = capability = torch.cuda.get_device_capability(0)
    names = torch.cuda.get_arch_list()
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in names]
    known = [(one[1], (int(one[2]), int(one[3]))) for one in found if one]
    if not known or any(
        least <= capability and (kind == "compute" or least[0] == major) for kind, least in known
    ):
        return ""
    has = ", ".join(f"{one}.{two}" for _, (one, two) in known)
    return f"the card has compute capability {major}.{minor}, and this torch has kernels for {has}"


def torch_devices(cuda: Any, is_rocm: bool) -> list[dict[str, object]]:
    """`name`, `memory_bytes`, `capability` and `uuid` of each card, for `json.dumps`.

    `cuda` is `torch.cuda`. For AMD, `capability` is `None`, since its numbers have another meaning,
    and `uuid` is "". `uuid` is also "" if torch does not report it.
    """
    if not cuda.is_available():
        return []
    found = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
    return [
        {
            "name": str(one.name),
            "memory_bytes": int(one.total_memory),
            "capability": None if is_rocm else [int(one.major), int(one.minor)],
            "uuid": "" if is_rocm else card_uuid(one),
        }
        for one in found
    ]


def card_uuid(properties: Any) -> str:
    """The card's UUID in the format of NVML and `CUDA_VISIBLE_DEVICES`; "" if torch has none."""
    uuid = str(getattr(properties, "uuid", ""))
    return uuid if not uuid or uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


if __name__ == "__main__":
    import torch

    print(json.dumps(torch_devices(torch.cuda, torch.version.hip is not None)))
