"""A real PgBouncer in front of a PostgreSQL, in transaction mode."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.system.kit import free_port, open_folder

BINARY = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needed = pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed")
OUR_SETTINGS = "lock_timeout,enable_seqscan,jit"
_SETTINGS = """
[databases]
* = host={socket} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
server_round_robin = {round_robin}
ignore_startup_parameters = extra_float_digits{ignored}
pidfile = {folder}/pid
"""


def _write(folder: Path, dsn: str, **more: object) -> Path:
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    file = folder / "pgbouncer.ini"
    text = _SETTINGS.format(
        socket=query["host"][0],
        port=query["port"][0],
        user=parts.username,
        password=parts.password,
        folder=folder,
        **more,
    )
    if os.geteuid() == 0:  # it refuses to run as root, and the socket is its owner's alone
        owner = Path(query["host"][0]).stat().st_uid
        text += f"user = {pwd.getpwuid(owner).pw_name}\n"
        os.chown(folder, owner, -1)
    file.write_text(text)
    return file


@contextmanager
def pgbouncer(dsn: str, *, ignored: str = "", round_robin: int = 0) -> Iterator[str]:
    """Yield the DSN of a PgBouncer that leads where `dsn`, which names a socket's folder, leads.

    `ignored` are the settings of clients that it does not refuse.
    """
    assert BINARY is not None
    listen = free_port()
    with open_folder() as folder:
        ignored = f",{ignored}" if ignored else ""
        file = _write(folder, dsn, listen=listen, ignored=ignored, round_robin=round_robin)
        process = subprocess.Popen([BINARY, "-q", str(file)], stderr=subprocess.DEVNULL)
        try:
            asyncio.run(_answers(listen))
            yield f"postgresql://vpt@127.0.0.1:{listen}{urlsplit(dsn).path}"
        finally:
            process.terminate()
            process.wait(10)


async def _answers(port: int) -> None:
    until = time.monotonic() + 10
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        assert time.monotonic() < until, "pgbouncer does not start"
        await asyncio.sleep(0.02)
