"""Tokens that can be revoked: whose they are, and whether they still hold.

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

#: Seconds for which a token is known without asking: a revoked one is refused after that.
KNOWN_FOR = 4.0
#: What a host may be called.
HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: What new_id makes.
TOKEN_ID = re.compile(r"tok_[0-9a-f]{16}")
_MOST_KNOWN = 1024
_BYTES = 32
_FORM = re.compile(r"[A-Za-z0-9_-]{43}")  # what token_urlsafe makes of 32 bytes


def new_id() -> str:
    """Give an id for a token."""
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
    """Make one more token of that host's; this is the only time that anybody sees it."""
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
    """Give for each host that has any: `host_id`, `tokens` (how many), `newest` (when made)."""
    return await db.rows("host_tokens")


async def revoke_tokens(db: Database, host_id: str) -> int:
    """Take all tokens of a host away; give how many it had."""
    return len(await db.rows("revoke_host_tokens", host_id=host_id))


class Tokens:
    """Tells whether a token holds and whose it is; asks the database at most each KNOWN_FOR (s)."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._known: dict[bytes | str, tuple[float, str]] = {}
        self._forgotten = 0

    async def host_of(self, token: str) -> str | None:
        """Give the id of the host whose token it is, None when it is nobody's."""
        if not _FORM.fullmatch(token):
            return None
        return await self._asked(_hash(token), "host_of_token", "hash")

    async def lives(self, token_id: str) -> bool:
        """Tell whether the token of that id is one of ours that nobody revoked."""
        return await self._asked(token_id, "token_lives", "id") is not None

    def forget(self, known_as: bytes | str) -> None:
        """Ask anew about a token: its hash, or its id."""
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
        if forgotten != self._forgotten:  # this may be what was true before
            return str(found)
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[known_as] = (asked + KNOWN_FOR, str(found))
        return str(found)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
