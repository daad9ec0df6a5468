"""Own tokens of hosts, and the command that makes them."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.forks import start
from tests.system.kit import ROOT, environment
from vpt.store.db import Database
from vpt.store.tokens import KNOWN_FOR, Tokens, listed_tokens, make_token, revoke_tokens


@dataclass
class Clock:
    """A clock that the test sets."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_token_is_that_hosts_and_only_its_hash_is_kept(db: Database) -> None:
    first, second = await make_token(db, "pi-1"), await make_token(db, "pi-1")
    other = await make_token(db, "pi-2")
    tokens = Tokens(db)
    assert [await tokens.host_of(one) for one in (first, second, other)] == ["pi-1", "pi-1", "pi-2"]
    for wrong in ("", "x", first[:-1], first + "x", first.swapcase(), "\udcff" * 43):
        assert await tokens.host_of(wrong) is None
    async with db.session() as session:
        rows = await session._connection.fetch("SELECT tokens::text AS row FROM tokens")
    assert not [row for row in rows if first in row["row"]]
    assert [(row["host_id"], row["tokens"]) for row in await listed_tokens(db)] == [
        ("pi-1", 2),
        ("pi-2", 1),
    ]


async def test_a_revoked_token_is_refused_within_5_seconds(db: Database) -> None:
    token, clock = await make_token(db, "pi-1"), Clock()
    tokens = Tokens(db, clock)
    assert await tokens.host_of(token) == "pi-1"
    assert await revoke_tokens(db, "pi-1") == 1
    clock.now += KNOWN_FOR
    assert KNOWN_FOR < 5
    assert await tokens.host_of(token) is None
    assert await revoke_tokens(db, "pi-1") == 0


async def test_a_hosts_token_ends_when_it_was_said_to(db: Database) -> None:
    now, hour = datetime.now(UTC), timedelta(hours=1)
    over = await make_token(db, "pi-1", expires_at=now - hour)
    holds = await make_token(db, "pi-1", expires_at=now + hour)
    assert [await Tokens(db).host_of(one) for one in (over, holds)] == [None, "pi-1"]


async def test_what_was_asked_before_a_token_was_revoked_is_not_remembered(db: Database) -> None:
    token, tokens = await make_token(db, "pi-1", token_id="tok_1"), Tokens(db)
    asked = asyncio.create_task(tokens.host_of(token))
    await asyncio.sleep(0)
    tokens.forget("tok_1")
    assert await asked == "pi-1"
    await revoke_tokens(db, "pi-1")
    assert await tokens.host_of(token) is None


async def test_a_token_is_not_looked_up_for_each_request(db: Database) -> None:
    token, clock = await make_token(db, "pi-1"), Clock()
    tokens = Tokens(db, clock)
    for _ in range(3):
        assert await tokens.host_of(token) == "pi-1"
        await revoke_tokens(db, "pi-1")
        clock.now += KNOWN_FOR / 4


async def command(dsn: str, folder: Path, *words: str) -> tuple[int | None, str]:
    """Run `vpt host-token`; give its exit code and what it printed."""
    settings = {"DATABASE_URL": dsn, "VPT_DATA_DIR": str(folder), "LOG_FORMAT": "json"}
    env = environment(PYTHONPATH=ROOT, **settings)
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
        child = await start("host-token", *words, env=env, cwd=ROOT, stdout=printed, stderr=errors)
        code = await child.wait()
        printed.seek(0)
        return code, printed.read().decode().strip()


async def test_the_command_makes_lists_and_revokes(dsn: str, db: Database, tmp_path: Path) -> None:
    code, token = await command(dsn, tmp_path, "pi-1")
    assert (code, await Tokens(db).host_of(token)) == (0, "pi-1")
    code, listed = await command(dsn, tmp_path, "--list")
    assert (code, listed.split()[:2]) == (0, ["pi-1", "1"])
    assert token not in listed
    assert await command(dsn, tmp_path, "pi-1", "--revoke") == (0, "1 tokens of pi-1 revoked")
    assert await command(dsn, tmp_path, "--list") == (0, "")


@pytest.mark.parametrize("words", [(), ("a/b",), ("pi-1", "--list")])
async def test_the_command_says_what_it_expects(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert await command("postgresql://nobody@127.0.0.1:1/x", tmp_path, *words) == (4, "")
