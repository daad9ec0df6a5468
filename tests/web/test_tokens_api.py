"""Tokens that can be revoked, and the record of who wrote what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import socketio
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.actors.fake_host import until
from tests.conftest import JOIN_TOKEN, SECRET, Client, ClientFactory, token
from tests.web.kit import FakeHost, Json, got, made, refused, test_case
from tests.web.test_access import BAD_TOKEN, signed
from vpt.model import Role
from vpt.store import audit
from vpt.store.db import Database
from vpt.store.tokens import issue_token
from vpt.web.http.keys import AUDIT
from vpt.web.http.requests import Page
from vpt.web.live.sockets import RECHECK


@pytest.fixture
async def admin(client: ClientFactory) -> Client:
    return await client(Role.ADMIN)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_token_is_made_shown_once_used_and_revoked(admin: Client, nobody: Client) -> None:
    new = await made(admin, "/api/tokens", {"name": "ci", "role": "viewer", "days": 2})
    secret = new.pop("token")
    assert (new["name"], new["role"], new["host_id"], new["created_by"]) == (
        *("ci", "viewer", None),
        "admin",
    )
    ends = datetime.fromisoformat(new["expires_at"])
    assert timedelta(days=2) - timedelta(minutes=1) < ends - datetime.now(UTC) <= timedelta(days=2)
    assert (await got(admin, "/api/tokens"))["items"] == [new]
    answer = await nobody.get("/api/testcases", headers=bearer(secret))
    assert answer.status == 200
    (listed,) = (await got(admin, "/api/tokens"))["items"]
    assert listed["last_used_at"] is not None
    assert (await refused(nobody, "POST", "/api/testcases", headers=bearer(secret)))[0] == 403
    assert (await admin.delete(f"/api/tokens/{new['id']}")).status == 204
    assert await refused(nobody, "GET", "/api/testcases", headers=bearer(secret)) == BAD_TOKEN
    assert await refused(nobody, "POST", "/api/testcases", headers=bearer(secret)) == BAD_TOKEN
    for path in ("/metrics", "/screenshots/a/1/1.png"):
        assert (await nobody.get(path, headers=bearer(secret))).status == 401, path
    assert "details" not in await (await nobody.get("/api/health", headers=bearer(secret))).json()
    assert (await got(admin, "/api/tokens"))["items"] == []
    assert (await refused(admin, "DELETE", f"/api/tokens/{new['id']}"))[0] == 404


async def test_a_token_ends_with_its_row_even_when_it_is_signed_for_longer(
    nobody: Client, db: Database
) -> None:
    ends = {"tok_00000000000000aa": timedelta(hours=-1), "tok_00000000000000bb": timedelta(hours=1)}
    for token_id, left in ends.items():
        await db.row(
            "insert_token",
            id=token_id,
            name="ci",
            role=Role.VIEWER,
            host_id=None,
            hash=None,
            created_by="admin",
            expires_at=datetime.now(UTC) + left,
        )
    over, holds = (issue_token(SECRET, "ci", Role.VIEWER, 1, token_id) for token_id in ends)
    assert await refused(nobody, "GET", "/api/testcases", headers=bearer(over)) == BAD_TOKEN
    assert (await nobody.get("/api/testcases", headers=bearer(holds))).status == 200


async def test_a_revoked_tokens_pages_are_hung_up_on(admin: Client) -> None:
    new = await made(admin, "/api/tokens", {"name": "page", "role": "viewer"})
    page, over = socketio.AsyncClient(reconnection=False), asyncio.Event()
    page.on("disconnect", lambda *_: over.set())
    url = str(admin.make_url("/")).rstrip("/")
    await page.connect(url, auth={"token": new["token"]})
    await admin.delete(f"/api/tokens/{new['id']}")
    async with asyncio.timeout(RECHECK / 2):  # at once, not at the next look
        await over.wait()
    again = socketio.AsyncClient(reconnection=False)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await again.connect(url, auth={"token": new["token"]})
    await page.disconnect()


async def test_a_hosts_own_token_speaks_for_that_host(admin: Client, nobody: Client) -> None:
    body = {"name": "lab 1", "role": "host", "host_id": "pi-1"}
    new = await made(admin, "/api/tokens", body)
    assert (new["host_id"], new["expires_at"]) == ("pi-1", None)
    word = {"Authorization": f"Bearer {new['token']}"}
    for host, status in (("pi-1", 404), ("pi-2", 403)):  # 404: known, and not registered
        answer = await nobody.post(f"/api/hosts/{host}/heartbeat", json={}, headers=word)
        assert answer.status == status
    items = (await got(admin, "/api/tokens", role="host"))["items"]
    assert [item["last_used_at"] is not None for item in items] == [True]
    assert (await got(admin, "/api/tokens", role="admin"))["items"] == []
    await admin.delete(f"/api/tokens/{new['id']}")
    answer = await nobody.post("/api/hosts/pi-1/heartbeat", json={}, headers=word)
    assert answer.status == 401


WRONG: tuple[tuple[Json, str], ...] = (
    ({}, "name"),
    ({"name": ""}, "name"),
    ({"name": "a\tb"}, "name"),
    ({"name": "x" * 101}, "name"),
    ({"role": "root"}, "role"),
    ({"role": "host"}, "host_id"),
    ({"host_id": "pi"}, "host_id"),
    ({"role": "host", "host_id": "a b"}, "host_id"),
    ({"days": 0}, "days"),
    ({"days": 4000}, "days"),
    ({"days": "7"}, "days"),
    ({"more": 1}, "more"),
)


@pytest.mark.parametrize(("wrong", "field"), WRONG)
async def test_a_token_that_makes_no_sense_is_not_made(
    admin: Client, wrong: Json, field: str
) -> None:
    body = {"name": "ci", **wrong} if wrong else {}
    status, answer = await refused(admin, "POST", "/api/tokens", json=body)
    assert (status, [*answer["errors"]]) == (400, [field])
    assert (await got(admin, "/api/tokens"))["items"] == []


@pytest.mark.parametrize("path", ["/api/tokens", "/api/audit"])
async def test_tokens_and_the_audit_are_for_admins(operator: Client, path: str) -> None:
    assert (await refused(operator, "GET", path))[0] == 403
    assert (await refused(operator, "POST", "/api/tokens", json={"name": "x"}))[0] == 403
    assert (await refused(operator, "DELETE", "/api/tokens/tok_1"))[0] == 403


async def test_nobody_vouches_for_a_token_while_the_database_is_away(
    admin: Client, nobody: Client, db: Database
) -> None:
    new = await made(admin, "/api/tokens", {"name": "ci"})
    await db.close()
    assert (await refused(nobody, "GET", "/api/health/x", headers=bearer(new["token"])))[0] == 503
    assert (await refused(nobody, "GET", "/api/health/x", headers=bearer(token())))[0] == 404
    await db.open()
    assert (await nobody.get("/api/hosts", headers=bearer(new["token"]))).status == 200


# --- audit


async def test_every_write_of_a_user_is_noted(
    admin: Client, operator: Client, viewer: Client, host: FakeHost
) -> None:
    case = await made(operator, "/api/testcases", test_case())
    await operator.post(
        "/api/hosts/host-1/execute", json={"command": "x"}, headers={"X-Request-ID": "by-hand"}
    )
    assert (await refused(viewer, "DELETE", f"/api/testcases/{case['id']}"))[0] == 403
    await operator.delete(URL(f"/api/testcases/%00{case['id']}", encoded=True))
    await got(operator, "/api/testcases")
    items = (await got(admin, "/api/audit"))["items"]
    told = [(item["user_id"], item["method"], item["path"], item["status"]) for item in items]
    assert told == [
        ("operator", "DELETE", f"/api/testcases/%00{case['id']}", 404),
        ("viewer", "DELETE", f"/api/testcases/{case['id']}", 403),
        ("operator", "POST", "/api/hosts/host-1/execute", 200),
        ("operator", "POST", "/api/testcases", 201),
    ]
    by_hand = items[2]
    assert by_hand["request_id"] == "by-hand"
    assert (by_hand["role"], by_hand["token_id"], by_hand["peer"]) == (
        *("operator", None),
        "127.0.0.1",
    )
    assert by_hand["route"] == "/api/hosts/{id}/execute"


async def test_what_an_admin_says_for_a_host_is_noted_but_for_its_heartbeats(
    admin: Client, nobody: Client
) -> None:
    for word in ("heartbeat", "unregister"):
        assert (await admin.post(f"/api/hosts/pi/{word}", json={})).status == 404
        joining = bearer(JOIN_TOKEN)
        assert (await nobody.post(f"/api/hosts/pi/{word}", json={}, headers=joining)).status == 404
    items = (await got(admin, "/api/audit"))["items"]
    assert [(item["user_id"], item["path"]) for item in items] == [
        ("admin", "/api/hosts/pi/unregister")
    ]


async def test_the_audit_is_filtered_and_paged(admin: Client, client: ClientFactory) -> None:
    new = await made(admin, "/api/tokens", {"name": "ci"})
    ci = {"headers": bearer(new["token"])}
    nobody = await client(None)
    for number in range(3):
        body = {"name": f"d{number}", "model": "tv"}
        assert (await nobody.post("/api/devices", json=body, **ci)).status == 201
    page = await got(admin, "/api/audit", user_id="ci", limit="2")
    more = await got(admin, "/api/audit", user_id="ci", cursor=page["next_cursor"])
    assert (len(page["items"]), len(more["items"]), more["next_cursor"]) == (2, 1, None)
    assert {item["token_id"] for item in page["items"]} == {new["id"]}
    assert (await got(admin, "/api/audit", method="DELETE"))["items"] == []
    assert (await got(admin, "/api/audit", until="2020-01-01T00:00:00Z"))["items"] == []
    assert len((await got(admin, "/api/audit", since="2020-01-01T00:00:00Z"))["items"]) == 4


async def test_what_happened_while_the_database_was_away_is_written_later(
    admin: Client, db: Database
) -> None:
    await db.close()
    assert (await refused(admin, "POST", "/api/devices", json={"name": "d"}))[0] == 400
    assert (await refused(admin, "GET", "/api/audit"))[0] == 503
    await db.open()
    items = (await got(admin, "/api/audit"))["items"]
    assert [(item["path"], item["status"]) for item in items] == [("/api/devices", 400)]


async def test_the_audit_is_written_by_itself_at_once_and_at_the_stop(
    admin: Client, server: TestServer, db: Database
) -> None:
    server.app[AUDIT].writer.pause = 60
    await admin.post("/api/devices", json={"name": "d"})
    assert await until(lambda: _stored(db)) == 1
    await admin.delete("/api/devices/none")
    assert await _stored(db) == 1  # it shares the next batch
    await server.close()
    assert await _stored(db) == 2


async def test_entries_that_cannot_be_written_stop_no_others(
    db: Database,
) -> None:
    one = audit.Audit(db)
    async with one.running():
        for status in (2**40, 200):  # the first one is no integer to PostgreSQL
            one.note(audit.Entry("me", "admin", None, "POST", "/x", "/x", status, "::1", "r"))
            assert await until(lambda: not one.writer.waiting)
            await one.flush()
    assert await _stored(db) == 1


async def _stored(db: Database) -> int:
    everything = {"user_id": None, "method": None, "since": None, "until": None}
    return len(await db.rows("audit_items", **Page(9).args(), **everything))


async def test_a_token_of_others_that_has_an_id_is_no_token_of_ours(nobody: Client) -> None:
    theirs = signed(user_id="ann", jti="b9e7")
    assert (await nobody.get("/api/hosts", headers=bearer(theirs))).status == 200
    ours = signed(user_id="ann", jti=f"tok_{'0' * 16}")
    assert await refused(nobody, "GET", "/api/hosts", headers=bearer(ours)) == BAD_TOKEN
    assert (await nobody.get("/api/hosts", headers=bearer(token()))).status == 200
