"""The journal: what the host began and what came of it, on disk before anybody is told.

JSON lines in segment files. A process never appends to a segment of an earlier one, so a line
that was torn by a crash is always the last of its file. A segment is dropped 24 h after its
last line.
"""

import asyncio
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
from vpt.host.responses import Reply

KEEP_S = 24 * 3600
SEGMENT_S = 3600
SEGMENT_BYTES = 64 * 1024 * 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Line:
    """Where a record stands; `answered` says whether it is an answer or only a beginning."""

    segment: Path
    offset: int
    length: int
    answered: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """One attempt of one execution."""

    execution_id: str
    attempt: int


class Journal:
    """Keys with their answers and cancelled attempts, durable.

    Writing raises OSError when the disk does not take it; nothing may be done then.
    """

    def __init__(self, folder: Path) -> None:
        """Use `folder` for the segments; call `open` before anything else."""
        self._folder = folder
        self._keys: dict[str, Line] = {}
        self._cancelled: dict[Pair, Line] = {}
        self._writer = _Writer(folder)
        self._waiting: list[tuple[bytes, bool, asyncio.Future[Line]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "journal")

    async def open(self) -> None:
        """Read what earlier processes wrote."""
        await self._in_thread(self._load)

    async def close(self) -> None:
        """Write what waits and close the files."""
        if self._flushing is not None:
            await self._flushing
        await self._in_thread(self._writer.close)
        self._thread.shutdown()

    def find(self, key: str) -> Line | None:
        """What is known of a key."""
        return self._keys.get(key)

    def is_cancelled(self, pair: Pair) -> bool:
        """Whether this attempt was cancelled."""
        return pair in self._cancelled

    async def read(self, line: Line) -> Reply:
        """The answer that a line holds."""
        record = orjson.loads(await asyncio.to_thread(_read_line, line))
        return Reply(record["status"], orjson.dumps(record["answer"]))

    async def begin(self, key: str) -> None:
        """Note that the action of this key is about to be done."""
        self._keys[key] = await self._append({"do": "begin", "key": key})

    async def end(self, key: str, reply: Reply) -> None:
        """Note the answer to this key."""
        answer = orjson.Fragment(reply.body)
        record = {"do": "end", "key": key, "status": reply.status, "answer": answer}
        self._keys[key] = await self._append(record, answered=True)

    def mark_cancelled(self, pair: Pair) -> None:
        """Let nothing more begin for this attempt; `cancel` makes it durable."""
        self._cancelled.setdefault(pair, Line(self._folder, 0, 0, answered=False))

    async def cancel(self, pair: Pair) -> None:
        """Note that nothing may be done any more for this attempt."""
        record = {"do": "cancel", "execution_id": pair.execution_id, "attempt": pair.attempt}
        self._cancelled[pair] = await self._append(record)

    async def _append(self, record: Mapping[str, Any], *, answered: bool = False) -> Line:
        """Return when the record is on the disk. One fsync serves all who wait for it."""
        done: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
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
                lines, dropped = await self._in_thread(self._writer.write, texts)
            except OSError as error:
                log.warning("journal_write_failed", error=str(error))
                _fail(batch, error)
                continue
            for (_, _, done), line in zip(batch, lines, strict=True):
                if not done.done():
                    done.set_result(line)
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
            for record, line in _records(segment):
                self._remember(record, line)

    def _remember(self, record: object, line: Line) -> None:
        match record:
            case {"do": "end", "key": str(key), "status": int(), "answer": dict()}:
                self._keys[key] = line
            case {"do": "begin", "key": str(key)}:
                self._keys.setdefault(key, line)
            case {"do": "cancel", "execution_id": str(execution_id), "attempt": int(attempt)}:
                self._cancelled[Pair(execution_id, attempt)] = line
            case _:
                log.warning("journal_line_skipped", segment=line.segment.name, offset=line.offset)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)


class _Writer:
    """The segment that is being written; lives in the journal's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder
        self._file: int | None = None
        self._size = 0
        self._opened = 0.0

    def write(self, texts: list[tuple[bytes, bool]]) -> tuple[list[Line], set[Path]]:
        """Put the lines on the disk; also tells which old segments were dropped."""
        dropped = self._turn_over()
        try:
            return self._put(texts), dropped
        except OSError:
            self.close()  # its end is unknown now: the next write begins another segment
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
        """Begin another segment when there is none or it is old or long enough."""
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

    def _put(self, texts: list[tuple[bytes, bool]]) -> list[Line]:
        lines = []
        for text, answered in texts:
            lines.append(Line(self._path, self._size, len(text), answered))
            self._size += len(text)
        assert self._file is not None  # noqa: S101 (for the type checker)
        _write_all(self._file, b"".join(text for text, _ in texts))
        os.fsync(self._file)
        return lines


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _records(segment: Path) -> Iterator[tuple[object, Line]]:
    offset = 0
    with segment.open("rb") as file:
        for text in file:
            try:
                record = orjson.loads(text)
            except orjson.JSONDecodeError:
                record = None
            answered = isinstance(record, dict) and record.get("do") == "end"
            yield record, Line(segment, offset, len(text), answered)
            offset += len(text)


def _read_line(line: Line) -> bytes:
    with line.segment.open("rb") as file:
        file.seek(line.offset)
        return file.read(line.length)


def _fail(batch: list[tuple[bytes, bool, asyncio.Future[Line]]], error: OSError) -> None:
    for _, _, done in batch:
        if not done.done():
            done.set_exception(error)
