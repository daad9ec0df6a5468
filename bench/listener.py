"""A live client: collects every test_progress event, over all its reconnects."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import socketio
from socketio.exceptions import ConnectionError as NotConnectedError

FINAL = ("completed", "failed", "error", "cancelled")
_TRIES = 0.5  # seconds between tries to connect
_ACKNOWLEDGED = 10.0  # seconds for the answer to a subscription
_REPLAYED = 5.0  # seconds for what was missed


@dataclass(frozen=True, slots=True)
class Progress:
    """A test_progress event, and the number of its connection, from 1."""

    connection: int
    execution_id: str
    seq: int
    status: str
    host_id: str | None


class Listener:
    """A Socket.IO client; `events` are in the order of arrival."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._auth = {"token": token}
        self._client = socketio.AsyncClient(
            reconnection_delay=_TRIES, reconnection_delay_max=1, logger=False
        )
        self._client.on("connect", self._connected)
        self._client.on("test_progress", self._progress)
        self._arrived = asyncio.Event()
        self.connections = 0
        self.events: list[Progress] = []

    @property
    def finals(self) -> set[str]:
        """The executions whose final event arrived."""
        return {event.execution_id for event in self.events if event.status in FINAL}

    @property
    def busy(self) -> set[str]:
        """The hosts that run something according to the events."""
        last = {event.execution_id: event for event in self.events}
        return {
            event.host_id for event in last.values() if event.host_id and event.status not in FINAL
        }

    async def connect(self) -> None:
        """Connect; after that it reconnects by itself."""
        while not self._client.connected:
            with contextlib.suppress(NotConnectedError):
                await self._client.connect(self._url, auth=self._auth, transports=["websocket"])
                return
            await asyncio.sleep(_TRIES)

    async def close(self) -> None:
        """Disconnect."""
        await self._client.shutdown()

    async def missed(self, execution_id: str, seq: int) -> list[Progress]:
        """Subscribe to an execution from its first event; return the events up to number `seq`."""
        self.events.clear()
        wish = {"execution_id": execution_id, "after_seq": 0}
        answer = await self._client.call("subscribe", wish, timeout=_ACKNOWLEDGED)
        assert answer["ok"], answer
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPLAYED):
                while not self.events or self.events[-1].seq < seq:
                    self._arrived.clear()
                    await self._arrived.wait()
        await self._client.call("unsubscribe", wish, timeout=_ACKNOWLEDGED)
        return [event for event in self.events if event.execution_id == execution_id]

    def _connected(self) -> None:
        self.connections += 1

    def _progress(self, event: dict[str, Any]) -> None:
        self.events.append(
            Progress(
                self.connections,
                event["execution_id"],
                event["seq"],
                event["status"],
                event["host_id"],
            )
        )
        self._arrived.set()
