"""The folder in which a device's shell commands work: empty at the start of each attempt."""

import asyncio
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from vpt.host.drivers.base import DriverError


class WorkFolder:
    """A folder with the current folder of commands (`files`) and their temporary files (`tmp`)."""

    def __init__(self, folder: Path) -> None:
        """Create nothing yet; `clear` does."""
        self._folder = folder.absolute()
        self.files = self._folder / "files"
        self.temporary = self._folder / "tmp"

    async def fault(self) -> str | None:
        """Return why commands cannot write here, None when they can."""
        try:
            await asyncio.to_thread(self._try)
        except OSError as error:
            return f"the work folder cannot be written: {_words(error)}"
        return None

    def _try(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            file.write(b"x" * 4096)

    async def clear(self) -> None:
        """Remove all files in it; raise DriverError that names what cannot be removed."""
        try:
            await asyncio.to_thread(self._clear)
        except OSError as error:
            raise DriverError(
                f"the files of the last run cannot be removed: {_words(error)}"
            ) from error

    def _clear(self) -> None:
        for folder in (self.files, self.temporary):
            _remove(folder)
            folder.mkdir(parents=True, mode=0o700)


def _remove(path: Path) -> None:
    """Remove a folder and what is in it, also in folders that were made read-only."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    for folder, inner, _ in os.walk(path):
        for name in inner:
            one = os.path.join(folder, name)  # noqa: PTH118 (os.walk has texts)
            if not os.path.islink(one):  # noqa: PTH114
                os.chmod(one, 0o700)  # noqa: PTH101
    with suppress(FileNotFoundError):
        path.chmod(0o700)
        shutil.rmtree(path)


def _words(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)
