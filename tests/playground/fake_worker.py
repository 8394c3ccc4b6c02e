"""Speaks the worker's protocol without a model; the prompt says how to behave."""

import json
import os
import queue
import sys
import threading
import time

lines: queue.Queue = queue.Queue()
stopped: set[int] = set()


def read() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if message["content"] is None:
            stopped.add(message["number"])
        else:
            lines.put(message)
    os._exit(0)


def say(number: int, update: dict | None = None) -> None:
    print(json.dumps({"number": number, "content": update}), flush=True)


threading.Thread(target=read, daemon=True).start()
if "leave" in sys.argv:
    lines.get()
    sys.exit(0)
while True:
    message = lines.get()
    number, request = message["number"], message["content"]
    print("a stray line that is no message", flush=True)
    for pane in range(len(request["panes"])):
        if request["prompt"] == "die" and pane == 1:
            os.kill(os.getpid(), 9)
        if request["prompt"] == "silent" and pane == 1:
            say(number, {"pane": pane, "kind": "status", "text": "loading"})
            ends = time.monotonic() + 5
            while number not in stopped and time.monotonic() < ends:
                time.sleep(0.01)
        if request["prompt"] == "slow":
            for _ in range(300):
                if number in stopped:
                    break
                say(number, {"pane": pane, "kind": "text", "text": "slow"})
                time.sleep(0.01)
        text = f"{request['prompt']} by {os.getpid()}"
        say(number, {"pane": pane, "kind": "text", "text": text[:2]})
        say(number, {"pane": pane, "kind": "done", "text": text, "tokens": 2})
    say(number)
