"""Leases over REST: who may, what it says, and manual control."""

from __future__ import annotations

import pytest

from tests.conftest import Client, ClientFactory
from tests.web.kit import FakeHost, got, refused
from vpt.model import Role

PATH = "/api/devices/host-1:tv-1/lease"
ACTION = {"command": "press_key"}


@pytest.mark.usefixtures("host")
async def test_the_holder_drives_the_device_by_hand_and_others_may_not(
    operator: Client, client: ClientFactory
) -> None:
    admin = await client(Role.ADMIN)
    response = await operator.post(PATH, json={"ttl_s": 60})
    lease = await response.json()
    assert response.status == 200
    assert lease["expires_at"].endswith("Z")
    device = await got(operator, "/api/devices/host-1:tv-1")
    assert device["lease"]["expires_at"] == lease["expires_at"]
    assert (await refused(admin, "POST", PATH, json={}))[0] == 423
    assert (await refused(admin, "POST", "/api/hosts/host-1/execute", json=ACTION))[0] == 409
    async with operator.post("/api/hosts/host-1/execute", json=ACTION) as done:
        assert done.status == 200
    renewed = await (await operator.post(PATH, json={"ttl_s": 600})).json()
    assert renewed["lease_id"] == lease["lease_id"]
    assert renewed["expires_at"] > lease["expires_at"]
    assert (await admin.delete(PATH)).status == 204, "an admin may end anybody's lease"
    assert (await refused(operator, "DELETE", PATH))[0] == 404
    assert (await got(operator, "/api/devices/host-1:tv-1"))["lease"] is None


async def test_no_lease_while_a_run_holds_the_device(operator: Client, host: FakeHost) -> None:
    host.gate.clear()
    body = {"name": "t", "steps": [{"command": "x"}], "device_model": "pixel"}
    test_case = await (await operator.post("/api/testcases", json=body)).json()
    await operator.post(f"/api/testcases/{test_case['id']}/execute", json={})
    assert (await refused(operator, "POST", PATH, json={}))[0] == 409


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("body", [{"ttl_s": 0}, {"ttl_s": 86401}, {"ttl_s": "x"}, {"more": 1}])
async def test_a_lease_that_makes_no_sense_is_refused(operator: Client, body: object) -> None:
    status, answer = await refused(operator, "POST", PATH, json=body)
    assert status == 400
    assert answer["errors"]


async def test_who_may_not_lease_what(operator: Client, viewer: Client) -> None:
    assert (await refused(viewer, "POST", PATH, json={}))[0] == 403
    assert (await refused(operator, "POST", PATH, json={}))[0] == 404
    assert (await refused(operator, "DELETE", PATH))[0] == 404
    device = {"name": "on a shelf", "model": "pixel"}
    shelf = await (await operator.post("/api/devices", json=device)).json()
    path = f"/api/devices/{shelf['id']}/lease"
    assert (await refused(operator, "POST", path, json={}))[0] == 409
