"""A PostgreSQL cluster with vpt's tables, made once for all workers and copied for each server.

initdb and all migrations take a second of processor, a copy a twentieth of that. What tests of the
first start need is a folder without a copy.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vpt import embedded
from vpt.store.migrations import migrate

ROOT = Path(__file__).parents[1]
_SHARED = "VPT_TESTS_CLUSTER"  # the folder that the first pytest process makes, for its workers


def share() -> Path | None:
    """Make the folder of the cluster, unless the process that started this one did."""
    if _SHARED in os.environ:
        return None
    # Not below pytest's own folder, which is closed to the user that PostgreSQL runs as.
    folder = Path(tempfile.mkdtemp(prefix="vpt-cluster-"))
    folder.chmod(0o711)
    os.environ[_SHARED] = str(folder)
    return folder


def unshare(folder: Path) -> None:
    """Delete the folder that `share` made."""
    del os.environ[_SHARED]
    shutil.rmtree(folder)


def copy_cluster(data: Path) -> None:
    """Copy the cluster to a data folder, as a server left it that was stopped."""
    shared = Path(os.environ[_SHARED])
    with (shared / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "done").exists():
            # In a process of its own: the caller may run an event loop.
            command = [sys.executable, "-m", "tests.clusters", str(shared / "data")]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            (shared / "done").touch()
    data.mkdir(mode=0o711, parents=True, exist_ok=True)
    made = [shared / "data" / name for name in ("pg", "pg.password")]
    subprocess.run(["cp", "-a", *made, data], check=True)


async def _make(data: Path) -> None:
    server = await embedded.start(data)
    try:
        await migrate(server.dsn)
    finally:
        await server.stop()


if __name__ == "__main__":
    asyncio.run(_make(Path(sys.argv[1])))
