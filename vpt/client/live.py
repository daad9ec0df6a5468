"""Live events over Socket.IO: each once and in order, resumed after a lost connection.

Best effort: how an execution ended is known from the REST API alone.
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

#: Seconds: for a response; the longest backoff between connects; to disconnect.
_ANSWER_TIMEOUT, _LONGEST_PAUSE, _DISCONNECT = 20.0, 3.0, 1.0

EventListener = Callable[[str, Json], None]
Subject = tuple[str, str]  # the name of the id field, and the id


class LiveEvents:
    """Calls `listener(event name, payload)` for the events of all followed executions."""

    def __init__(self, api: Api, listener: EventListener) -> None:
        """Prepare to connect to `api`'s server; `listener` must not raise."""
        self._api, self._listener = api, listener
        self._seqs: dict[Subject, int] = {}
        self._over: set[Subject] = set()
        self._client = socketio.AsyncClient(
            logger=False,
            http_session=api.session,
            handle_sigint=False,  # its handler would cancel all our tasks
            reconnection_delay=0.2,
            reconnection_delay_max=_LONGEST_PAUSE,
            randomization_factor=0.1,
        )
        self._client.on("connect", self._connected)
        self._client.on("test_progress", self._progress)
        self._client.on("campaign_progress", self._campaign_progress)
        self._client.on("queue_changed", self._queue_changed)
        self._requests = asyncio.TaskGroup()  # those that nobody waits for; `run` ends them
        self._failing = False
        self._moved = asyncio.Event()

    def follow(self, kind: str, name: str) -> None:
        """Subscribe from the first event on; `kind` is execution_id or campaign_execution_id."""
        subject = (kind, name)
        if subject not in self._seqs:
            self._seqs[subject] = 0
            if self._client.connected:
                self._request(self._subscribe(subject))

    async def run(self) -> None:
        """Connect, and reconnect with backoff, until cancelled; once for each object."""
        async with self._requests:
            try:
                while True:
                    await self._stay_connected()
                    await asyncio.sleep(_LONGEST_PAUSE)
            finally:
                with contextlib.suppress(SocketIOError, TimeoutError):
                    async with asyncio.timeout(_DISCONNECT / 2):  # it waits for an open poll
                        await self._client.disconnect()

    async def _stay_connected(self) -> None:
        """Connect, and return when the client gives up."""
        url = self._api.url
        try:
            await self._client.connect(
                str(url.origin()),
                auth={"token": self._api.token},
                socketio_path=f"{url.path.rstrip('/')}/socket.io",
                wait_timeout=_ANSWER_TIMEOUT,
            )
            await self._client.wait()
        except SocketIOError:
            self._failing = True
            self._moved.set()

    async def caught_up(self, limit_s: float) -> None:
        """Wait for the final events of all followed executions, `limit_s` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._seqs.keys() - self._over and not self._failing:
                    self._moved.clear()
                    await self._moved.wait()

    def _connected(self) -> None:
        self._failing = False
        for subject in self._seqs.keys() - self._over:
            self._request(self._subscribe(subject))

    async def _subscribe(self, subject: Subject) -> None:
        kind, name = subject
        request = {kind: name, "after_seq": self._seqs[subject]}
        with contextlib.suppress(SocketIOError):  # the next connection subscribes again
            await self._client.call("subscribe", request, timeout=_ANSWER_TIMEOUT)

    async def _unsubscribe(self, subject: Subject) -> None:
        kind, name = subject
        with contextlib.suppress(SocketIOError):
            await self._client.emit("unsubscribe", {kind: name})

    def _request(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a request that nobody waits for."""
        try:
            self._requests.create_task(work, name="live-request")
        except RuntimeError:  # `run` is ending
            work.close()

    # --- incoming events

    def _progress(self, event: Json) -> None:
        subject = ("execution_id", event["execution_id"])
        self.follow(*subject)
        if self._is_next(subject, event):
            self._listener("test_progress", event)
        if subject in self._over:
            self._request(self._unsubscribe(subject))

    def _campaign_progress(self, event: Json) -> None:
        if self._is_next(("campaign_execution_id", event["campaign_execution_id"]), event):
            self._listener("campaign_progress", event)

    def _queue_changed(self, event: Json) -> None:
        if ("execution_id", event["execution_id"]) in self._seqs:
            self._listener("queue_changed", event)

    def _is_next(self, subject: Subject, event: Json) -> bool:
        """Store the number of an event; False for a repeated one and after a gap.

        The replay of our subscription, which starts at `after_seq`, fills the gap in order.
        """
        if event["seq"] != self._seqs.get(subject, 0) + 1:
            return False
        self._seqs[subject] = event["seq"]
        if ExecutionStatus(event["status"]).final:
            self._over.add(subject)
            self._moved.set()
        return True
