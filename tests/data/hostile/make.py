"""Makes the hostile files beside it anew.

Run as: python -m tests.data.hostile.make [--folder DIR]
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

FORMULAS = (
    "=1+1",
    '=HYPERLINK("http://x.example","click")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    " =1+1",
    '=IMPORTXML("http://x.example","//a")',
    '=WEBSERVICE("http://x.example")',
    '=DDE("cmd";"/C calc";"x")',
)
SCRIPTS = (
    "<script>hit()</script>",
    "</script><script>hit()</script>",
    "<img src=x onerror=hit()>",
    "<svg onload=hit()>",
    "<iframe srcdoc='<script>hit()</script>'>",
    "<body onload=hit()>",
    '<a href="javascript:hit()">x</a>',
    '<a href=" java&#x09;script:hit()">x</a>',
    '" onmouseover="hit()',
    "' autofocus onfocus='hit()",
    "<style>@import 'http://x.example'</style>",
    '<math><mi//xlink:href="data:x,<script>hit()</script>">',
    "<object data=javascript:hit()>",
    "<form action=javascript:hit()><button>",
    "<base href=http://x.example>",
    "<meta http-equiv=refresh content='0;url=http://x.example'>",
    "<!--<script>hit()</script>-->",
    "<details open ontoggle=hit()>",
    "<video><source onerror=hit()>",
    "<textarea></textarea><script>hit()</script>",
    "<title></title><script>hit()</script>",
    "{{hit()}}",
    "${hit()}",
    "%3Cscript%3Ehit()%3C/script%3E",
    "&lt;script&gt;hit()&lt;/script&gt;",
    "\\u003cscript\\u003ehit()",
    "<scr\x00ipt>hit()</scr\x00ipt>",
)
MARKDOWN = (
    "[x](javascript:hit())",
    "![x](http://x.example/p.png)",
    "![x](data:text/html,<script>hit()</script>)",
    "<http://x.example>",
    "[x]: http://x.example",
    "```\n</code><script>hit()</script>\n```",
    "| a | b |",
    "# heading",
    "---\ntitle: x\n---",
    "$$\\href{javascript:hit()}{x}$$",
)
CHARACTERS = (
    "a\x00b",
    "\ufeffa",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "a\u2028b",
    "a\x85b",
    "a\x1b[31mb\x1b]0;x\x07",
    "a\x08\x08b",
    "\u200b",
    "e" + "\u0301" * 200,
    "\U000e0041",
    "\ufffe",
    "\x7f",
    "ﷺ" * 20,
)
TEXTS = FORMULAS + SCRIPTS + MARKDOWN + CHARACTERS
"""Texts that must stay text wherever they are shown or written."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="make them there")
    folder = parser.parse_args(arguments).folder
    for name in ("datasets", "configs", "models"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name, data in (_taken() | _refused()).items():
        _write(folder / "datasets" / name, data)
    for name, changes in _configs().items():
        _write(folder / "configs" / f"{name}.json", json.dumps(_CONFIG | changes).encode())
    for name, data in _models().items():
        _write(folder / "models" / name, data)
    return 0


def _taken() -> dict[str, bytes]:
    pairs = [(text, text) for text in TEXTS]
    rows = [{"prompt": f"{text} {i}", "completion": text} for i, text in enumerate(TEXTS)]
    columns = {f"<script>{i}": "x" for i in range(3)} | {"=1+1": "y", "\u202ex": "z"}
    return {
        "taken/texts.csv": _csv([("prompt", "completion"), *pairs]),
        "taken/texts.json": json.dumps(rows).encode(),
        "taken/texts.jsonl": b"\n".join(json.dumps(row).encode() for row in rows),
        "taken/separators.jsonl": "\n".join(
            json.dumps({"prompt": f"a\u2028b\x85c {i}", "completion": "d"}, ensure_ascii=False)
            for i in range(4)
        ).encode(),
        "taken/columns.json": json.dumps([row | columns for row in rows[:6]]).encode(),
        "taken/numbers.json": json.dumps(
            [
                {"prompt": value, "completion": i}
                for i, value in enumerate((1e308, -0.0, 2**70, float("inf"), 1, True, 0.1))
            ]
        ).encode(),
        "taken/marked.csv": b"\xef\xbb\xbf" + _csv([("prompt", "completion"), *pairs[:5]]),
        "taken/chats.json": json.dumps(
            [
                {
                    "messages": [
                        {"role": "user", "content": f"{text}{i}"},
                        {"role": "assistant", "content": text + "."},
                    ]
                }
                for i, text in enumerate(TEXTS)
            ]
        ).encode(),
    }


def _refused() -> dict[str, bytes]:
    good = "prompt,completion\n" + "a,b\n" * 4
    deepest = '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}"  # Python 3.13 reads thousands
    deep = '{"prompt": ' + "[" * 13_500 + "]" * 1_500 + "}"
    return {
        "refused/utf16.csv": good.encode("utf-16"),
        "refused/latin1.csv": "prompt,completion\né,b\n".encode("latin-1"),
        "refused/utf7.json": b"+AHs-",
        "refused/half.json": rb'[{"prompt": "\ud800", "completion": "x"}]',
        "refused/half-name.json": rb'[{"\udfff": "x"}]',
        "refused/ragged.csv": b"prompt,completion\na,b\nc\nd,e,f\n",
        "refused/doubles.csv": b"prompt,prompt,completion\na,b,c\n",
        "refused/unnamed.csv": b"prompt,,completion\na,b,c\n",
        "refused/open-quote.csv": b'prompt,completion\n"a,b\n' * 3,
        "refused/bare-quote.csv": b'prompt,completion\na"b,"c"d\n',
        "refused/deep.json": (f"[{deepest}]").encode(),
        "refused/deeper.json": b"[" * 20_000,
        "refused/deep.jsonl": deep.encode(),
        "refused/long-number.json": b'[{"prompt": ' + b"9" * 5_000 + b"}]",
        "refused/not-a-list.json": b'"prompt"',
        "refused/two-lists.json": b'{"a": [], "b": []}',
        "refused/scalars.json": b"[1, null, true]",
        "refused/trailing.json": b"[] x",
        "refused/single-quotes.json": b"[{'prompt': 'a'}]",
        "refused/comments.json": b"// a\n[]",
        "refused/yaml-laughs.json": b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        "refused/xml-laughs.csv": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "x">]>\n',
        "refused/pickle.json": pickle.dumps([{"prompt": "a"}]),
        "refused/pickle.parquet": pickle.dumps([{"prompt": "a"}]),
        "refused/zip.csv": b"PK\x03\x04" + bytes(range(256)),
        "refused/gzip.jsonl": b"\x1f\x8b\x08" + bytes(40),
        "refused/magic-only.parquet": b"PAR1" + b"\xff" * 40 + b"PAR1",
        "refused/empty.csv": b"",
        "refused/blank.json": b" \n\t ",
        "refused/nul.csv": b"\x00" * 64,
        "refused/long-name.json": json.dumps([{"n" * 5_000: 1, "prompt": "a"}]).encode(),
        "refused/no-prompt.json": json.dumps([{"a": 1, "b": 2}] * 3).encode(),
        "refused/empty-cells.csv": b"prompt,completion\n,\n , \n",
        "refused/program.exe": b"MZ\x90\x00",
        "refused/data.pkl": pickle.dumps([{"prompt": "a"}]),
        "refused/data.pt": b"PK\x03\x04",
    }


_CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
}


def _configs() -> dict[str, dict[str, Any]]:
    return {
        "auto-map": {"auto_map": {"AutoModel": "x--modeling.Evil"}},
        "custom-module": {"custom_modules": {"torch.nn.Linear": "os.system"}},
        "megatron": {"megatron_config": {"a": 1}, "megatron_core": "os"},
        "auto-mapping": {"auto_mapping": {"base_model_class": "x", "parent_library": "os"}},
        "unknown-type": {"peft_type": "EVIL"},
        "no-type": {"peft_type": None},
        "type-is-a-list": {"peft_type": ["LORA"]},
        "no-base": {"base_model_name_or_path": ""},
        "base-is-a-number": {"base_model_name_or_path": 1},
        "base-with-escapes": {"base_model_name_or_path": "a\x1b[31mb"},
        "other-task": {"task_type": "SEQ_CLS"},
        "pissa": {"init_lora_weights": "pissa"},
        "loftq": {"init_lora_weights": "loftq"},
        "replication": {"layer_replication": [[0, 99999999]]},
        "bias": {"bias": "all"},
        "rank-of-billions": {"r": 10**9},
        "negative-rank": {"r": -1},
        "rank-is-a-text": {"r": "2"},
        "rank-is-true": {"r": True},
        "rank-pattern-of-billions": {"rank_pattern": {".*": 10**9}},
        "rank-pattern-is-a-list": {"rank_pattern": [1]},
        "arrow": {"arrow_config": {"top_k": 1}},
        "shadow": {"peft_type": "SHADOW", "shadow_model": "evil/model"},
        "x-lora": {"peft_type": "XLORA"},
    }


def _models() -> dict[str, bytes]:
    config = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}).encode()
    remote = json.dumps(
        {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    ).encode()
    return {
        "auto-map/config.json": remote,
        "auto-map/model.safetensors": b"\x02" + bytes(7) + b"{}",
        "auto-map/modeling_evil.py": b"raise SystemExit('this must never run')\n",
        "only-bin/config.json": config,
        "only-bin/pytorch_model.bin": pickle.dumps({"a": 1}),
        "only-pt/config.json": config,
        "only-pt/model.pt": pickle.dumps({"a": 1}),
        "only-pkl/config.json": config,
        "only-pkl/model.pkl": pickle.dumps({"a": 1}),
        "no-config/model.safetensors": b"\x02" + bytes(7) + b"{}",
        "config-is-no-json/config.json": b"{ torn",
        "config-is-no-json/model.safetensors": b"\x02" + bytes(7) + b"{}",
        "config-is-a-list/config.json": b"[1]",
        "config-is-a-list/model.safetensors": b"\x02" + bytes(7) + b"{}",
        "config-is-deep/config.json": b"[" * 20_000,
        "config-is-deep/model.safetensors": b"\x02" + bytes(7) + b"{}",
    }


def _csv(rows: list[tuple[str, ...]]) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
