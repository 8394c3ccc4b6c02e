"""Sends chats to the endpoint's worker process from an event loop. Imports no torch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from ftlab.basics.processes import WorkerClient, module_command
from ftlab.jobs.control import control_folder
from ftlab.models.reference import names_hub_model
from ftlab.playground.chat import ChatRequest, ChatUpdate, Offer

SECONDS_BETWEEN_LOOKS = 0.1
"""How often a thread that waits for its worker looks whether its reader has left."""

_Heard = ChatUpdate | Exception | None


class ChatClient:
    """One worker process, started on first use, that answers many chats at once.

    `command` replaces the worker's command line (for tests).
    """

    def __init__(
        self, runs_folder: Path, offer: Offer, command: Sequence[str] | None = None
    ) -> None:
        self.log_file = control_folder(runs_folder) / "endpoint.log"
        options = (str(runs_folder.resolve()), *offer.arguments())
        command = command or module_command("ftlab.playground.chat_worker", *options)
        self._worker = WorkerClient(command, self.log_file, names_hub_model(offer.model))

    @property
    def is_loaded(self) -> bool:
        """Whether the worker process is running."""
        return self._worker.process_id is not None

    async def answer(self, chat: ChatRequest) -> AsyncGenerator[ChatUpdate, None]:
        """Yields updates until one that is not "text". Closing it early ends the chat's row.

        Raises `WorkerEnded` or `OSError` if the worker ended or cannot be started.
        """
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[_Heard] = asyncio.Queue()
        has_left = threading.Event()

        def tell(what: _Heard) -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(heard.put_nowait, what)

        def listen() -> None:
            try:
                with closing(self._worker.ask(chat, SECONDS_BETWEEN_LOOKS)) as answer:
                    for said in answer:
                        if has_left.is_set():
                            return
                        if said is not None:
                            tell(ChatUpdate(**said))
                tell(None)
            except Exception as error:
                tell(error)

        threading.Thread(target=listen, daemon=True).start()
        try:
            while (said := await heard.get()) is not None:
                if isinstance(said, Exception):
                    raise said
                yield said
        finally:
            has_left.set()

    def close(self) -> None:
        """Ends the worker and frees its memory."""
        self._worker.close()
