"""Free space on the disk of the data folder, measured in the background: no request waits."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

import structlog

from vpt.errors import UnavailableError

log = structlog.get_logger(__name__)

EVERY = 10.0  # seconds between measurements
_RETRY = 30.0  # Retry-After (s) while the disk is full


class DiskFullError(UnavailableError):
    """The server's disk is nearly full: free some space; until then nothing new is started."""

    code = "disk_full"


@dataclass(frozen=True, slots=True)
class Room:
    """The size of a disk, in bytes."""

    free: int
    total: int

    @property
    def share(self) -> float:
        """The free part, 0 to 1."""
        return self.free / self.total if self.total else 0.0

    @property
    def percent(self) -> float:
        """The free part in percent, rounded for people."""
        return round(100 * self.share, 2)


class Disk:
    """The disk that holds a folder; below `min_free` percent no new run is started."""

    def __init__(self, folder: Path, min_free: float) -> None:
        self._folder = folder
        self.min_free = min_free
        self.room: Room | None = None  # None: not measured yet, and nothing is refused
        self.full = False  # by the last measurement

    async def look(self) -> None:
        """Measure the free space, and log when it becomes too little or enough again."""
        self.room = await asyncio.to_thread(_room_of, self._folder)
        full = self.room is not None and self.room.share * 100 < self.min_free
        if full is self.full:
            return
        self.full = full
        percent = self.room.percent if self.room else None
        if self.full:
            log.error("disk_full", free_percent=percent, min_free_percent=self.min_free)
        else:
            log.info("disk_has_room", free_percent=percent, min_free_percent=self.min_free)

    def check(self) -> None:
        """Raise DiskFullError when a new run may not start; does no I/O."""
        if self.full and self.room is not None:
            raise DiskFullError(
                f"The server's disk has {self.room.percent:g} % free, less than"
                f" {self.min_free:g} %: nothing new is started until there is room.",
                retry_after=_RETRY,
            )


def _room_of(folder: Path) -> Room | None:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return Room(usage.free, usage.total)
