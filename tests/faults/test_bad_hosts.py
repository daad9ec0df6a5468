"""Hosts that live and are bad, elsewhere or somebody else, seen from outside: over REST only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.actors.fake_host import Behaviour, FakeHost, Gate, Reply, passes, replies, says, until
from tests.faults.kit import SOON, all_of, check_calm, host_is, kinds
from tests.system.kit import (
    JOIN_TOKEN,
    Process,
    ask,
    client,
    execute,
    final,
    make,
    open_folder,
    process,
    server,
    shell,
)
from vpt.model import Json

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS = SOON | {"DEVICE_PAUSE": 1, "RETRY_BACKOFF": 0.1, "RUN_GRACE": 20}


class BeatingHost(FakeHost):
    """A host that says in its health who it is, and sends heartbeats when it is told to."""

    def __init__(self, name: str, *devices: str, instance: str = "first", **more: object) -> None:
        super().__init__(name, devices or ("d1",), **more)  # type: ignore[arg-type]
        self.instance = f"{instance}-of-{name}"
        self.health = self._says_who_it_is
        self.presences: dict[str, Json] = {}

    async def _says_who_it_is(self, _: FakeHost, __: Json) -> Reply:
        return await replies(host_name=self.name, instance_id=self.instance)(self, {})

    async def register(self, session: aiohttp.ClientSession) -> int:
        """Register; return the status."""
        devices = [{"device_id": d, "name": d, "model": self.model} for d in self.devices]
        card = {
            **self._self_description(),
            "host_name": self.name,
            "host_secret": self.secret,
            "devices": devices,
            "protocol": {"idempotency": self.idempotency, "cancel": self.cancel},
        }
        return (await self._post(session, "register", card))[0]

    async def beat(self, session: aiohttp.ClientSession) -> tuple[int, str]:
        """Send a heartbeat, and register when told to; return what the heartbeat was answered."""
        body = {**self._self_description(), "devices": self.presences}
        status, word = await self._post(session, f"{self.name}/heartbeat", body)
        if status == 404:
            await self.register(session)
        return status, word

    async def leave(self, session: aiohttp.ClientSession) -> int:
        """Unregister; return the status."""
        body = {"instance_id": self.instance}
        return (await self._post(session, f"{self.name}/unregister", body))[0]

    def _self_description(self) -> Json:
        return {"host_url": self.url, "instance_id": self.instance}

    async def _post(self, session: aiohttp.ClientSession, path: str, body: Json) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {JOIN_TOKEN}"}
        url = f"/api/hosts/{path}"
        async with session.post(url, json=body, headers=headers) as response:
            return response.status, str((await response.json()).get("status"))


async def exchange(*hosts: FakeHost) -> None:
    """Give each host the address of the one before it; what they do goes on."""
    await all_of(*(host.vanish() for host in hosts))
    for one, other in pairwise(hosts):
        one.exchange_address(other)
    await all_of(*(host.appear() for host in hosts))


@dataclass
class Site:
    """A server, and the hosts of one test."""

    folder: Path
    one: Process
    session: aiohttp.ClientSession
    hosts: list[FakeHost] = field(default_factory=list)

    async def host(self, name: str, *devices: str, **more: object) -> BeatingHost:
        """Start a host that is available; its model is the first part of its name."""
        host = await self.stranger(name, *devices, **more)
        assert await host.register(self.session) == 200
        await host_is(self.session, name, "available")
        return host

    async def stranger(self, name: str, *devices: str, **more: object) -> BeatingHost:
        """Start a host that has not joined."""
        model = name.partition("-")[0]
        host = BeatingHost(name, *devices, **{"model": model, **more})
        self.hosts.append(host)
        await host.appear()
        return host

    async def run(self, model: str, *steps: str, **body: object) -> str:
        return await execute(self.session, await make(self.session, *steps, model=model), **body)

    async def device(self, device_id: str) -> Json:
        shown: Json = await ask(self.session, "GET", f"/api/devices/{device_id}")
        return shown

    async def device_is(self, device_id: str, status: str) -> Json:
        """Wait until a device has a status; return what REST shows of it."""

        async def look() -> Json | None:
            shown = await self.device(device_id)
            return shown if shown["status"] == status else None

        found: Json = await until(look)
        return found

    async def trouble_is(self, host_id: str, kind: str) -> None:
        """Wait until REST says so of a host."""

        async def look() -> bool:
            shown = await ask(self.session, "GET", f"/api/hosts/{host_id}/status")
            return (shown["trouble"] or {}).get("kind") == kind

        await until(look)

    async def all_back(self, *hosts: BeatingHost) -> None:
        """See that after two heartbeats of each, all are available at their addresses."""
        for host in (*hosts, *hosts):
            await host.beat(self.session)
        await self.all_there(*hosts)

    async def all_there(self, *hosts: BeatingHost) -> None:
        """See that all are available at their addresses."""
        for host in hosts:
            shown = await host_is(self.session, host.name, "available", "busy")
            assert shown["host_url"] == host.url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Site]:
    """Start one server for all."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        one = await stack.enter_async_context(server(folder, **SETTINGS))
        yield Site(folder, one, await stack.enter_async_context(client(one)))
        assert await one.stop() == 0
        check_calm(one)


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared: Site) -> AsyncIterator[Site]:
    """Give the server to one test, whose hosts did nothing twice at once."""
    site = Site(shared.folder, shared.one, shared.session)
    try:
        yield site
    finally:
        for host in site.hosts:
            await host.close()
    assert [overlap for host in site.hosts for overlap in host.overlaps] == []


# ---------------------------------------------------------------- who fails fast


def brief() -> Behaviour:
    """Answer after a moment, so that the host is mostly busy."""

    async def behave(host: FakeHost, action: Json) -> Reply:
        await asyncio.sleep(0.02)
        return Reply()

    return behave


async def test_a_host_that_fails_at_once_is_held_back_says_why_and_works_when_mended(
    site: Site,
) -> None:
    bad, good = await site.host("fast-bad"), await site.host("fast-good")
    bad.on("a", replies(500, error="the disk is full"))
    good.on("a", brief())
    test_case_id = await make(site.session, "a", model="fast")
    ids = [await execute(site.session, test_case_id) for _ in range(20)]
    shown = await site.device_is("fast-bad:d1", "offline")
    assert (shown["reason"], shown["reason_until"] is None) == ("held_back", False)
    assert "the disk is full" in shown["reason_text"]
    ended = [await final(site.session, execution_id) for execution_id in ids]
    assert [execution["status"] for execution in ended] == ["completed"] * 20
    assert 3 <= len(bad.actions) < 10
    bad.on("a", passes())
    shown = await site.device_is("fast-bad:d1", "online")
    assert (shown["reason"], shown["reason_text"], shown["reason_until"]) == (None, None, None)
    again = await execute(site.session, test_case_id, device_id="fast-bad:d1")
    assert (await final(site.session, again))["status"] == "completed"


async def test_a_tool_that_cannot_be_started_is_no_failed_test(site: Site) -> None:
    """Exit code 126 of a real host's shell, whose neighbour has the tool."""
    bad, good = site.folder / "bad-tool", site.folder / "good-tool"
    for tool in (bad, good):
        tool.write_text("#!/bin/sh\nexit 0\n")
    good.chmod(0o755)
    bad.chmod(0o644)
    command = ("-m", "vpt", "host", "--server", site.one.url, "--allow-shell", "--pass-env", "TOOL")
    async with AsyncExitStack() as stack:
        for name, tool in (("tool-bad", bad), ("tool-good", good)):
            own = ("--name", name, "--data-dir", str(site.folder / name))
            settings = {"HOST_JOIN_TOKEN": JOIN_TOKEN, "TOOL": tool}
            started = process(site.folder, *command, *own, **settings)
            await stack.enter_async_context(started)
            await host_is(site.session, name, "available")
        test_case_id = await make(site.session, shell('"$TOOL"'))
        ids = [await execute(site.session, test_case_id) for _ in range(20)]
        shown = await site.device_is("tool-bad:desktop", "offline")
        assert (shown["reason"], shown["reason_until"] is None) == ("held_back", False)
        assert "126" in shown["reason_text"]
        ended = [await final(site.session, execution_id) for execution_id in ids]
        assert [execution["status"] for execution in ended] == ["completed"] * 20
        failed = {kind for execution in ended for kind in kinds(execution)} - {("tool-good", None)}
        assert failed == {("tool-bad", "host_error")}
        bad.chmod(0o755)
        await site.device_is("tool-bad:desktop", "online")
        again = await execute(site.session, test_case_id, host_id="tool-bad")
        assert (await final(site.session, again))["status"] == "completed"


# ---------------------------------------------------------------- devices that are away


async def test_no_run_goes_to_a_device_that_is_away_until_a_heartbeat_says_it_is_back(
    site: Site,
) -> None:
    host = await site.host("cable", "d1", "d2")
    host.presences = {"d1": {"available": False, "reason": "adb: device offline"}}
    assert await host.beat(site.session) == (200, "success")
    shown = await site.device_is("cable:d1", "offline")
    assert (shown["reason"], shown["reason_text"]) == ("away", "adb: device offline")
    ids = [await site.run("cable", "a") for _ in range(4)]
    ended = [await final(site.session, execution_id) for execution_id in ids]
    assert {item["device_id"] for item in ended} == {"cable:d2"}
    waits = await site.run("cable", "a", device_id="cable:d1")
    host.presences = {"d1": {"available": True}}
    await host.beat(site.session)
    assert (await final(site.session, waits))["device_id"] == "cable:d1"


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize("secrets", ["none", "both", "one"])
async def test_hosts_that_exchange_their_addresses_in_the_middle_of_a_step_are_both_back(
    site: Site, secrets: str
) -> None:
    """Those without a secret of their own act for whoever calls."""
    names = [f"{secrets}-{word}" for word in ("one", "other")]
    having = {"none": (), "one": names[:1], "both": names}[secrets]
    one, other = [
        await site.host(name, secret=name.ljust(40, "x") if name in having else None)
        for name in names
    ]
    gate = Gate()
    for host in (one, other):
        host.on("long", gate.held())
    ids = [await site.run(one.model, "long", host_id=name) for name in names]
    await gate.reached(2)
    await exchange(one, other)
    for name in names:
        await host_is(site.session, name, "suspect", "lost", "offline")
    waiting = [await site.run(one.model, "a", host_id=name) for name in names]
    await site.all_back(one, other)
    gate.open()
    ended = [await final(site.session, execution_id) for execution_id in (*ids, *waiting)]
    assert [execution["status"] for execution in ended] == ["completed"] * 4
    for host, long, short in zip((one, other), ids, waiting, strict=True):
        keys = {str(call.key).partition("/")[0] for call in host.acted}
        assert keys == {long, short}, "each acted for its own name only"


async def test_hosts_in_a_ring_of_exchanged_addresses_are_all_back(site: Site) -> None:
    names = [f"ring-{word}" for word in ("one", "two", "three")]
    hosts, gate = [await site.host(name) for name in names], Gate()
    for host in hosts:
        host.on("long", gate.held())
    ids = [await site.run("ring", "long", host_id=name) for name in names]
    await gate.reached(3)
    urls = [host.url for host in hosts]
    await exchange(*hosts)
    assert [urls.index(host.url) for host in hosts] == [1, 2, 0]
    for name in names:
        await host_is(site.session, name, "suspect", "lost", "offline")
    waiting = [await site.run("ring", "a", host_id=name) for name in names]
    await site.all_back(*hosts)
    gate.open()
    ended = [await final(site.session, execution_id) for execution_id in (*ids, *waiting)]
    assert [execution["status"] for execution in ended] == ["completed"] * 6
    for host, long, short in zip(hosts, ids, waiting, strict=True):
        keys = {str(call.key).partition("/")[0] for call in host.acted}
        assert keys == {long, short}, "each acted for its own name only"


async def test_a_host_with_a_new_address_comes_back_by_its_heartbeat_with_what_it_does(
    site: Site,
) -> None:
    host, gate = await site.host("moves"), Gate()
    host.on("long", gate.held())
    execution_id = await site.run("moves", "long")
    await gate.reached()
    spare = await site.stranger("spare")
    await spare.vanish()
    await exchange(host, spare)
    await spare.vanish()
    await site.all_back(host)
    gate.open()
    execution = await final(site.session, execution_id)
    assert execution["status"] == "completed"
    assert host.done("long") == len(execution["attempts"])


async def test_of_two_names_at_one_url_the_host_is_whom_its_health_names(site: Site) -> None:
    old = await site.host("name-old")
    await old.vanish()
    new = await site.stranger("name-new")
    await exchange(old, new)
    await old.vanish()
    assert await new.register(site.session) == 200
    shown = await host_is(site.session, "name-old", "offline")
    assert shown["reason"] == "replaced"
    assert "name-new" in shown["reason_text"]
    ids = [await site.run("name", "a") for _ in range(3)]
    for execution_id in ids:
        assert kinds(await final(site.session, execution_id)) == [("name-new", None)]
    assert old.actions == []


async def test_a_copied_configuration_gets_no_run_of_the_name_and_a_superseded_host_is_told(
    site: Site,
) -> None:
    first = await site.host("copied")
    copy = await site.stranger("copied", instance="copy")
    assert await copy.register(site.session) == 409
    await first.vanish()
    await host_is(site.session, "copied", "suspect", "lost")
    assert await copy.register(site.session) == 200
    await host_is(site.session, "copied", "available")
    await first.appear()
    assert await first.beat(site.session) == (409, "replaced")
    assert await first.leave(site.session) == 409
    assert (await host_is(site.session, "copied", "available"))["host_url"] == copy.url
    assert (await final(site.session, await site.run("copied", "a")))["status"] == "completed"
    assert (first.actions, copy.done("a")) == ([], 1)


async def test_another_service_at_a_host_s_address_gets_no_step_and_gives_no_verdict(
    site: Site,
) -> None:
    host = await site.host("reused")
    service = await site.stranger("service")
    service.health = says(Reply(body=b"<html>It works!</html>"))
    await exchange(host, service)
    await host.vanish()
    await site.trouble_is("reused", "somebody_else")
    waits = await site.run("reused", "a")
    await host.appear()
    await site.all_back(host)
    assert kinds(await final(site.session, waits)) == [("reused", None)]
    assert service.actions == []
