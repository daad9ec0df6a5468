"""Names that mean one device, and who may speak for a host."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.actors.conftest import PEER, Kit
from tests.actors.fake_host import FakeHost, Gate, replies, until
from tests.actors.hooks import Pause, after_reading, at_statement
from vpt.actors.registry import Registry
from vpt.errors import ConflictError, HostUnreachableError, NotRegisteredError, UnprocessableError
from vpt.model import Credential, Heartbeat, HostStatus, Reason
from vpt.store.tokens import make_token, revoke_tokens
from vpt.submission import resolve_device

OWN, JOIN = Credential.OWN, Credential.JOIN
SECRET, OTHER = "a" * 32, "b" * 32

# ---------------------------------------------------------------- names


async def join(lab: Kit, name: str, *devices: str) -> None:
    """Let a host register that need not be there."""
    host = FakeHost(name)
    host.devices = devices
    told = host.registration()
    await host.close()
    there = replace(told.host, url=f"http://127.0.0.1:9/{name}")
    await lab.lab.registry.register(replace(told, host=there), peer=PEER)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("a", "tv1"), ("tv1",)),  # the id of an implicit device is another's local id
        (("a", "tv1"), ("tv1", "d")),  # its host might restart without devices
        (("tv1",), ("a", "tv1")),
        (("tv1", "d"), ("a", "tv1")),
        (("a", "tv:1"), ("tv", "1")),  # an id of a device is another's local id
        (("tv", "1"), ("a", "tv:1")),
        (("a", "a"), ("a",)),  # the same host, which declared a device of its own name before
        (("a",), ("a", "a")),
    ],
)
async def test_a_name_is_refused_that_would_mean_two_devices(
    lab: Kit, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    await join(lab, *first)
    await join(lab, *first)  # it may register again
    with pytest.raises(ConflictError, match="would mean two devices"):
        await join(lab, *second)
    if first[0] != second[0]:
        assert lab.status(second[0]) is None


async def test_a_withdrawn_device_keeps_its_name(lab: Kit) -> None:
    host = await lab.host("a", "tv1", "d")
    host.devices = ("d",)
    await lab.join(host)
    with pytest.raises(ConflictError, match="a:tv1"):
        await join(lab, "tv1")
    await lab.fetch("DELETE FROM devices WHERE id = 'a:tv1'")
    await join(lab, "tv1")


async def test_hosts_may_have_devices_of_the_same_local_name(lab: Kit) -> None:
    await join(lab, "a", "d1")
    await join(lab, "b", "d1")
    with pytest.raises(UnprocessableError, match="a:d1, b:d1"):
        await resolve_device(lab.db, "d1", None)
    assert await resolve_device(lab.db, "d1", "b") == "b:d1"
    assert await resolve_device(lab.db, "b:d1", None) == "b:d1"


async def test_of_two_at_once_that_want_one_name_one_gets_it(lab: Kit) -> None:
    joins = (join(lab, "a", "tv1"), join(lab, "tv1"))
    outcomes = await asyncio.gather(*joins, return_exceptions=True)
    assert sorted(type(one).__name__ for one in outcomes) == ["ConflictError", "NoneType"]


async def test_a_name_that_means_two_devices_since_before_is_refused_everywhere(lab: Kit) -> None:
    """A device's id does not win over another's local id."""
    await lab.host("a", "tv1", "d")
    await lab.fetch("UPDATE devices SET local_id = NULL, id = 'x' WHERE id = 'a:tv1'")
    await join(lab, "tv1")
    await lab.fetch("UPDATE devices SET local_id = 'tv1', id = 'a:tv1' WHERE id = 'x'")
    with pytest.raises(UnprocessableError, match="a:tv1, tv1"):
        await resolve_device(lab.db, "tv1", None)
    assert await resolve_device(lab.db, "tv1", "tv1") == "tv1"
    assert await resolve_device(lab.db, "tv1", "a") == "a:tv1"


async def test_withdrawn_devices_are_bounded_and_those_that_people_made_theirs_stay(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpt.actors.declared._MOST_WITHDRAWN", 3)
    host = await lab.host("a", "mine")
    await lab.fetch("UPDATE devices SET tags = '{lobby}'")
    for turn in range(4):
        host.devices = tuple(f"d{turn}-{number}" for number in range(5))
        await lab.join(host)
    rows = await lab.fetch("SELECT local_id FROM devices WHERE withdrawn")
    assert len(rows) == 4
    assert "mine" in {row["local_id"] for row in rows}


async def test_what_withdrawn_devices_can_do_is_bounded(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpt.actors.declared._WITHDRAWN_BYTES", 2500)
    host = await lab.host("a", "d0")
    for turn in range(1, 5):
        await lab.fetch("UPDATE devices SET capabilities = ARRAY[repeat('x', 1000)]")
        host.devices = (f"d{turn}",)
        await lab.join(host)
    rows = await lab.fetch("SELECT local_id FROM devices WHERE withdrawn ORDER BY 1")
    assert [row["local_id"] for row in rows] == ["d2", "d3"]


# ---------------------------------------------------------------- secrets and URLs


async def test_a_secret_that_the_host_does_not_know_replaces_none(lab: Kit) -> None:
    host = await lab.host(secret=SECRET)
    host.secret = OTHER
    with pytest.raises(ConflictError, match="new secret"):
        await lab.join(host)
    assert (await lab.done("a"))["status"] == "completed"
    host.believes = OTHER  # it began anew, with another secret
    await lab.join(host)
    assert (await lab.done("a"))["status"] == "completed"
    assert host.actions[-1].headers["Authorization"] == f"Bearer {OTHER}"


async def test_a_url_where_nobody_answers_replaces_none(lab: Kit) -> None:
    host = await lab.host()
    moved = await lab.stranger()
    await moved.vanish()
    await host.vanish()
    with pytest.raises(ConflictError, match="new URL"):
        await lab.join(moved)
    await moved.appear()
    await lab.join(moved)
    assert lab.lab.views()[0].host.url == moved.url


async def test_a_registration_that_waits_for_its_proof_delays_nobody(lab: Kit) -> None:
    host, gate, registry = await lab.host(secret=SECRET), Gate(), lab.lab.registry
    host.health, host.believes = gate.held(replies(status="ok")), None
    changed = replace(host.registration(), secret=OTHER)
    joining = asyncio.create_task(registry.register(changed, peer=PEER))
    await gate.reached()
    await registry.heartbeat("h", Heartbeat(), JOIN)
    await registry.devices_changed("h")
    await lab.join(await lab.stranger("i", "e1"))
    assert (await lab.done("a"))["status"] == "completed"
    await registry.unregister("h", JOIN)
    assert not joining.done()
    host.health = replies(status="ok")
    gate.open()
    await joining


async def test_a_better_credential_takes_a_name_whoever_answers_there(lab: Kit) -> None:
    squatter = await lab.host(secret=SECRET)
    true = await lab.stranger(secret=OTHER)
    with pytest.raises(ConflictError):
        await lab.join(true)
    await make_token(lab.db, "h")
    await lab.join(true, credential=OWN)
    assert (await lab.done("a"))["status"] == "completed"
    assert (len(squatter.actions), len(true.actions)) == (0, 1)
    with pytest.raises(ConflictError, match="better credential"):
        await lab.join(squatter)


async def test_of_two_secrets_at_once_one_is_stored(lab: Kit) -> None:
    host = await lab.host(secret=SECRET)
    host.believes = None
    one, other = (replace(host.registration(), secret=secret * 32) for secret in "cd")
    registry = lab.lab.registry
    outcomes = await asyncio.gather(
        registry.register(one, peer=PEER),
        registry.register(other, peer=PEER),
        return_exceptions=True,
    )
    assert "NoneType" in {type(outcome).__name__ for outcome in outcomes}
    row = (await lab.fetch("SELECT sealed_secret FROM hosts"))[0]
    stored = lab.lab.registry._keys.sealer.open(row["sealed_secret"])
    await until(lambda: lab.lab._supervisor._actors["h"].state.host.secret == stored)


async def test_a_secret_that_was_proved_against_an_older_one_replaces_no_newer_one(
    lab: Kit,
) -> None:
    host, pause = await lab.host(secret=SECRET), Pause()
    host.believes = None
    late, early = (replace(host.registration(), secret=secret * 32) for secret in "cd")

    async def first_waits() -> None:
        if not pause.reached.is_set():
            await pause.here()

    with at_statement(lab, "lab_host", after=first_waits):
        joining = asyncio.create_task(lab.lab.registry.register(late, peer=PEER))
        await pause.reached.wait()
        await lab.lab.registry.register(early, peer=PEER)
        pause.go.set()
        with pytest.raises(ConflictError, match="just now"):
            await joining
    row = (await lab.fetch("SELECT sealed_secret FROM hosts"))[0]
    assert lab.lab.registry._keys.sealer.open(row["sealed_secret"]) == "d" * 32


async def test_a_host_that_refuses_calls_is_told_to_register_anew(lab: Kit) -> None:
    host = await lab.host(secret=SECRET)
    host.believes = OTHER
    await until(lambda: lab.lab._supervisor.must_register("h"))
    with pytest.raises(NotRegisteredError):
        await lab.lab.registry.heartbeat("h", Heartbeat(), JOIN)
    host.secret = OTHER
    await lab.join(host)
    await lab.is_now("h", HostStatus.AVAILABLE)
    # A probe with the old secret may have been under way at the registration.
    await until(lambda: not lab.lab._supervisor.must_register("h"))
    await lab.lab.registry.heartbeat("h", Heartbeat(), JOIN)


# ---------------------------------------------------------------- a credential that ends


async def with_token(lab: Kit, *, seconds: float | None = None, **more: object) -> FakeHost:
    """Let a host join with a token of its own."""
    ends = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
    await make_token(lab.db, "h", expires_at=ends)
    host = await lab.stranger("h", **more)
    await lab.join(host, credential=OWN)
    await lab.is_now("h", HostStatus.AVAILABLE)
    return host


def reason(lab: Kit) -> Reason | None:
    return lab.lab.views()[0].reason


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_revoked_host_is_offline_and_is_sent_nothing_more(lab: Kit, cancel: bool) -> None:
    host, gate = await with_token(lab, cancel=cancel), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    await revoke_tokens(lab.db, "h")
    await lab.lab.registry.sweep()
    row = await _lost(lab, execution_id)
    assert row["error_kind"] == "host_lost"
    assert (lab.status(), reason(lab)) == (HostStatus.OFFLINE, Reason.CREDENTIAL)
    sent = len(host.actions), len(host.probes), len(host.cancels)
    with pytest.raises(HostUnreachableError):
        await lab.lab.act("h", None, {"command": "x"}, 5, "ann")
    gate.open()
    await lab.lab.registry.sweep()
    await lab.restart()
    await lab.lab.registry.sweep()
    assert (lab.status(), reason(lab)) == (HostStatus.OFFLINE, Reason.CREDENTIAL)
    assert (len(host.actions), len(host.probes), len(host.cancels)) == sent
    with pytest.raises(NotRegisteredError):
        await lab.lab.registry.heartbeat("h", Heartbeat(), OWN)
    await make_token(lab.db, "h")
    await lab.join(host, credential=OWN)
    await lab.is_now("h", HostStatus.AVAILABLE)
    assert (await lab.final(execution_id))["status"] == "completed"


async def _lost(lab: Kit, execution_id: str) -> dict[str, object]:
    """Return the attempt that was lost; the execution waits for another host."""
    await until(lambda: lab.status() is HostStatus.OFFLINE)

    async def ended() -> bool:
        return (await lab.attempts(execution_id))[0]["status"] == "error"

    await until(ended)
    return dict((await lab.attempts(execution_id))[0])


async def test_one_of_two_tokens_may_be_revoked(lab: Kit) -> None:
    await make_token(lab.db, "h", token_id="tok_0000000000000001")
    await with_token(lab)
    await lab.db.row("delete_token", id="tok_0000000000000001")
    await lab.lab.registry.end_credential("h")
    await lab.lab.registry.sweep()
    assert lab.status() is HostStatus.AVAILABLE


async def test_a_token_that_expires_ends_what_it_allowed(lab: Kit) -> None:
    await with_token(lab, seconds=3600)
    await lab.lab.registry.sweep()
    assert lab.status() is HostStatus.AVAILABLE
    await lab.fetch("UPDATE tokens SET expires_at = now() - interval '1 second'")
    await lab.lab.registry.sweep()
    await until(lambda: reason(lab) is Reason.CREDENTIAL)


async def test_a_signed_token_counts_until_it_ends(lab: Kit) -> None:
    host = await lab.stranger()
    ends = datetime.now(UTC).timestamp() + 3600
    told = replace(host.registration(credential=OWN), credential_until=ends)
    await lab.lab.registry.register(told, peer=PEER)
    await lab.is_now("h", HostStatus.AVAILABLE)
    await lab.lab.registry.sweep()
    assert lab.status() is HostStatus.AVAILABLE
    await lab.fetch("UPDATE hosts SET credential_until = now() - interval '1 second'")
    await lab.lab.registry.sweep()
    await until(lambda: reason(lab) is Reason.CREDENTIAL)


async def test_a_host_of_the_join_token_has_no_credential_that_could_end(lab: Kit) -> None:
    await lab.host()
    await lab.lab.registry.sweep()
    await lab.lab.registry.end_credential("h")
    assert lab.status() is HostStatus.AVAILABLE


async def _nothing(_: object) -> None:
    pass


async def test_a_token_that_is_revoked_while_its_host_registers_allows_nothing(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await with_token(lab)
    # The registration itself is to notice it: a sweep would do so later.
    monkeypatch.setattr(Registry, "end_credentials", _nothing)
    pause = Pause()
    with after_reading(lab, "transaction", pause.here):
        joining = asyncio.create_task(lab.join(host, credential=OWN))
        await pause.reached.wait()
        await revoke_tokens(lab.db, "h")
        await lab.lab.registry.end_credential("h")
        pause.go.set()
        await joining
    await until(lambda: reason(lab) is Reason.CREDENTIAL)
    assert lab.status() is HostStatus.OFFLINE


async def test_a_registration_with_a_new_token_is_not_undone_by_a_late_look(lab: Kit) -> None:
    host = await with_token(lab)
    await revoke_tokens(lab.db, "h")
    pause = Pause()
    with after_reading(lab, "session", pause.here):
        looking = asyncio.create_task(lab.lab.registry.end_credential("h"))
        await pause.reached.wait()
    await make_token(lab.db, "h")
    joining = asyncio.create_task(lab.join(host, credential=OWN))
    await asyncio.wait([joining], timeout=0.2)
    pause.go.set()
    await asyncio.gather(looking, joining)
    await lab.is_now("h", HostStatus.AVAILABLE)
