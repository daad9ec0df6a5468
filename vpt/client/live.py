"""Live events by Socket.IO: each once and in order, again after every cut, and only best effort.

Whoever needs to know how something ended asks the REST API.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import socketio
from socketio.exceptions import SocketIOError

from vpt.client.api import Api
from vpt.model import ExecutionStatus, Json

#: Seconds: for an answer; between tries to connect, at most; to say goodbye.
_ANSWER, _LONGEST_PAUSE, _GOODBYE = 20.0, 3.0, 1.0

Told = Callable[[str, Json], None]
Subject = tuple[str, str]  # the name of its id, and the id


class Wire:
    """Tells `told(event name, payload)` what happens to whatever is followed."""

    def __init__(self, api: Api, told: Told) -> None:
        """Take the server and the listener, which must not fail."""
        self._api, self._told = api, told
        self._seqs: dict[Subject, int] = {}
        self._over: set[Subject] = set()
        self._client = socketio.AsyncClient(
            logger=False,
            http_session=api.session,
            handle_sigint=False,  # it would end all tasks of ours
            reconnection_delay=0.2,
            reconnection_delay_max=_LONGEST_PAUSE,
            randomization_factor=0.1,
        )
        self._client.on("connect", self._connected)
        self._client.on("test_progress", self._progress)
        self._client.on("campaign_progress", self._campaign_progress)
        self._client.on("queue_changed", self._queue_changed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failing = False
        self._moved = asyncio.Event()

    def follow(self, kind: str, name: str) -> None:
        """Be told all of it from its beginning; `kind` is execution_id or campaign_execution_id."""
        subject = (kind, name)
        if subject not in self._seqs:
            self._seqs[subject] = 0
            if self._client.connected:
                self._spawn(self._subscribe(subject))

    async def run(self) -> None:
        """Stay connected until cancelled."""
        url = self._api.url
        prefix = url.path.rstrip("/")
        try:
            while True:
                try:
                    await self._client.connect(
                        str(url.origin()),
                        auth={"token": self._api.token},
                        socketio_path=f"{prefix}/socket.io",
                        wait_timeout=_ANSWER,
                    )
                    await self._client.wait()
                except SocketIOError:
                    self._failing = True
                    self._moved.set()
                await asyncio.sleep(_LONGEST_PAUSE)
        finally:
            with contextlib.suppress(SocketIOError, TimeoutError):
                async with asyncio.timeout(_GOODBYE / 2):  # an open poll would be waited for
                    await self._client.disconnect()
            for task in self._tasks:
                task.cancel()

    async def caught_up(self, limit_s: float) -> None:
        """Wait until the end of all that is followed was told, `limit_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._seqs.keys() - self._over and not self._failing:
                    self._moved.clear()
                    await self._moved.wait()

    def _connected(self) -> None:
        self._failing = False
        for subject in self._seqs.keys() - self._over:
            self._spawn(self._subscribe(subject))

    async def _subscribe(self, subject: Subject) -> None:
        kind, name = subject
        wish = {kind: name, "after_seq": self._seqs[subject]}
        with contextlib.suppress(SocketIOError):  # the next connection asks again
            await self._client.call("subscribe", wish, timeout=_ANSWER)

    async def _leave(self, subject: Subject) -> None:
        kind, name = subject
        with contextlib.suppress(SocketIOError):
            await self._client.emit("unsubscribe", {kind: name})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="wire")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what arrives

    def _progress(self, event: Json) -> None:
        subject = ("execution_id", event["execution_id"])
        self.follow(*subject)
        if self._is_next(subject, event):
            self._told("test_progress", event)
        if subject in self._over:
            self._spawn(self._leave(subject))

    def _campaign_progress(self, event: Json) -> None:
        if self._is_next(("campaign_execution_id", event["campaign_execution_id"]), event):
            self._told("campaign_progress", event)

    def _queue_changed(self, event: Json) -> None:
        if ("execution_id", event["execution_id"]) in self._seqs:
            self._told("queue_changed", event)

    def _is_next(self, subject: Subject, event: Json) -> bool:
        """Tell whether it is the one after the last; a gap is filled by our subscription."""
        if event["seq"] != self._seqs.get(subject, 0) + 1:
            return False
        self._seqs[subject] = event["seq"]
        if ExecutionStatus(event["status"]).final:
            self._over.add(subject)
            self._moved.set()
        return True
