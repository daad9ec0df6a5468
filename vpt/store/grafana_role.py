"""The role that Grafana reads as: it may SELECT what panels and rules need, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import unicodedata
from typing import Any

import asyncpg
import structlog

from vpt.config import Config
from vpt.store.connect import connect
from vpt.store.db import SQL, translated
from vpt.store.locks import LockWatch
from vpt.store.migrations import GRAFANA_ROLE

log = structlog.get_logger(__name__)

ROLE = GRAFANA_ROLE
_GRANTS = SQL / "roles" / f"{ROLE}.sql"
_TAKEN = (
    asyncpg.DuplicateObjectError,
    asyncpg.UniqueViolationError,
)  # by the server of another database
_ITERATIONS = 4096
_CONNECTIONS = 15  # Grafana's datasource opens 10
_SETTINGS = {
    "statement_timeout": "30s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "60s",
    "default_transaction_read_only": "on",
}
_TURNS = 10  # tries, as servers of other databases set the same password
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '4s'"
_PAGE = (
    "INSERT INTO grafana_page (url) VALUES ($1)"
    " ON CONFLICT (only_one) DO UPDATE SET url = excluded.url"
    " WHERE grafana_page.url <> excluded.url"
)
_ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 (compared with, not listened on)


async def prepare(dsn: str, config: Config) -> bool:
    """Create the role with its password and grants; return whether that succeeded.

    Where the account may not create roles, a warning has the SQL to run, and vpt goes on.
    """
    if config.vpt_grafana_db_password is None:
        return False
    connection = await connect(dsn, name="vpt grafana role")
    try:
        async with translated(), LockWatch(dsn, connection) as watch:
            try:
                async with connection.transaction():
                    await connection.execute(_LOCK_TIMEOUT)
                    await connection.execute(_PAGE, page_of(config))
                    return await _prepared(connection, config.vpt_grafana_db_password)
            except asyncpg.LockNotAvailableError:  # Grafana goes on with what the role had before
                log.warning("grafana_role_waits", held_by=watch.words())
                return False
    finally:
        await connection.close(timeout=2)


async def _prepared(connection: Any, password: str) -> bool:
    try:
        await _make(connection)
        await _set_limits(connection)
        await _set_password(connection, password)
        async with connection.transaction():
            await connection.execute(_GRANTS.read_text(encoding="utf-8"))
    except (asyncpg.PostgresConnectionError, asyncpg.LockNotAvailableError):
        raise
    except asyncpg.PostgresError as error:
        log.warning("grafana_role_missing", error=str(error), run_as_administrator=sql_to_run())
        return False
    return True


async def _make(connection: Any) -> None:
    if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", ROLE):
        return
    try:
        async with connection.transaction():
            await connection.execute(f"CREATE ROLE {ROLE} LOGIN")
    except _TAKEN:
        return


async def _set_limits(connection: Any) -> None:
    """Set the limits, unless an administrator created the role and keeps that right.

    Whoever may query Grafana's datasource runs SQL as this role. It may change these settings for
    its own session, so they hold for what people do by mistake; the number of connections always.
    """
    if not await _altered(connection, *_limits()):
        log.info("grafana_limits_kept", role=ROLE)


async def _set_password(connection: Any, password: str) -> None:
    """Set the password, unless an administrator created the role and keeps that right."""
    if not await _altered(connection, f"PASSWORD '{verifier_of(password)}'"):
        log.info("grafana_password_kept", role=ROLE)


async def _altered(connection: Any, *changes: str) -> bool:
    """Change the role; return False where the account may not."""
    for turn in range(1, _TURNS + 1):
        try:
            async with connection.transaction():
                for change in changes:
                    await connection.execute(f"ALTER ROLE {ROLE} {change}")
        except asyncpg.InsufficientPrivilegeError:
            return False
        except asyncpg.InternalServerError:  # "tuple concurrently updated"
            if turn == _TURNS:
                raise
        else:
            break
    return True


def _limits() -> list[str]:
    settings = [f"SET {name} = '{value}'" for name, value in _SETTINGS.items()]
    return [f"CONNECTION LIMIT {_CONNECTIONS}", *settings]


def verifier_of(password: str) -> str:
    """Return the verifier that PostgreSQL keeps: a log of statements must not show the password."""
    salt = secrets.token_bytes(16)
    plain = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", plain, salt, _ITERATIONS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    keys = hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256")
    stored, server = (base64.b64encode(key).decode() for key in keys)
    return f"SCRAM-SHA-256${_ITERATIONS}:{base64.b64encode(salt).decode()}${stored}:{server}"


def sql_to_run() -> str:
    """Return the SQL that an account which may create roles can run instead."""
    grants = " ".join(
        line for line in _GRANTS.read_text(encoding="utf-8").splitlines() if line[:2] != "--"
    )
    words = " ".join(grants.split())
    limits = " ".join(f"ALTER ROLE {ROLE} {limit};" for limit in _limits())
    return f"CREATE ROLE {ROLE} LOGIN PASSWORD '<VPT_GRAFANA_DB_PASSWORD>'; {limits} {words}"


def page_of(config: Config) -> str:
    """Return the URL of vpt's page, for links in Grafana."""
    if config.server_url:
        return config.server_url.rstrip("/")
    host = "127.0.0.1" if config.server_host in _ANYWHERE else config.server_host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.server_port}"
