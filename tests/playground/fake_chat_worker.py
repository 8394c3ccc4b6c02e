"""Speaks the endpoint's worker protocol without a model; the last message says how to behave.

Its argument is a file, to which it appends the model of each chat that ended.
"""

import json
import os
import sys
import threading
import time

stopped: set[int] = set()
log = sys.argv[1]


def read() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if message["content"] is None:
            stopped.add(message["number"])
        else:
            threading.Thread(target=answer, args=(message,), daemon=True).start()
    os._exit(0)


def say(number: int, update: dict | None = None) -> None:
    data = json.dumps({"number": number, "content": update}) + "\n"
    os.write(1, data.encode())


def note(what: str) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write(what + "\n")


def answer(message: dict) -> None:
    number, chat = message["number"], message["content"]
    told = chat["messages"][-1]["content"]
    facts = {"prompt_tokens": 5, "tokens": 2}
    if told == "die":
        os._exit(9)
    if told == "die later":
        say(number, {"kind": "text", "text": "so far", **facts})
        time.sleep(0.3)
        os._exit(9)
    if told == "too long":
        say(number, {"kind": "refused", "text": "The prompt has 9,000 tokens."})
    elif told == "broken":
        say(number, {"kind": "error", "text": "'LoRA' is damaged."})
    else:
        if told == "slow":
            for step in range(100):
                if number in stopped:
                    note(f"stopped {chat['name']}")
                    return
                say(number, {"kind": "text", "text": "slow " * (step + 1), **facts})
                time.sleep(0.02)
        text = json.dumps(chat) if told == "echo" else f"{chat['name']} says {told}"
        if chat["stream"]:
            say(number, {"kind": "text", "text": text[:2], **facts})
        note(f"answered {chat['name']}")  # before a client can see it
        say(number, {"kind": "done", "text": text, **facts, "finish_reason": "stop"})
    say(number)


read()
