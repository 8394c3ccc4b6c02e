"""Tests whether torch and bitsandbytes compute on a device; prints one line of JSON.

Run as: python -m ftlab.operations.torch_probe DEVICE

`error` and `bitsandbytes` are the errors of torch and of a 4-bit layer; "" if there was none.
"""

from __future__ import annotations

import json
import sys

from ftlab.basics.errors import one_line
from ftlab.basics.torch_devices import why_no_kernels
from ftlab.models.libraries import prepare_for_libraries


def probe(device_id: str) -> dict[str, str]:
    prepare_for_libraries(device_id)
    kind = device_id.partition(":")[0]
    found = {"device": device_id, "error": "", "bitsandbytes": ""}
    try:
        import torch

        lacks = why_no_kernels(torch) if kind == "cuda" else ""
        if lacks:
            return found | {"error": lacks}
        x = torch.ones(4, 64, device=kind, dtype=torch.bfloat16, requires_grad=True)
        (x @ x.T).sum().backward()
        if x.grad is None or not torch.isfinite(x.grad).all():
            raise ArithmeticError("a product in bf16 has no gradient")
    except Exception as error:  # any error is reported by the doctor
        found["error"] = one_line(error)
        return found
    try:
        import bitsandbytes

        layer = bitsandbytes.nn.Linear4bit(64, 64, compute_dtype=torch.bfloat16, quant_type="nf4")
        given = torch.ones(4, 64, device=kind, dtype=torch.bfloat16, requires_grad=True)
        layer.to(kind)(given).sum().backward()
        if given.grad is None or not torch.isfinite(given.grad).all():
            raise ArithmeticError("a 4-bit layer has no gradient")
    except Exception as error:
        found["bitsandbytes"] = one_line(error)
    return found


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
