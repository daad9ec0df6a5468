"""What vpt needs of a PostgreSQL, looked at before anything is changed there."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from vpt.store.connect import SETTING

_OLDEST = 15
_ABOUT = """
    SELECT current_setting('server_version_num')::int / 10000 AS major,
        current_setting('server_version') AS version,
        current_database() AS name, current_user AS account,
        pg_encoding_to_char(encoding) AS encoding, pg_is_in_recovery() AS standby,
        current_setting('transaction_read_only') = 'on' AS read_only,
        to_regclass('schema_migrations') IS NOT NULL AS migrated,
        coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create
    FROM pg_database
    WHERE datname = current_database()
"""


class UnsuitableDatabaseError(Exception):
    """vpt cannot use this database as it is; the message says why, and what to do."""


async def check_server(connection: Any, setting: str = SETTING) -> None:
    """Raise UnsuitableDatabaseError when vpt must not work on this server or database."""
    about = await connection.fetchrow(_ABOUT)
    if wrong := _wrong(about):
        raise UnsuitableDatabaseError(f"{setting}: {wrong}")


def _wrong(about: Any) -> str | None:
    name, account = about["name"], about["account"]
    if about["major"] < _OLDEST:
        return (
            f"this is PostgreSQL {about['version']}, and vpt needs {_OLDEST} or newer: upgrade it,"
            " or name another server."
        )
    if about["encoding"] != "UTF8":
        return (
            f"database {name} has the encoding {about['encoding']}, and vpt needs UTF8: create one"
            f" by CREATE DATABASE vpt ENCODING 'UTF8' TEMPLATE template0, and name that."
        )
    if about["standby"]:
        return "this server is a standby, which cannot be written to: name the primary."
    if about["read_only"]:
        return (
            f"database {name} is read-only for {account} (default_transaction_read_only): set that"
            " to off for the role and the database, or name another one."
        )
    if not about["migrated"] and not about["may_create"]:
        return (
            f"{account} may not create tables in database {name}: make it the owner of the"
            " database, or of a schema in its search_path."
        )
    return None


async def check_schema(connection: Any, known: AbstractSet[str], setting: str = SETTING) -> None:
    """Raise UnsuitableDatabaseError when the database has migrations that are not in `known`."""
    if not await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        return
    rows = await connection.fetch("SELECT name FROM schema_migrations ORDER BY name")
    if newer := [row["name"] for row in rows if row["name"] not in known]:
        raise UnsuitableDatabaseError(
            f"{setting}: the database is of a newer vpt than this one (it has {', '.join(newer)}):"
            " install that vpt, or load a dump of before the upgrade into an empty database."
        )
