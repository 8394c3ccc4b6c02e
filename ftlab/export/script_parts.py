"""The parts of the reproduction script that differ from method to method, as text.

Each is written into `reproduce.py.template` where a run needs it, so that a script holds no line
for what the run did not do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

QUANTISED = {
    "nf4": (
        'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,\n'
        "        bnb_4bit_compute_dtype=COMPUTE_DTYPE,"
    ),
    "int8": "load_in_8bit=True,",
}
"""Arguments of `BitsAndBytesConfig` by base precision."""

_PLAIN_BASE = """\
    model = AutoModelForCausalLM.from_pretrained(base, dtype=WEIGHT_DTYPE).to(DEVICE)
"""

_QUANTISED_BASE = """\
    fewer_bits = BitsAndBytesConfig(
        {arguments}
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=WEIGHT_DTYPE, quantization_config=fewer_bits, device_map={{"": DEVICE}}
    )
    for module in model.modules():
        # An evaluation would repack 4-bit weights in place; after it nothing gets a gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
"""

FIND_ON_HUB = "    return BASE_MODEL"

FIND_BUNDLED = """\
    home = Path(os.environ.get("FTLAB_HOME", "~/.cache/ftlab")).expanduser()
    copy = home / "models" / {folder}
    return str(copy) if (copy / "model.safetensors").is_file() else BASE_MODEL"""
"""ftlab's own copy, where it is: the run was made on it, and no Hub is needed."""

FIND_FOLDER = """\
    sys.exit(
        "The run was made on a folder named " + BASE_MODEL + ", which no Hub has.\\n"
        "Name it: python reproduce.py FOLDER"
    )"""

_CHECKPOINTED = """\
    model.enable_input_require_grads()  # or checkpoints below the adapter carry no gradient
"""

_ADAPTER = """\
    model = get_peft_model(model, get_peft_config({config}))
"""

_LOW_PRECISION = """\
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # fp32 masters, computed in 16 bits
"""

_PART = """\
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in LEARNS)
"""

SAME_LOSSES = """\
There the losses come out the same; other
versions, devices and thread counts round otherwise, and in 16 bits that grows with the steps."""
LIKE_LOSSES = """\
There the losses come out alike: a
GPU may add in another order each time, so the last digits differ, and in 16 bits that grows with
the steps."""

CPU_ATTENTION_IMPORT = "\nfrom cpu_attention import use_cpu_attention"
CPU_ATTENTION = """\
use_cpu_attention()  # what the run used; without it torch's own rounds otherwise
"""

GPU_ATTENTION_IMPORT = "\nfrom gpu_attention import use_gpu_attention"
GPU_ATTENTION = """\
# As in the run: torch's cuDNN attention comes last, and none holds every score.
os.environ.setdefault({name}, {value})
use_gpu_attention(None if torch.version.hip else torch.cuda.get_device_capability())
"""

START_SAVED = """\
if options.save:  # this start changes the base's weights too: with it, what is saved fits the base
    model.save_pretrained(options.save / "start")
"""
SAVE_CONVERTED = ', path_initial_model_for_weight_conversion=str(options.save / "start")'

CHECKPOINTING = """
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": False},"""


def literal(value: Any) -> str:
    """The value as a formatter would write it in Python; a mapping or a long list over lines."""
    if isinstance(value, str):
        # Python reads JSON's escapes, but not its pairs of them for what lies beyond 16 bits.
        return json.dumps(value) if max(map(ord, value), default=0) < 2**16 else ascii(value)
    if isinstance(value, Mapping):
        lines = [f"    {literal(key)}: {literal(one)},\n" for key, one in value.items()]
        return "{\n" + "".join(lines) + "}" if lines else "{}"
    if isinstance(value, list | tuple):
        items = [literal(one) for one in value]
        flat = f"[{', '.join(items)}]"
        return flat if len(flat) <= 72 else "[\n" + "".join(f"    {i},\n" for i in items) + "]"
    return repr(value)


def load_model(
    base_precision: str | None,
    is_adapter: bool,
    some_learn: bool,
    low_precision: bool,
    checkpointing: bool,
    start_text: bool,
) -> str:
    """The function that loads the base and puts the method on it."""
    if base_precision is None:
        body = _PLAIN_BASE
    else:
        body = _QUANTISED_BASE.format(arguments=QUANTISED[base_precision])
    if checkpointing and (is_adapter or some_learn):
        body += _CHECKPOINTED
    if some_learn:
        body += _PART
    if is_adapter:
        own = 'PEFT_CONFIG | {"tokenizer_name_or_path": base}' if start_text else "PEFT_CONFIG"
        body += _ADAPTER.format(config=own)
        body += _LOW_PRECISION if low_precision else ""
    return f"def load_model(base):\n{body}    return model"
