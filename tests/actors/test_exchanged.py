"""Hosts whose addresses were exchanged, and which all register at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.actors.conftest import PEER, Kit
from tests.actors.fake_host import FakeHost, until
from vpt.errors import ConflictError, NotRegisteredError, VptError
from vpt.model import Credential, Heartbeat, HostStatus
from vpt.store.db import Session

JOIN = Credential.JOIN


async def exchange(hosts: list[FakeHost]) -> None:
    """Give each host the address of the next one."""
    await asyncio.gather(*(host.vanish() for host in hosts))
    for host, other in pairwise(hosts):
        host.exchange_address(other)
    await asyncio.gather(*(host.appear() for host in hosts))


async def beat(lab: Kit, host: FakeHost) -> None:
    """Send a heartbeat, and register when the answer is to do so, as hosts do."""
    told = Heartbeat(host_url=host.url, instance_id=host.instance_id)
    try:
        await lab.lab.registry.heartbeat(host.name, told, JOIN)
    except NotRegisteredError:
        await lab.join(host)


async def each_serves_itself(lab: Kit, hosts: list[FakeHost]) -> None:
    for host in hosts:
        await lab.is_now(host.name, HostStatus.AVAILABLE)
        row = await lab.done(host.name, host_id=host.name)
        assert row["status"] == "completed"
        assert host.commands() == [host.name]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("named", [True, False])
async def test_hosts_that_exchanged_their_addresses_register_at_once_and_are_all_back(
    lab: Kit, monkeypatch: pytest.MonkeyPatch, count: int, named: bool
) -> None:
    hosts = [await lab.host(f"h{number}", named=named) for number in range(count)]
    await exchange(hosts)
    _let_all_store_at_once(lab, monkeypatch, count)
    for _ in range(2):
        outcomes = await asyncio.gather(
            *(beat(lab, host) for host in hosts), return_exceptions=True
        )
        assert all(not isinstance(one, VptError) or one.status == 409 for one in outcomes), outcomes
    await each_serves_itself(lab, hosts)


def _let_all_store_at_once(lab: Kit, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let nobody go on after its row is written, until all have done so or wait for a lock."""
    written = 0
    row_of: Callable[..., Awaitable[Any]] = Session.row

    async def row(self: Session, name: str, /, **args: Any) -> Any:
        nonlocal written
        found = await row_of(self, name, **args)
        if name == "upsert_host":
            written += 1
            await until(_all_are_there)
        return found

    async def _all_are_there() -> bool:
        waiting = await lab.fetch("SELECT FROM pg_locks WHERE NOT granted")
        return written + len(waiting) >= count

    monkeypatch.setattr(Session, "row", row)


async def test_hosts_that_say_neither_name_nor_url_come_back_by_their_registrations(
    lab: Kit,
) -> None:
    one, other = hosts = [await lab.host("one"), await lab.host("other")]
    await exchange(hosts)
    with pytest.raises(ConflictError, match="still answers at its old URL"):
        await lab.join(one)  # so far it may be a second host of that name
    await lab.join(other)
    await lab.join(one)
    await each_serves_itself(lab, hosts)


async def test_a_second_host_of_a_name_gets_it_nowhere_while_the_first_one_stays(lab: Kit) -> None:
    """Not even where another host was until now; and a host with two addresses changes nothing."""
    first, other = await lab.host("first"), await lab.host("other")
    third = await lab.host("third")
    twin = first.registration()
    await lab.lab.registry.heartbeat("third", Heartbeat(host_url="http://127.0.0.1:9"), JOIN)
    for url in (other.url, third.url, "http://127.0.0.1:9"):
        there = replace(twin, host=replace(twin.host, url=url))
        with pytest.raises(ConflictError, match="still answers at its old URL"):
            await lab.lab.registry.register(there, peer=PEER)
    await each_serves_itself(lab, [first, other, third])
