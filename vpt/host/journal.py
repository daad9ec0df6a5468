"""The journal: which actions began and how they ended, on disk before the server is answered.

JSON lines in segment files. A process never appends to a segment of an earlier process, so a
line that was torn by a crash is always the last of its file. A segment is deleted 24 h after its
last line: the server does not repeat a request after that.
"""

import asyncio
import errno
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from vpt.host.folder import sync_folder
from vpt.host.responses import JsonResponse

KEEP_S = 24 * 3600
SEGMENT_S = 3600
SEGMENT_BYTES = 64 * 1024 * 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RecordPosition:
    """Where a record is in the files; `answered` when it has the response, not only the start."""

    segment: Path
    offset: int
    length: int
    answered: bool


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """Identifies one attempt of an execution."""

    execution_id: str
    attempt: int


class Journal:
    """Idempotency-Keys with their responses, and cancelled attempts, durable.

    Writing raises OSError when the disk fails; the action must not be executed then.
    """

    def __init__(self, folder: Path) -> None:
        """Store the segments in `folder`; call `open` before anything else."""
        self._folder = folder
        self._keys: dict[str, RecordPosition] = {}
        self._cancelled: dict[AttemptKey, RecordPosition] = {}
        self._owners: dict[str, str] = {}
        self._writer = _Writer(folder)
        self._waiting: list[tuple[bytes, bool, asyncio.Future[RecordPosition]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "journal")

    async def open(self) -> None:
        """Read the records of earlier processes."""
        await self._in_thread(self._load)

    async def close(self) -> None:
        """Write the pending records and close the files."""
        if self._flushing is not None:
            await self._flushing
        await self._in_thread(self._writer.close)
        self._thread.shutdown()

    def find(self, key: str) -> RecordPosition | None:
        """Return the last record of a key, or None."""
        return self._keys.get(key)

    def is_cancelled(self, attempt: AttemptKey) -> bool:
        """Return True when this attempt was cancelled."""
        return attempt in self._cancelled

    async def read(self, position: RecordPosition) -> JsonResponse:
        """Return the response that is stored at a position."""
        record = orjson.loads(await asyncio.to_thread(_read_line, position))
        return JsonResponse(record["status"], orjson.dumps(record["answer"]))

    def owner(self, device_id: str) -> str | None:
        """Return who used a device last, when `begin` recorded that."""
        return self._owners.get(device_id)

    async def begin(self, key: str, device_id: str = "", owner: str = "") -> None:
        """Record that the action of this key is about to begin, on which device and for whom."""
        record = {"do": "begin", "key": key, "device_id": device_id, "owner": owner}
        self._keys[key] = await self._append(record)

    async def end(self, key: str, reply: JsonResponse) -> None:
        """Record the response to this key."""
        answer = orjson.Fragment(reply.body)
        record = {"do": "end", "key": key, "status": reply.status, "answer": answer}
        self._keys[key] = await self._append(record, answered=True)

    def mark_cancelled(self, attempt: AttemptKey) -> None:
        """Mark an attempt as cancelled in memory, at once; `cancel` makes it durable."""
        self._cancelled.setdefault(attempt, RecordPosition(self._folder, 0, 0, answered=False))

    async def cancel(self, attempt: AttemptKey) -> None:
        """Record that no further action of this attempt may begin."""
        record = {"do": "cancel", "execution_id": attempt.execution_id, "attempt": attempt.attempt}
        self._cancelled[attempt] = await self._append(record)

    async def _append(self, record: Mapping[str, Any], *, answered: bool = False) -> RecordPosition:
        """Return when the record is on the disk; all records that wait share one fsync."""
        done: asyncio.Future[RecordPosition] = asyncio.get_running_loop().create_future()
        text = orjson.dumps({**record, "at": time.time()}, option=orjson.OPT_APPEND_NEWLINE)
        self._waiting.append((text, answered, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), name="journal")
        return await done

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            texts = [(text, answered) for text, answered, _ in batch]
            try:
                positions, dropped = await self._in_thread(self._writer.write, texts)
            except Exception as error:  # noqa: BLE001 (also: no thread can be started)
                log.warning("journal_write_failed", error=str(error))
                _fail(batch, error)
                continue
            for (_, _, done), position in zip(batch, positions, strict=True):
                if not done.done():
                    done.set_result(position)
            self._forget(dropped)

    def _forget(self, dropped: set[Path]) -> None:
        if dropped:
            self._keys = {k: v for k, v in self._keys.items() if v.segment not in dropped}
            kept = self._cancelled.items()
            self._cancelled = {k: v for k, v in kept if v.segment not in dropped}

    def _load(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._writer.drop_old()
        for segment in sorted(self._folder.glob("*.jsonl")):
            for record, position in _records(segment):
                self._remember(record, position)

    def _remember(self, record: object, position: RecordPosition) -> None:
        match record:
            case {"do": "end", "key": str(key), "status": int(), "answer": dict()}:
                self._keys[key] = position
            case {"do": "begin", "key": str(key)}:
                self._keys.setdefault(key, position)
                self._remember_owner(record)
            case {"do": "cancel", "execution_id": str(execution_id), "attempt": int(attempt)}:
                self._cancelled[AttemptKey(execution_id, attempt)] = position
            case _:
                log.warning(
                    "journal_line_skipped", segment=position.segment.name, offset=position.offset
                )

    def _remember_owner(self, record: object) -> None:
        match record:
            case {"device_id": str(device_id), "owner": str(owner)}:
                self._owners[device_id] = owner

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)


class _Writer:
    """Writes the current segment; used in the journal's thread only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder
        self._file: int | None = None
        self._size = 0
        self._opened = 0.0

    def write(self, texts: list[tuple[bytes, bool]]) -> tuple[list[RecordPosition], set[Path]]:
        """Write and fsync the lines; return their positions and the deleted old segments."""
        dropped = self._turn_over()
        try:
            return self._put(texts), dropped
        except OSError:
            self.close()  # its end is not known now: the next write starts a new segment
            raise

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def drop_old(self) -> set[Path]:
        edge = time.time() - KEEP_S
        segments = self._folder.glob("*.jsonl")
        old = {path for path in segments if path.stat().st_mtime < edge and path != self._path}
        for path in old:
            path.unlink()
        return old

    def _turn_over(self) -> set[Path]:
        """Start a new segment when there is none, or the current one is too old or too long."""
        age = time.monotonic() - self._opened
        if self._file is not None and age < SEGMENT_S and self._size < SEGMENT_BYTES:
            return set()
        self.close()
        self._path = self._folder / f"{time.time_ns():020d}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.open(self._path, flags, 0o600)
        self._size, self._opened = 0, time.monotonic()
        sync_folder(self._folder)
        return self.drop_old()

    def _put(self, texts: list[tuple[bytes, bool]]) -> list[RecordPosition]:
        positions = []
        for text, answered in texts:
            positions.append(RecordPosition(self._path, self._size, len(text), answered))
            self._size += len(text)
        assert self._file is not None  # noqa: S101 (for the type checker)
        _write_all(self._file, b"".join(text for text, _ in texts))
        os.fsync(self._file)
        return positions


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _records(segment: Path) -> Iterator[tuple[object, RecordPosition]]:
    offset = 0
    with segment.open("rb") as file:
        for text in file:
            try:
                record = orjson.loads(text)
            except orjson.JSONDecodeError:
                record = None
            answered = isinstance(record, dict) and record.get("do") == "end"
            yield record, RecordPosition(segment, offset, len(text), answered)
            offset += len(text)


def _read_line(position: RecordPosition) -> bytes:
    with position.segment.open("rb") as file:
        file.seek(position.offset)
        return file.read(position.length)


def _fail(
    batch: list[tuple[bytes, bool, asyncio.Future[RecordPosition]]], error: Exception
) -> None:
    """Raise `error` where somebody waits for a record, as the OSError that they are ready for."""
    raised = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
    for _, _, done in batch:
        if not done.done():
            done.set_exception(raised)
