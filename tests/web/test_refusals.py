"""A flood of refusals fills neither the log nor the audit, and the count has all of it."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from tests.actors.fake_host import until
from tests.conftest import Client, ClientFactory
from tests.web.kit import got
from vpt.model import Role
from vpt.store.audit import Entry
from vpt.web.http import refusals
from vpt.web.http.keys import REFUSALS
from vpt.web.http.refusals import AT_ONCE, MOST, Refusals

WRITE = Entry("ann", "viewer", None, "DELETE", "/x", "/x", 403, "::1", "r")


@pytest.fixture
async def admin(client: ClientFactory) -> Client:
    return await client(Role.ADMIN)


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_flood_of_strangers_and_of_a_user_is_counted(
    viewer: Client, nobody: Client, server: TestServer
) -> None:
    counts = server.app[REFUSALS]
    counts.clock = clock = Clock()
    with capture_logs() as lines:
        for second in range(2):
            clock.now += second
            for number in range(25):
                assert (await nobody.get(f"/api/{number}")).status == 401
                assert (await viewer.delete(f"/api/testcases/{number}")).status == 403
                assert (await viewer.get(f"/api/testcases/{number}")).status == 404
        assert (await viewer.get("/api/testcases")).status == 200
        counts.tell()
    asked = [line["status"] for line in lines if line["event"] == "http_request"]
    assert {status: asked.count(status) for status in asked} == {401: 20, 403: 10, 404: 10, 200: 1}
    sums = [line for line in lines if line["event"] == "http_refusals_counted"]
    assert [(one.get("peer"), one.get("user_id"), one["count"]) for one in sums] == [
        ("127.0.0.1", None, 30),
        (None, "viewer", 80),
    ]
    assert [one["statuses"] for one in sums] == [{"401": 30}, {"403": 40, "404": 40}]
    assert all("request_id" not in one for one in sums)


async def test_the_audit_has_a_row_for_all_that_were_too_many(
    admin: Client, viewer: Client, server: TestServer
) -> None:
    counts = server.app[REFUSALS]
    counts.clock = Clock()
    for number in range(30):
        assert (await viewer.delete(f"/api/testcases/{number}")).status == 403
    counts.tell()
    counts.tell()
    items = (await got(admin, "/api/audit", limit="50"))["items"]
    assert [item["count"] for item in items] == [30 - AT_ONCE, *[1] * AT_ONCE]
    assert (items[0]["path"], items[0]["status"]) == ("/api/testcases/29", 403)


async def test_peers_are_told_apart_by_what_one_person_has_and_are_bounded() -> None:
    counts = Refusals(lambda _: None, clock := Clock())
    for number in range(50):
        counts.left_out(None, f"2001:db8:1:2::{number:x}", 401, None)
    counts.left_out(None, "::ffff:10.0.0.1", 401, None)
    counts.left_out(None, "10.0.0.1", 401, None)
    counts.left_out(None, "fe80::1%eth0", 401, None)
    assert len(counts) == 3
    for number in range(MOST + 5000):
        counts.left_out(None, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 404, None)
    assert len(counts) <= MOST + 1
    with capture_logs() as lines:
        counts.tell()
    assert [line["count"] for line in lines if line["peer"] == "others"] == [5002 - AT_ONCE]
    clock.now += 5
    counts.tell()
    assert len(counts) == 0, "who stopped is forgotten"


async def test_the_sums_are_told_by_themselves_again_and_again() -> None:
    noted: list[Entry] = []
    before, refusals.PAUSE = refusals.PAUSE, 0.01
    try:
        counts = Refusals(noted.append, clock := Clock())
        for _ in range(2):
            noted.clear()
            for _ in range(AT_ONCE + 3):
                counts.left_out("ann", "::1", 403, WRITE)
            assert await until(lambda: noted)
            assert noted[0].count == 3
            clock.now += 5
            assert await until(lambda: len(counts) == 0)
    finally:
        refusals.PAUSE = before


async def test_a_sum_that_fails_is_not_the_last() -> None:
    noted: list[Entry] = []

    def note(entry: Entry) -> None:
        noted.append(entry)
        if len(noted) == 1:
            raise RuntimeError("no audit")

    errors: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    before, refusals.PAUSE = refusals.PAUSE, 0.01
    counts = Refusals(note, clock := Clock())
    try:
        for number in range(2):
            for _ in range(AT_ONCE + 3):
                counts.left_out("ann", "::1", 403, WRITE)
            assert await until(lambda number=number: len(noted) > number)
        assert len(errors) == 1
        clock.now += 5
        assert await until(lambda: len(counts) == 0)
    finally:
        refusals.PAUSE = before
        counts.close()


async def test_what_is_left_at_the_stop_is_told(viewer: Client, server: TestServer) -> None:
    with capture_logs() as lines:
        for number in range(30):
            await viewer.delete(f"/api/testcases/{number}")
        await server.close()
    told = [line["count"] for line in lines if line["event"] == "http_refusals_counted"]
    assert sum(told) + sum(line["event"] == "http_request" for line in lines) == 30


async def test_a_long_path_and_a_strange_method_are_short_in_the_log(nobody: Client) -> None:
    with capture_logs() as lines:
        await nobody.request("REPORT", "/api/" + "y" * 2000)
    (line,) = [line for line in lines if line["event"] == "http_request"]
    assert (line["method"], len(line["path"])) == ("other", 500)
