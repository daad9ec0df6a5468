"""Requests to such a host take turns, whoever gives them up, and notice a machine that is gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from tests.actors.fake_host import until
from vpt.dialects.base import Call, HostTroubleError, Trouble
from vpt.dialects.serial import SerialClient, own_url, watched_socket
from vpt.model import Device, Host, Json

from .conftest import CALM, KEY, QuickDialect
from .kit import TEAM
from .stand_in import HEALTH, StandIn

HOST = Host("pi", "http://10.0.0.5:6109/base")


@pytest.fixture
async def host() -> AsyncIterator[StandIn]:
    host = StandIn("http://127.0.0.1:9", "pi", key=KEY, pace=CALM)
    await host.appear()
    yield host
    await host.kill()
    host._reserved.close()


@pytest.fixture
async def client() -> AsyncIterator[SerialClient]:
    client = SerialClient()
    yield client
    await client.close()


def known(host: StandIn) -> Host:
    return Host("pi", host.url, dialect="virtualpytest", secret=KEY)


async def test_a_request_that_was_given_up_keeps_its_turn(
    host: StandIn, client: SerialClient
) -> None:
    async with host._turn:
        given_up = asyncio.create_task(client.get(known(host), HEALTH))
        await until(lambda: host._here)
        given_up.cancel()
        await asyncio.wait([given_up])
        following = asyncio.create_task(client.get(known(host), HEALTH))
        await asyncio.sleep(0.1)
        assert len(host._here) == 1
    assert (await following).good
    assert host.overlaps == []


async def test_one_that_waits_for_its_turn_and_is_given_up_is_never_sent(
    host: StandIn, client: SerialClient
) -> None:
    async with host._turn:
        first = asyncio.create_task(client.get(known(host), HEALTH))
        await until(lambda: host._here)
        second = asyncio.create_task(client.post(known(host), "/host/takeControl", {"n": 2}))
        third = asyncio.create_task(client.post(known(host), "/host/takeControl", {"n": 3}))
        await asyncio.sleep(0)
        second.cancel()
    assert (await first).good and (await third).good
    assert [each.body["n"] for each in host.asked("/host/takeControl")] == [3]


async def test_nothing_is_begun_when_the_turn_comes_after_the_servers_claim_ran_out(
    host: StandIn,
) -> None:
    claim = {"held": True}
    client = SerialClient(lambda: claim["held"])
    async with host._turn:
        first = asyncio.create_task(client.get(known(host), HEALTH))
        await until(lambda: host._here)
        second = asyncio.create_task(client.post(known(host), "/host/takeControl", {}))
        await asyncio.sleep(0)
        claim["held"] = False
    assert (await first).good
    with pytest.raises(HostTroubleError, match="claim") as trouble:
        await second
    assert trouble.value.trouble is Trouble.HELD_BACK
    assert host.asked("/host/takeControl") == []
    assert (await client.get(known(host), HEALTH)).good
    await client.close()


async def test_turns_come_in_the_order_of_asking(host: StandIn, client: SerialClient) -> None:
    asks = [client.post(known(host), "/host/takeControl", {"n": n}) for n in range(5)]
    await asyncio.gather(*asks)
    assert [each.body["n"] for each in host.asked("/host/takeControl")] == list(range(5))
    assert host.overlaps == []


async def test_two_names_of_one_host_take_turns(host: StandIn, client: SerialClient) -> None:
    names = (known(host), replace(known(host), id="pi-2", url=f"{host.url}/"))
    async with host._turn:
        asked = [asyncio.create_task(client.get(name, HEALTH)) for name in names]
        await until(lambda: host._here)
        await asyncio.sleep(0.1)
        assert len(host._here) == 1
    await asyncio.gather(*asked)
    assert host.overlaps == []


async def test_other_hosts_have_turns_of_their_own(host: StandIn, client: SerialClient) -> None:
    other = StandIn("http://127.0.0.1:9", "other", pace=CALM)
    await other.appear()
    async with host._turn:
        slow = asyncio.create_task(client.get(known(host), HEALTH))
        assert (await client.get(known(other), HEALTH)).good
        assert not slow.done()
    await slow
    await other.kill()
    other._reserved.close()


async def test_a_probe_says_in_time_that_there_is_no_answer(host: StandIn) -> None:
    dialect = QuickDialect(TEAM)
    async with host._turn:
        with pytest.raises(HostTroubleError, match="no answer") as caught:
            await dialect.probe(known(host), 0.1)
        assert caught.value.trouble is Trouble.NOT_CONNECTED
    await dialect.probe(known(host), 5.0)
    assert host.overlaps == []
    await dialect.close()


class WithoutFiles(StandIn):
    """Lets who wants a file wait until the work is released."""

    async def _file(self, request: web.Request, body: Json) -> web.Response:
        await self.work.release.wait()
        return await super()._file(request, body)


async def test_a_verdict_does_not_wait_for_a_picture_longer_than_for_all() -> None:
    host, dialect = WithoutFiles("http://127.0.0.1:9", "pi", pace=CALM), QuickDialect(TEAM)
    await host.appear()
    device = Device("pi:device1", "device1", "device1", "tv")
    call = Call(known(host), device, {"command": "screenshot"}, "k", 1.0)
    async with asyncio.timeout(4):  # less than a picture gets where there is time
        answer = await dialect.send(call)
    assert answer.success and answer.raw is not None and "screenshot" not in answer.raw
    host.work.release.set()
    await dialect.close()
    await host.kill()
    host._reserved.close()


async def test_a_host_that_is_not_there_was_not_sent_anything(
    host: StandIn, client: SerialClient
) -> None:
    await host.vanish()
    with pytest.raises(HostTroubleError) as caught:
        await client.get(known(host), HEALTH)
    assert caught.value.trouble is Trouble.NOT_CONNECTED


async def test_no_more_is_read_than_was_asked_for(host: StandIn, client: SerialClient) -> None:
    host.files["/x.png"] = bytes(2 * 2**20 + 1)
    with pytest.raises(HostTroubleError, match="more than 2 MiB"):
        await client.get(known(host), "/x.png", max_bytes=2 * 2**20)


async def test_the_system_watches_the_other_machine() -> None:
    with watched_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("/host/x.png", "http://10.0.0.5:6109/base/host/x.png"),
        ("x.png", "http://10.0.0.5:6109/base/x.png"),
        ("//evil.example/x.png", "http://10.0.0.5:6109/base/evil.example/x.png"),
        ("@evil.example/x.png", "http://10.0.0.5:6109/base/@evil.example/x.png"),
        ("http://10.0.0.5:6109/x.png", "http://10.0.0.5:6109/x.png"),
        ("http://10.0.0.5/x.png", None),
        ("https://10.0.0.5:6109/x.png", None),
        ("http://evil.example/x.png", None),
        ("http://10.0.0.5:6109@evil.example/x.png", None),
        ("http://a:b@10.0.0.5:6109/x.png", None),
        ("file:///etc/passwd", None),
        ("http://[", None),
        ("x://", None),
    ],
)
def test_only_what_is_on_the_host_is_fetched(name: str, url: str | None) -> None:
    found = own_url(HOST, name)
    assert (None if found is None else str(found)) == url
