"""The server as a process: everything is started in order, and stopped in the reverse order.

1. the embedded database, if DATABASE_URL names none; then the migrations
2. the claim on the database, with a connection of its own, and the task that renews it
3. the pool, the dialects (connections to hosts), the lab (hosts, queue, campaigns)
4. the web server: it accepts no request before the rest is ready

At the stop the lab settles first, while the web server still answers: what is in flight may end,
and its results are shown. The claim is given back when nothing writes any more.
"""

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
from vpt.allocator import return_large_blocks
from vpt.background import Background
from vpt.config import Config, ConfigError, log_level_now
from vpt.connections import raise_descriptor_limit
from vpt.dialects.both import Dialects
from vpt.dialects.document import DocumentDialect
from vpt.dialects.virtualpytest import VirtualPyTestDialect
from vpt.errors import DatabaseAwayError
from vpt.events import Events
from vpt.listener import LimitedSite
from vpt.store import grafana_role
from vpt.store.db import Database
from vpt.store.instance import Instance
from vpt.store.migrations import migrate
from vpt.store.patience import patiently
from vpt.web.app import make_app
from vpt.web.http.keys import CONNECTIONS, UNREAD

log = structlog.get_logger(__name__)

_GC = (10_000, 20, 50)  # objects of a request die young: look less often than by default
_STDIN = 0
_WEB_GRACE = 2.0  # seconds for requests that are being answered at the stop
_DATABASE_BACK = 30.0  # seconds in which a database that goes away during the start must be back
_CLAIM_GRACE = 5.0  # seconds to give the claim back
_LONGEST_LINE = 32 * 1024  # bytes of a URL: every filter of a list at its longest

#: Done when the server is to stop; with an error when another server has its database.
End = asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers at `url`."""

    url: str
    config: Config


@asynccontextmanager
async def running(config: Config, end: End | None = None) -> AsyncIterator[Running]:
    """Run the server; `config` has its keys, and `end` gets an error when it must not go on.

    Raises EmbeddedError, DatabaseAwayError, TakenError or OSError when it cannot start.
    """
    return_large_blocks()
    raise_descriptor_limit()
    async with AsyncExitStack() as stack:
        config, alone = await _with_database(stack, config)
        instance = Instance(await _opened(stack, Database(str(config.database_url), size=1)))
        end = end or asyncio.get_running_loop().create_future()
        await _claim(stack, instance, end, alone=alone)
        db = await _opened(
            stack,
            Database(
                str(config.database_url),
                size=config.database_pool,
                ours=instance.held,
                name=instance.session_name,
            ),
        )
        events, dialect = Events(), _dialects(config, instance.held)
        stack.push_async_callback(dialect.close)
        lab = Lab(config, db, events, dialect, may_act=instance.held)
        stack.push_async_callback(lab.stop)
        await lab.start()
        url = await _listen(stack, make_app(config, db, lab, events), config)
        stack.push_async_callback(lab.settle, config.shutdown_grace)
        log.info("server_started", url=url)
        yield Running(url, config)
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

    Return the config with its URL, and whether no other server can be alive on it.
    """
    alone = False
    if config.database_url is None:
        server = await embedded.start(
            config.vpt_data_dir, port=config.vpt_pg_port, bin_dir=config.vpt_pg_bin
        )
        stack.push_async_callback(server.stop)
        config = replace(config, database_url=server.dsn, embedded=True)
        alone = server.owned
    # Another process may have run it until now: its PostgreSQL stops, and then ours starts.
    limit_s = _DATABASE_BACK if config.embedded else 0.0
    await patiently("schema", lambda: _with_schema(config), limit_s=limit_s)
    return config, alone


async def _with_schema(config: Config) -> None:
    """Check the database, and bring its schema and Grafana's role up to date."""
    setting = "VPT_DATA_DIR" if config.embedded else "DATABASE_URL"
    await migrate(str(config.database_url), setting=setting)
    await grafana_role.prepare(str(config.database_url), config)


async def _opened(stack: AsyncExitStack, db: Database) -> Database:
    stack.push_async_callback(db.close)
    await patiently("pool", db.open, limit_s=_DATABASE_BACK)
    return db


async def _claim(stack: AsyncExitStack, instance: Instance, end: End, *, alone: bool) -> None:
    """Become the database's one server, and stay it until the stop."""
    await instance.claim(alone=alone)
    background = Background()
    stack.push_async_callback(_give_back, instance, background)
    background.start(_keep(instance, end), "claim on the database")


async def _keep(instance: Instance, end: End) -> None:
    """Renew the claim until the stop; without it this server must not go on."""
    try:
        await instance.keep()
    except Exception as error:  # noqa: BLE001 (it is raised where the end is awaited)
        if not end.done():
            end.set_exception(error)


async def _give_back(instance: Instance, background: Background) -> None:
    with suppress(DatabaseAwayError, TimeoutError):  # then the claim runs out by itself
        async with asyncio.timeout(_CLAIM_GRACE):
            await background.close()  # first, or the claim could be renewed once more
            await instance.drop()


async def _listen(stack: AsyncExitStack, app: web.Application, config: Config) -> str:
    """Answer on SERVER_HOST:SERVER_PORT; return the URL under which it is reached."""
    runner = web.AppRunner(app, shutdown_timeout=_WEB_GRACE)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = LimitedSite(
        runner,
        config.server_host,
        config.server_port,
        app[CONNECTIONS],
        access_log=None,
        max_line_size=_LONGEST_LINE,
        auto_decompress=False,  # a small packed body could keep the loop busy for long
    )
    background = Background()
    stack.push_async_callback(background.close)
    background.start(app[UNREAD].watch(runner), "unread answers")
    await site.start()
    host, port = runner.addresses[0][:2]
    name = f"[{host}]" if ":" in host else host
    return config.server_url or f"http://{name}:{port}"


def _stop(end: End) -> None:
    if not end.done():
        end.set_result(None)


def _hung_up(end: End, had_terminal: bool) -> None:
    """Stop when the terminal was closed that started us; else read LOG_LEVEL again."""
    if had_terminal and not os.isatty(_STDIN):
        _stop(end)
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

    SIGHUP makes it read LOG_LEVEL again.
    """
    loop = asyncio.get_running_loop()
    end: End = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, end)
    loop.add_signal_handler(signal.SIGHUP, _hung_up, end, os.isatty(_STDIN))
    async with running(config, end) as server:
        started(server)
        gc.collect()
        gc.freeze()  # what the start made stays: nobody need look through it again and again
        gc.set_threshold(*_GC)
        await end
