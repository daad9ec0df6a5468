"""One connection to PostgreSQL: where a DSN leads, and in one line why there is no connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import asyncpg

from vpt.errors import DatabaseAwayError

CONNECT_TIMEOUT = 5.0  # seconds
SETTING = "DATABASE_URL"
_POOLER_PORT = 6543  # of Supabase's transaction pooler
_PARAMETER = "pgbouncer"

#: The database is not there, or went away under us: worth another try.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.SerializationError,
)
_NO_CONNECTION = (*AWAY, asyncpg.PostgresError, ValueError)


def _of_connection(error: ConnectionError) -> str:
    if "SSL upgrade" in str(error):
        return (
            "offers no TLS, which sslmode in the URL demands: set it up there, or choose another"
            " sslmode"
        )
    return "closed the connection at once: check that PostgreSQL answers there, and read its log"


#: Why there is no connection, and what to do; the first type that fits.
_REASONS: tuple[tuple[type[BaseException], Callable[[Any], str]], ...] = (
    (TimeoutError, lambda _: f"does not answer within {CONNECT_TIMEOUT:.0f} s: check the address,"
     " and the firewalls on the way"),
    (socket.gaierror, lambda error: f"is not found, since the name cannot be resolved"
     f" ({error.strerror}): correct the host in the URL, or the DNS"),
    (ConnectionRefusedError, lambda _: "is not there, since nothing listens: start it, or correct"
     " host and port in the URL"),
    (FileNotFoundError, lambda _: "is not there, since there is no such socket: start it, or"
     " correct the folder in the URL"),
    (ssl.SSLCertVerificationError, lambda error: "has a certificate that is not trusted"
     f" ({error.verify_message}): correct it, or name its CA by sslrootcert in the URL"),
    (ssl.SSLError, lambda error: f"does not speak TLS as asked ({error.reason}): correct sslmode"
     " in the URL"),
    (ConnectionError, _of_connection),
    (OSError, lambda error: f"cannot be reached ({error}): correct host and port in the URL"),
    (asyncpg.TooManyConnectionsError, lambda error: f"has no connection left ({error}): raise"
     " that limit, or end other sessions; vpt needs two, better one more than DATABASE_POOL"),
    (asyncpg.CannotConnectNowError, lambda error: f"is starting or stopping ({error}): try again"
     " in a moment"),
    (asyncpg.InvalidAuthorizationSpecificationError, lambda error: f"refuses the account ({error}):"
     " correct user and password in the URL, or pg_hba.conf"),
    (asyncpg.InvalidCatalogNameError, lambda error: f"lacks the database ({error}): create it, or"
     " correct its name in the URL"),
    (asyncpg.SyntaxOrAccessError, lambda error: f"refuses the session ({error}): correct the"
     " parameters in the URL, or grant the account CONNECT"),
    (asyncpg.InvalidParameterValueError, lambda error: "does not know a parameter of the URL"
     f" ({error}): correct it"),
    (asyncpg.CantChangeRuntimeParamError, lambda error: "does not take a parameter of the URL"
     f" ({error}): leave it out"),
    (asyncpg.ConnectionDoesNotExistError, lambda _: "closed the connection at once: check that"
     " PostgreSQL answers there, and read its log"),
    (asyncpg.PostgresError, lambda error: f"refuses the connection ({error}): correct that"),
    (Exception, lambda error: f"cannot be used by this URL ({error}): correct it"),
)  # fmt: skip


def is_pooler(dsn: str) -> bool:
    """Return whether `dsn` names a transaction pooler: `pgbouncer=true`, or Supabase's port."""
    parts = urlsplit(dsn)
    named = parse_qs(parts.query).get(_PARAMETER)
    if named is not None:
        return named[-1].lower() not in ("false", "0", "no", "off")
    return parts.port == _POOLER_PORT


def driver_dsn(dsn: str) -> str:
    """Return `dsn` without what is meant for vpt: PostgreSQL would refuse the parameter."""
    parts = urlsplit(dsn)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    kept = [pair for pair in pairs if pair[0] != _PARAMETER]
    return dsn if kept == pairs else parts._replace(query=urlencode(kept)).geturl()


def place_of(dsn: str) -> str:
    """Return host and port to which `dsn` leads, without the password."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    where = parts.netloc.rpartition("@")[2]
    if "," in where:  # several servers, of which one is to answer
        return where
    host = parts.hostname or query.get("host", ["localhost"])[-1]
    port = parts.port or query.get("port", ["5432"])[-1]
    return f"{host}, port {port},"


def why_not(error: BaseException, dsn: str, setting: str = SETTING) -> str:
    """Return one line: which setting leads where, why there is no connection, and what to do."""
    reason = next(words for kind, words in _REASONS if isinstance(error, kind))
    line = f"{setting}: the database at {place_of(dsn)} {reason(error)}."
    return " ".join(line.split())


async def connect(dsn: str, *, setting: str = SETTING, name: str = "vpt") -> Any:
    """Return a connection that keeps no prepared statements; DatabaseAwayError says why not.

    `name` is the application_name of its session.
    """
    try:
        return await asyncpg.connect(
            driver_dsn(dsn),
            timeout=CONNECT_TIMEOUT,
            statement_cache_size=0,
            server_settings={"application_name": name},
        )
    except _NO_CONNECTION as error:
        raise DatabaseAwayError(why_not(error, dsn, setting)) from error
