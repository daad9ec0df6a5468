"""Tokens that can be revoked: their owner, and whether they are valid.

A user's token is signed and carries the id of its row; of a host's own token only the hash is kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from vpt.model import Role
from vpt.store.db import Database

#: Seconds for which the database is not asked again: a revoked token may be accepted so long.
KNOWN_FOR = 4.0
#: The names that a host may have.
HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: The ids that new_id returns.
TOKEN_ID = re.compile(r"tok_[0-9a-f]{16}")
_MOST_KNOWN = 1024
_BYTES = 32
_FORM = re.compile(r"[A-Za-z0-9_-]{43}")  # of token_urlsafe(32)


def new_id() -> str:
    """Return a new id for a token."""
    return f"tok_{secrets.token_hex(8)}"


async def make_token(
    db: Database,
    host_id: str,
    *,
    token_id: str | None = None,
    name: str | None = None,
    created_by: str = "vpt host-token",
    expires_at: datetime | None = None,
) -> str:
    """Store one more token of that host and return it: only its hash is kept."""
    token = secrets.token_urlsafe(_BYTES)
    await db.row(
        "insert_token",
        id=token_id or new_id(),
        name=name or host_id,
        role=Role.HOST,
        host_id=host_id,
        hash=_hash(token),
        created_by=created_by,
        expires_at=expires_at,
    )
    return token


async def listed_tokens(db: Database) -> list[Any]:
    """Return a row for each host with tokens: `host_id`, `tokens` (count), `newest` (made at)."""
    return await db.rows("host_tokens")


async def revoke_tokens(db: Database, host_id: str) -> int:
    """Revoke all tokens of a host; return how many it had."""
    return len(await db.rows("revoke_host_tokens", host_id=host_id))


class Tokens:
    """Looks tokens up, and asks the database about each at most every KNOWN_FOR seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._known: dict[bytes | str, tuple[float, str]] = {}
        self._forgotten = 0

    async def host_of(self, token: str) -> str | None:
        """Return the id of the host that owns `token`, None when there is no such token."""
        if not _FORM.fullmatch(token):
            return None
        return await self._asked(_hash(token), "host_of_token", "hash")

    async def lives(self, token_id: str) -> bool:
        """Return whether the token with that id exists and was not revoked."""
        return await self._asked(token_id, "token_lives", "id") is not None

    def forget(self, known_as: bytes | str) -> None:
        """Ask the database at the next use of a token, named by its hash or its id."""
        self._known.pop(known_as, None)
        self._forgotten += 1

    async def _asked(self, known_as: bytes | str, query: str, argument: str) -> str | None:
        asked = self._clock()
        until, host_id = self._known.get(known_as, (asked, ""))
        if until > asked:
            return host_id
        self._known.pop(known_as, None)
        forgotten = self._forgotten
        found = await self._db.value(query, **{argument: known_as})
        if found is None:
            return None
        if forgotten != self._forgotten:  # the answer may be older than the change
            return str(found)
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[known_as] = (asked + KNOWN_FOR, str(found))
        return str(found)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
