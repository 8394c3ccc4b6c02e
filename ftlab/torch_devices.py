"""Names the cards that torch sees, as one line of JSON.

Run as: python -m ftlab.torch_devices

For makers whose cards nothing else names without torch. Each card has `name` and `memory_bytes`.
"""

from __future__ import annotations

import json
from typing import Any


def torch_devices(cuda: Any) -> list[dict[str, object]]:
    """`cuda` is `torch.cuda`, or a fake in tests."""
    if not cuda.is_available():
        return []
    found = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
    return [{"name": str(one.name), "memory_bytes": int(one.total_memory)} for one in found]


if __name__ == "__main__":
    import torch

    print(json.dumps(torch_devices(torch.cuda)))
