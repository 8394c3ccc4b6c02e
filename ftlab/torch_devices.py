"""Names the cards that torch sees, as one line of JSON.

Run as: python -m ftlab.torch_devices

For cards that nothing else names without torch. Each has `name`, `memory_bytes`, `capability` (of
AMD's `null`, since their numbers mean something else) and `uuid` ("" of AMD's, and where torch does
not say).
"""

from __future__ import annotations

import json
from typing import Any


def torch_devices(cuda: Any, is_rocm: bool) -> list[dict[str, object]]:
    """`cuda` is `torch.cuda`, or a fake in tests."""
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
    """The card's UUID as NVML and `CUDA_VISIBLE_DEVICES` write it; "" where torch does not say."""
    uuid = str(getattr(properties, "uuid", ""))
    return uuid if not uuid or uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


if __name__ == "__main__":
    import torch

    print(json.dumps(torch_devices(torch.cuda, torch.version.hip is not None)))
