"""A host is who it says it is: names, installations, URLs, and who answers there."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby

import pytest
from structlog.testing import capture_logs

from tests.actors.conftest import PEER, Kit, StartLab
from tests.actors.fake_host import FakeHost, Gate, Reply, replies, says, until
from vpt.actors.machine import link
from vpt.errors import ConflictError, HostUnreachableError, NotRegisteredError, ReplacedError
from vpt.model import Credential, Heartbeat, HostStatus, HostView, Reason, TroubleKind
from vpt.store.seal import Sealer
from vpt.store.tokens import make_token

JOIN = Credential.JOIN
ONE, OTHER = "instance-one", "instance-other"


def view(lab: Kit, host_id: str = "h") -> HostView:
    return next(view for view in lab.lab.views() if view.host.id == host_id)


def kind(lab: Kit, host_id: str = "h") -> TroubleKind | None:
    trouble = view(lab, host_id).trouble
    return trouble.kind if trouble else None


async def beat(lab: Kit, host: FakeHost) -> None:
    told = Heartbeat(host_url=host.url, instance_id=host.instance_id)
    await lab.lab.registry.heartbeat(host.name, told, JOIN)


async def beat_as_hosts_do(lab: Kit, host: FakeHost) -> None:
    """Send a heartbeat, and register when the answer is to do so."""
    try:
        await beat(lab, host)
    except NotRegisteredError:
        await lab.join(host)


async def at_the_port_of(lab: Kit, host: FakeHost, other: FakeHost) -> None:
    """Let another host appear where one was until now."""
    await host.vanish()
    await other.vanish()
    host.exchange_address(other)
    await other.appear()


# ---------------------------------------------------------------- two names at one URL


async def test_a_renamed_host_is_the_host_and_its_old_name_is_replaced(lab: Kit) -> None:
    old = await lab.host("old", named=True)
    new = await lab.stranger("new", named=True)
    await at_the_port_of(lab, old, new)
    await lab.join(new)
    await lab.is_now("new", HostStatus.AVAILABLE)
    await until(lambda: view(lab, "old").reason is Reason.REPLACED)
    assert lab.status("old") is HostStatus.OFFLINE
    assert "new registered with its URL" in (view(lab, "old").reason_text or "")
    await lab.restart()
    await lab.is_now("new", HostStatus.AVAILABLE)
    assert (lab.status("old"), view(lab, "old").reason) == (HostStatus.OFFLINE, Reason.REPLACED)
    probes = len(new.probes)
    assert (await lab.done("a"))["status"] == "completed"
    await until(lambda: len(new.probes) > probes + 2)
    assert lab.status("new") is HostStatus.AVAILABLE
    with pytest.raises(NotRegisteredError):  # a host that is heard of proves where it is
        await lab.lab.registry.heartbeat("old", Heartbeat(), JOIN)


async def test_a_run_of_the_old_name_goes_on_nowhere_else_than_at_its_own_host(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(run_grace=20.0)
    old, gate = await lab.host("old", named=True), Gate()
    old.on("a", gate.held())
    execution_id = await lab.run("a", host_id="old")
    await gate.reached()
    new = await lab.stranger("new", named=True)
    await at_the_port_of(lab, old, new)
    await lab.join(new)
    await lab.is_now("new", HostStatus.AVAILABLE)
    await old.appear()  # it has another address
    await lab.join(old)
    gate.open()
    assert (await lab.final(execution_id))["status"] == "completed"
    assert (new.actions, old.done("a")) == ([], 1)


async def test_of_hosts_that_say_no_name_the_newer_registration_is_the_host(lab: Kit) -> None:
    old, gate = await lab.host("old"), Gate()
    old.on("a", gate.held())
    execution_id = await lab.run("a", host_id="old")
    await gate.reached()
    new = await lab.stranger("new")
    new.port = old.port
    with pytest.raises(ConflictError, match="old is at work at that URL"):
        await lab.join(new)
    gate.open()
    await lab.final(execution_id)
    await lab.is_now("old", HostStatus.AVAILABLE)
    await lab.join(new)
    await lab.is_now("new", HostStatus.AVAILABLE)
    await until(lambda: lab.status("old") is HostStatus.OFFLINE)
    assert view(lab, "old").reason is Reason.REPLACED


async def test_a_weaker_credential_takes_no_url_from_a_host_that_says_no_name(lab: Kit) -> None:
    await make_token(lab.db, "old")
    old, new = await lab.stranger("old"), await lab.stranger("new")
    await lab.join(old, credential=Credential.OWN)
    await lab.is_now("old", HostStatus.AVAILABLE)
    new.port = old.port
    with pytest.raises(ConflictError, match="old, which joined with a better credential"):
        await lab.join(new)
    assert lab.status("new") is None
    old.named, old.name = True, "new"  # what answers there says that it is the other one
    await lab.join(new)
    await until(lambda: view(lab, "old").reason is Reason.REPLACED)


async def test_of_two_names_at_one_url_since_before_only_the_newer_is_a_host(lab: Kit) -> None:
    old = await lab.host("old")
    new = await lab.host("new")
    await lab.crash()
    await lab.fetch("UPDATE hosts SET host_url = $1", new.url)
    await lab.start()
    assert view(lab, "old").reason is Reason.REPLACED
    await lab.is_now("new", HostStatus.AVAILABLE)
    await lab.join(old)
    await lab.is_now("old", HostStatus.AVAILABLE)


async def test_a_url_of_another_host_is_refused(lab: Kit) -> None:
    host = await lab.host("a", named=True)
    other = await lab.stranger("b", named=True)
    other.port = host.port
    with pytest.raises(ConflictError, match="another host answers at its URL: a"):
        await lab.join(other)
    assert lab.status("b") is None
    assert lab.status("a") is HostStatus.AVAILABLE


async def test_a_url_that_leads_to_several_hosts_by_turns_is_taken_from_nobody(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(host_probe_interval=3600.0)  # its probes would take turns, too
    host = await lab.host("a", named=True)
    other = await lab.stranger("b", named=True)
    other.port = host.port
    turns = iter(["b", "b", "a"])
    host.named = False

    async def by_turns(_: FakeHost, __: object) -> Reply:
        return Reply(body=b'{"host_name": "%s"}' % next(turns, "a").encode())

    host.health = by_turns
    with pytest.raises(ConflictError, match="another host answers at its URL: a"):
        await lab.lab.registry.register(other.registration(), peer=PEER)
    assert lab.status("b") is None


# ---------------------------------------------------------------- somebody else answers


async def test_two_hosts_that_exchange_their_addresses_are_both_back(lab: Kit) -> None:
    one, other = await lab.host("one", named=True), await lab.host("other", named=True)
    await one.vanish()
    await other.vanish()
    one.exchange_address(other)
    await one.appear()
    await other.appear()
    await until(lambda: {kind(lab, name) for name in ("one", "other")} == {_ELSE})
    assert lab.status("one") is HostStatus.SUSPECT
    with pytest.raises(HostUnreachableError, match="another host answers at its URL: other"):
        await lab.lab.act("one", None, {"command": "x"}, 5, "ann")
    waits = [await lab.run("a", host_id=name) for name in ("one", "other")]
    for _ in range(2):
        for host in (one, other):
            await beat_as_hosts_do(lab, host)
    for execution_id in waits:
        assert (await lab.final(execution_id))["status"] == "completed"
    assert (one.commands(), other.commands()) == (["a"], ["a"])
    assert (view(lab, "one").host.url, view(lab, "other").host.url) == (one.url, other.url)


async def test_a_step_reaches_nobody_else_though_no_probe_has_noticed_yet(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(host_probe_interval=3600.0, infra_retries=0)
    host, other = await lab.host("h", named=True), await lab.stranger("x", named=True)
    await at_the_port_of(lab, host, other)
    row = await lab.done("a")
    assert (row["status"], row["error_kind"]) == ("error", "host_lost")
    assert row["error"] == "h: another host answers at its URL: x"
    assert other.actions == []
    assert kind(lab) is _ELSE


async def test_no_cancel_reaches_somebody_else(lab: Kit) -> None:
    host = await lab.host("h", named=True)
    known = view(lab).host
    assert await lab.dialect.cancel(known, "e1", 1, 5.0)
    assert [call.headers["Vpt-Host"] for call in host.cancels] == ["h"]
    other = await lab.stranger("x", named=True)
    await at_the_port_of(lab, host, other)
    assert not await lab.dialect.cancel(known, "e1", 1, 5.0)
    assert other.cancels == []


async def test_over_a_kept_connection_no_step_asks_who_answers(start_lab: StartLab) -> None:
    lab = await start_lab(host_probe_interval=3600.0)
    host = await lab.host("h", named=True)
    before = len(host.probes)
    assert (await lab.done(*"abcdefghij"))["status"] == "completed"
    # One where the connection of the last probe was closed by now.
    assert len(host.probes) - before <= 1


async def test_a_step_that_was_meant_for_another_host_goes_elsewhere(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=1000)
    right, gate = await lab.host("right"), Gate()
    right.on("long", gate.held())
    await lab.run("long")
    await gate.reached()
    wrong = await lab.host("wrong")
    wrong.on("a", replies(421, error="this is another host"))
    execution_id = await lab.run("a")
    await until(lambda: wrong.actions)
    gate.open()
    assert (await lab.final(execution_id))["status"] == "completed"
    assert right.done("a") == 1
    assert (await lab.kinds(execution_id))[0] == ("wrong", "host_lost")
    assert await lab.released(execution_id)


async def test_another_service_at_the_port_of_a_host_is_not_the_host(lab: Kit) -> None:
    host, service = await lab.host("h", named=True), await lab.stranger("service")
    service.health = says(Reply(body=b"<html>Welcome</html>"))
    await at_the_port_of(lab, host, service)
    await until(lambda: kind(lab) is _ELSE)
    await lab.is_now("h", HostStatus.LOST)
    await host.appear()
    await beat_as_hosts_do(lab, host)
    await lab.is_now("h", HostStatus.AVAILABLE)
    assert service.actions == []


async def test_what_stands_after_a_restart_is_asked_anew(lab: Kit) -> None:
    host, other = await lab.host("h", named=True), await lab.stranger("x", named=True)
    await at_the_port_of(lab, host, other)
    await until(lambda: kind(lab) is _ELSE)
    await lab.restart()
    await until(lambda: kind(lab) is _ELSE)
    await other.vanish()
    host.exchange_address(other)
    await host.appear()
    await lab.is_now("h", HostStatus.AVAILABLE)
    assert kind(lab) is None


# ---------------------------------------------------------------- installations


async def test_a_copied_configuration_takes_no_name_and_a_superseded_host_is_told(lab: Kit) -> None:
    first = await lab.host("h", named=True, instance_id=ONE)
    twin = await lab.stranger("h", named=True, instance_id=OTHER)
    with pytest.raises(ConflictError, match="still answers at its old URL"):
        await lab.join(twin)
    await first.vanish()
    await lab.join(twin)
    await lab.is_now("h", HostStatus.AVAILABLE)
    await first.appear()
    with pytest.raises(ReplacedError):
        await beat(lab, first)
    with pytest.raises(ReplacedError):
        await lab.lab.registry.unregister("h", JOIN, ONE)
    await beat(lab, twin)
    assert (await lab.done("a"))["status"] == "completed"
    assert (first.actions, twin.done("a")) == ([], 1)
    await twin.vanish()
    await lab.is_now("h", HostStatus.LOST)
    with pytest.raises(NotRegisteredError):  # its name is free
        await beat(lab, first)
    await lab.join(first)
    await lab.is_now("h", HostStatus.AVAILABLE)


async def test_a_twin_at_the_same_url_is_somebody_else(lab: Kit) -> None:
    first = await lab.host("h", named=True, instance_id=ONE)
    twin = await lab.stranger("h", named=True, instance_id=OTHER)
    twin.port = first.port
    with pytest.raises(ConflictError, match="another installation with its name"):
        await lab.join(twin)
    first.instance_id = OTHER  # it lost its folder, and will register
    await until(lambda: kind(lab) is _ELSE)
    await lab.join(first)
    await lab.is_now("h", HostStatus.AVAILABLE)


# ---------------------------------------------------------------- a new address


async def test_a_host_with_a_new_address_is_asked_to_register(start_lab: StartLab) -> None:
    lab = await start_lab(host_probe_interval=3600.0)
    host, spare = await lab.host(named=True), await lab.stranger("spare")
    old = host.url
    await spare.vanish()
    await host.vanish()
    host.exchange_address(spare)
    await host.appear()
    assert view(lab).host.url == old
    with pytest.raises(NotRegisteredError):
        await beat(lab, host)
    await lab.join(host)
    await lab.is_now("h", HostStatus.AVAILABLE)
    assert (await lab.done("a"))["status"] == "completed"


async def test_a_heartbeat_of_a_host_that_stays_where_it_is_opens_no_secret(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await lab.host(secret="a" * 32)
    await beat(lab, host)
    opened = []
    open_sealed = Sealer.open
    monkeypatch.setattr(Sealer, "open", lambda *args: opened.append(1) or open_sealed(*args))
    await beat(lab, host)
    await lab.lab.registry.heartbeat("h", Heartbeat(), JOIN)
    assert opened == []


async def test_a_host_with_two_addresses_stays_where_it_answers(lab: Kit) -> None:
    host = await lab.host(named=True)
    told = Heartbeat(host_url="http://127.0.0.1:9")
    await lab.lab.registry.heartbeat("h", told, JOIN)
    assert view(lab).host.url == host.url


async def test_a_lost_host_is_not_back_by_a_registration_that_it_does_not_prove(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a")
    await gate.reached()
    await host.vanish()
    await lab.is_now("h", HostStatus.LOST)
    with pytest.raises(ConflictError, match="connection refused"):
        await beat_as_hosts_do(lab, host)
    assert lab.status() is HostStatus.LOST
    await until(lambda: _ended(lab, execution_id))
    error = (await lab.attempts(execution_id))[0]["error"]
    assert error == "h was lost and did not come back: connection refused."
    gate.open()
    await host.appear()
    await lab.is_now("h", HostStatus.AVAILABLE)
    await lab.final(execution_id)


async def _ended(lab: Kit, execution_id: str) -> bool:
    return (await lab.attempts(execution_id))[0]["status"] == "error"


# ---------------------------------------------------------------- a host that refuses calls


@pytest.mark.parametrize("status", [401, 403])
async def test_a_host_that_refuses_the_credential_gets_no_more_work(
    lab: Kit, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "TRIAL_AFTER", 10**6)
    good, gate = await lab.host("good"), Gate()
    good.on("long", gate.held())
    ids = [await lab.run("long")]
    await gate.reached()
    bad = await lab.host("bad")
    bad.on("a", replies(status, error="no"))
    ids.append(await lab.run("a"))
    await until(lambda: kind(lab, "bad") is TroubleKind.CREDENTIAL)
    assert lab.status("bad") is HostStatus.SUSPECT
    ids += [await lab.run("a") for _ in range(5)]
    gate.open()
    for execution_id in ids:
        assert (await lab.final(execution_id))["status"] == "completed"
    assert len(bad.actions) == 1
    assert good.done("a") == 6
    bad.on("a", replies(success=True))
    monkeypatch.setattr(link, "TRIAL_AFTER", 5)
    await lab.is_now("bad", HostStatus.AVAILABLE)  # it is tried after so many good probes
    assert kind(lab, "bad") is None


async def test_a_run_that_waited_in_vain_says_which_host_could_not_be_reached(lab: Kit) -> None:
    host = await lab.host()
    await host.vanish()
    await lab.is_now("h", HostStatus.LOST)
    row = await lab.done("a", queue_timeout_s=0.05)
    assert row["error_kind"] == "queue_timeout"
    assert row["error"] == "It waited too long for a device; h: connection refused."
    with pytest.raises(HostUnreachableError, match="h is not reachable: connection refused"):
        await lab.lab.act("h", None, {"command": "x"}, 5, "ann")
    [item] = await lab.fetch("SELECT trouble_kind, trouble_text, trouble_since FROM hosts")
    assert (item["trouble_kind"], item["trouble_text"]) == ("refused", "connection refused")
    await host.appear()
    await lab.is_now("h", HostStatus.AVAILABLE)

    async def forgotten() -> bool:
        [row] = await lab.fetch("SELECT trouble_kind, trouble_since FROM hosts")
        return (row["trouble_kind"], row["trouble_since"]) == (None, None)

    await until(forgotten)


async def test_a_trouble_is_told_once_a_change_and_its_time_is_that_of_its_kind(lab: Kit) -> None:
    host = await lab.host()
    with capture_logs() as logs:
        host.health = replies(500)
        await lab.is_now("h", HostStatus.LOST)
        since = await _trouble(lab, "answers 500")
        host.health = replies(503)
        assert await _trouble(lab, "answers 503") == since
        await host.vanish()
        assert await _trouble(lab, "connection refused") > since
    told = [entry["trouble"] for entry in logs if "trouble" in entry]
    assert [words for words, _ in groupby(told)] == [
        "answers 500",
        "answers 503",
        "connection refused",
    ]
    statuses = [(entry["status"], entry["trouble"]) for entry in logs if "trouble" in entry]
    assert len(statuses) == len(set(statuses))


async def _trouble(lab: Kit, words: str) -> datetime:
    """Wait until that is stored; return since when."""
    sql = "SELECT trouble_since FROM hosts WHERE trouble_text = $1"

    async def stored() -> list[datetime]:
        return [row["trouble_since"] for row in await lab.fetch(sql, words)]

    [since] = await until(stored)
    found: datetime = since
    return found


_ELSE = TroubleKind.SOMEBODY_ELSE
