"""Screenshots below the data folder: checked by content, written whole or not at all.

A path is built from an id of known form and two numbers, never from what a request says.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vpt.bodies import CUT
from vpt.errors import NotFoundError, UnprocessableError

MAX_BYTES = 8 * 2**20
_TOO_LARGE = f"more than {MAX_BYTES // 2**20} MiB"
_CUT = CUT.removeprefix(rb"\n").decode()  # of a long text only the beginning is kept
_NO_BASE64 = "it is not base64"
_NO_PICTURE = "it is neither PNG nor JPEG"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,6}")
_STEP = re.compile(rf"{_NUMBER.pattern}(-[1-9][0-9]?)?")  # and which of its other pictures
_STORED = re.compile(rf"{_ID.pattern}/{_NUMBER.pattern}-{_STEP.pattern}\.(png|jpeg)")
_BLANKS, _PIECE = b" \t\r\n\f\v", 2**20  # bytes: a multiple of 4, as base64 is made of
_DATA_URL = re.compile(r"data:image/[a-z]+;base64,")
_PNG = re.compile(rb"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
_JPEG = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]")


class PictureError(UnprocessableError):
    """The screenshot is not a PNG or JPEG of at most 8 MiB in base64; the message says why not."""

    code = "not_a_picture"


@dataclass(frozen=True, slots=True)
class Picture:
    """A stored screenshot; `kind` is png or jpeg."""

    path: Path
    kind: str


@dataclass(frozen=True, slots=True)
class Files:
    """How many files were counted or removed, and their bytes.

    `left` are the executions whose files could not be removed, `error` is the reason.
    """

    files: int = 0
    bytes: int = 0
    left: tuple[str, ...] = ()
    error: str | None = None

    def __add__(self, other: Files) -> Files:
        """Return the sum of both."""
        return Files(
            self.files + other.files,
            self.bytes + other.bytes,
            self.left + other.left,
            self.error or other.error,
        )


class Artifacts:
    """The screenshots of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "screenshots"

    async def save(
        self, execution_id: str, attempt: int, step: int, data: Any, number: int | None = None
    ) -> str:
        """Store what a host sent (base64) and return its kind: png or jpeg.

        It is the step's screenshot, or with a `number` another picture of it.
        Raises PictureError when it is neither, OSError when it cannot be written.
        """
        which = str(step) if number is None else f"{step}-{number}"
        folder, name = self._place(execution_id, str(attempt), which)
        return await asyncio.to_thread(_save, folder, name, data)

    async def find(self, execution_id: str, attempt: str, step: str) -> Picture:
        """Return the screenshot of a step, or with `step` "2-1" the first other picture of step 2.

        NotFoundError when there is none.
        """
        folder, name = self._place(execution_id, attempt, step)
        return await asyncio.to_thread(_find, folder, name)

    async def measure(self, execution_ids: Iterable[str]) -> Files:
        """Return how many files these executions have."""
        folders = [self._folder(execution_id) for execution_id in execution_ids]
        return await asyncio.to_thread(lambda: sum(map(_measured, folders), Files()))

    async def remove(self, execution_ids: Iterable[str]) -> Files:
        """Remove all files of these executions; a power cut before `sync` may bring them back."""
        folders = [self._folder(execution_id) for execution_id in execution_ids]
        return await asyncio.to_thread(lambda: sum(map(_removed, folders), Files()))

    async def sync(self) -> None:
        """Wait until the removals are on the disk; may take a second."""
        await asyncio.to_thread(_sync, self._root)

    def stored(self) -> Iterator[tuple[str, Path]]:
        """Yield every screenshot: its name, as `place` takes it, and its file."""
        for path in sorted(self._root.glob("*/*")):
            name = f"{path.parent.name}/{path.name}"
            if _STORED.fullmatch(name):
                yield name, path

    @staticmethod
    def place(folder: Path, name: str) -> Path:
        """Return the path of a screenshot of this name in a copy of the store."""
        if not _STORED.fullmatch(name):
            raise NotFoundError
        return folder / name

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder beside the store; it is removed afterwards."""
        self._root.parent.mkdir(parents=True, exist_ok=True)
        folder = self._root.with_name(f".{self._root.name}.{secrets.token_hex(4)}")
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def become(self, staging: Path) -> None:
        """Replace all that is stored by what is in `staging`."""
        with self.staging() as away:
            if self._root.exists():
                self._root.rename(away / self._root.name)
            staging.rename(self._root)

    def _folder(self, execution_id: str) -> Path:
        if not _ID.fullmatch(execution_id):
            raise NotFoundError
        return self._root / execution_id

    def _place(self, execution_id: str, attempt: str, step: str) -> tuple[Path, str]:
        if not _NUMBER.fullmatch(attempt) or not _STEP.fullmatch(step):
            raise NotFoundError
        return self._folder(execution_id), f"{attempt}-{step}"


def screenshot_url(execution_id: str, attempt: int, step: int) -> str:
    """Return the URL path of a step's screenshot."""
    return f"/screenshots/{execution_id}/{attempt}/{step}.png"


def _save(folder: Path, name: str, data: Any) -> str:
    picture = _decoded(data)
    kind = kind_of(picture)
    if kind is None:
        raise PictureError(_NO_PICTURE)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    draft = folder / f".{name}.{secrets.token_hex(4)}"
    try:
        with private_file(draft) as file:
            file.write(picture)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / f"{name}.{kind}")
    finally:
        draft.unlink(missing_ok=True)
    return kind


def private_file(path: Path) -> BinaryIO:
    """Open a new file that only its owner may read, whatever the umask is."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _decoded(data: Any) -> bytes:
    if not isinstance(data, str):
        raise PictureError(_NO_BASE64)
    if len(data) > MAX_BYTES * 3 // 2 or data.endswith(_CUT):
        raise PictureError(_TOO_LARGE)
    start = _DATA_URL.match(data)
    try:
        encoded = data.encode("ascii").translate(None, _BLANKS)
    except UnicodeEncodeError as error:
        raise PictureError(_NO_BASE64) from error
    return _unpacked(memoryview(encoded)[start.end() if start else 0 :])


def _unpacked(encoded: memoryview) -> bytes:
    """Decode base64 piece by piece, since each call keeps the interpreter to itself."""
    starts = range(0, len(encoded), _PIECE)
    try:
        parts = [base64.b64decode(encoded[at : at + _PIECE], validate=True) for at in starts]
    except (ValueError, binascii.Error) as error:
        raise PictureError(_NO_BASE64) from error
    picture = b"".join(parts)
    if len(picture) > MAX_BYTES:
        raise PictureError(f"{len(picture) / 1e6:.1f} MB, {_TOO_LARGE}")
    return picture


def kind_of(picture: bytes) -> str | None:
    """Return png, jpeg or None, by content."""
    if _PNG.match(picture):
        return "png"
    return "jpeg" if _JPEG.match(picture) else None


def _find(folder: Path, name: str) -> Picture:
    for kind in ("png", "jpeg"):
        path = folder / f"{name}.{kind}"
        if path.is_file():
            return Picture(path, kind)
    raise NotFoundError


def _sync(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # there never was a screenshot
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _measured(folder: Path) -> Files:
    try:
        with os.scandir(folder) as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
    except FileNotFoundError:
        return Files()
    return Files(len(sizes), sum(sizes))


def _removed(folder: Path) -> Files:
    sizes = []
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
        for entry in found:
            sizes.append(entry.stat(follow_symlinks=False).st_size)
            os.unlink(entry)  # noqa: PTH108 (twice as fast)
        folder.rmdir()
    except FileNotFoundError:
        return Files()
    except OSError as error:
        return Files(len(sizes), sum(sizes), (folder.name,), str(error))
    return Files(len(sizes), sum(sizes))
