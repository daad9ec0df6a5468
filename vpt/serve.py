"""The server as a process: everything started in order, and stopped in the reverse one."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import structlog
from aiohttp import web

from vpt import embedded, logs
from vpt.actors.lab import Lab
from vpt.config import Config, ConfigError, log_level_now
from vpt.dialects.both import Dialects
from vpt.dialects.document import DocumentDialect
from vpt.dialects.virtualpytest import VirtualPyTestDialect
from vpt.errors import DatabaseAwayError
from vpt.events import Events
from vpt.store import grafana_role
from vpt.store.db import Database, migrate
from vpt.store.instance import Instance
from vpt.web.app import make_app

log = structlog.get_logger(__name__)

_GC = (10_000, 20, 50)  # objects of a request die young: look less often than by default
_STDIN = 0
_WEB_GRACE = 2.0  # seconds for requests that are being answered at the stop
_LONGEST_LINE = 32 * 1024  # bytes of a URL: every filter of a list at its longest


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers at `url`; `kept` ends with an error when it may serve no longer."""

    url: str
    config: Config
    kept: asyncio.Task[None]


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Running]:
    """Run the server; `config` has its keys.

    Raises EmbeddedError, DatabaseAwayError, TakenError or OSError when it cannot start.
    """
    async with AsyncExitStack() as stack:
        config, alone = await _with_database(stack, config)
        instance = Instance(await _opened(stack, Database(str(config.database_url), size=1)))
        kept = await _claim(stack, instance, alone=alone)
        db = await _opened(
            stack,
            Database(str(config.database_url), ours=instance.held, name=instance.session_name),
        )
        events, dialect = Events(), _dialects(config, instance.held)
        stack.push_async_callback(dialect.close)
        lab = Lab(config, db, events, dialect, may_act=instance.held)
        stack.push_async_callback(lab.stop)
        await lab.start()
        url = await _listen(stack, make_app(config, db, lab, events), config)
        stack.push_async_callback(lab.settle, config.shutdown_grace)
        log.info("server_started", url=url)
        yield Running(url, config, kept)
        log.info("server_stopping")
    log.info("server_stopped")


def _dialects(config: Config, ours: Callable[[], bool]) -> Dialects:
    return Dialects(
        {
            "document": DocumentDialect(),
            "virtualpytest": VirtualPyTestDialect(config.vpt_team_id, ours),
        }
    )


async def _with_database(stack: AsyncExitStack, config: Config) -> tuple[Config, bool]:
    """Start the embedded database when none is given, then migrate.

    Also give whether no other server can be alive on it.
    """
    alone = False
    if config.database_url is None:
        server = await embedded.start(
            config.vpt_data_dir, port=config.vpt_pg_port, bin_dir=config.vpt_pg_bin
        )
        stack.push_async_callback(server.stop)
        config = replace(config, database_url=server.dsn, embedded=True)
        alone = server.owned
    await migrate(str(config.database_url))
    await grafana_role.prepare(str(config.database_url), config)
    return config, alone


async def _opened(stack: AsyncExitStack, db: Database) -> Database:
    stack.push_async_callback(db.close)
    await db.open()
    return db


async def _claim(stack: AsyncExitStack, instance: Instance, *, alone: bool) -> asyncio.Task[None]:
    """Become the database's one server, and stay it until the stop."""
    await instance.claim(alone=alone)
    stack.push_async_callback(_drop, instance)
    kept = asyncio.get_running_loop().create_task(instance.keep(), name="instance")
    stack.push_async_callback(_end, kept)
    return kept


async def _drop(instance: Instance) -> None:
    with suppress(DatabaseAwayError):
        await instance.drop()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _listen(stack: AsyncExitStack, app: web.Application, config: Config) -> str:
    """Answer on SERVER_HOST:SERVER_PORT; give the URL under which it is reached."""
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=_WEB_GRACE,
        max_line_size=_LONGEST_LINE,
        auto_decompress=False,  # it stops the loop for as long as a stranger likes
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, config.server_host, config.server_port)
    await site.start()
    host, port = runner.addresses[0][:2]
    name = f"[{host}]" if ":" in host else host
    return config.server_url or f"http://{name}:{port}"


def _hung_up(stop: asyncio.Event, had_terminal: bool) -> None:
    """Stop with the terminal that we were started from; else SIGHUP asks for another LOG_LEVEL."""
    if had_terminal and not os.isatty(_STDIN):
        stop.set()
        return
    try:
        level = log_level_now()
    except ConfigError as error:
        log.warning("log_level_not_changed", error=str(error))
        return
    logs.set_level(level)
    log.warning("log_level_changed", log_level=level)


async def serve(config: Config, started: Callable[[Running], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT, or raise TakenError when another server took over.

    SIGHUP makes it read LOG_LEVEL anew.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _hung_up, stop, os.isatty(_STDIN))
    async with running(config) as server:
        started(server)
        gc.collect()
        gc.freeze()  # what the start made stays: nobody need look through it again and again
        gc.set_threshold(*_GC)
        stopped = loop.create_task(stop.wait(), name="stop signal")
        await asyncio.wait([stopped, server.kept], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if server.kept.done():
            server.kept.result()
