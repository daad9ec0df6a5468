"""Build a host's state from the database, after a crash of its actor or a start of the server.

The same path serves both, so that each test of a restart is one of a crash, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from vpt.actors.ledger import secrets_of
from vpt.actors.messages import StepKey
from vpt.actors.state import (
    HOST_WORKS,
    Health,
    Hold,
    HostState,
    Lane,
    Lease,
    Limits,
    Link,
    Phase,
    RunState,
)
from vpt.model import (
    Credential,
    Device,
    DeviceReason,
    DeviceStatus,
    DeviceView,
    Host,
    HostStatus,
    HostTrouble,
    HostView,
    Reason,
    RunSpec,
    TroubleKind,
)
from vpt.store.db import Database, Session
from vpt.store.seal import Sealer

#: Hosts whose rows one statement reads: few statements, and each within the time limit of one.
_PAGE = 1000
_REPLACED = "another host registered with its URL"
_LINKS = {HostStatus.LOST: Link.LOST, HostStatus.OFFLINE: Link.OFFLINE}


@dataclass(frozen=True, slots=True)
class Restored:
    """The state that an actor starts with; `resumed` are runs and how long (s) they have run."""

    state: HostState
    resumed: list[tuple[RunState, float]]
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class Unrestored:
    """A registered host whose rows cannot be understood, as others see it, and the error."""

    host_id: str
    view: HostView
    error: Exception


@dataclass(frozen=True, slots=True)
class Keys:
    """The key to the sealed secrets of hosts, and the API key that VirtualPyTest hosts share."""

    sealer: Sealer = field(repr=False)
    api_key: str | None = field(default=None, repr=False)

    def secret_of(self, row: Any) -> str | None:
        """Return the secret that goes with calls to that host, and to its URL only."""
        if row["dialect"] == "document":
            return self._opened(row["sealed_secret"])
        if (
            row["sealed_api_key"] is not None
        ):  # a host with a key of its own never gets the shared one
            return self._opened(row["sealed_api_key"])
        return None if row["credential"] == Credential.OPEN else self.api_key

    def _opened(self, sealed: bytes | None) -> str | None:
        return None if sealed is None else self.sealer.open(sealed)


async def restore(
    db: Database, keys: Keys, limits: Limits, host_id: str, crashes: int
) -> Restored | None:
    """Load a host, its devices and what holds them; return None when it is not registered."""
    async with db.transaction() as session:
        row = await session.row("lab_host", id=host_id)
        if row is None:
            return None
        holdings = await _holdings(session, [host_id])
    return _restored(row, keys, limits, holdings[host_id], crashes)


async def restore_all(
    db: Database, keys: Keys, limits: Limits
) -> tuple[list[Restored], list[Unrestored]]:
    """Load every registered host as `restore` does, in as few statements as for one.

    A host whose rows cannot be understood is returned as Unrestored: it keeps no other out.
    """
    async with db.transaction() as session:
        rows = await session.rows("lab_hosts")
        holdings: dict[str, _Holdings] = {}
        for page in _pages([row["id"] for row in rows]):
            holdings |= await _holdings(session, page)
    replaced = _replaced_ids(rows)
    restored: list[Restored] = []
    failed: list[Unrestored] = []
    for row in rows:
        try:
            holding = holdings[row["id"]]
            is_replaced = row["id"] in replaced
            restored.append(_restored(row, keys, limits, holding, 0, is_replaced=is_replaced))
        except Exception as error:  # noqa: BLE001 (whatever is wrong with it is wrong with it alone)
            failed.append(Unrestored(row["id"], _broken_view(row, holdings[row["id"]]), error))
    return restored, failed


def _replaced_ids(rows: list[Any]) -> set[str]:
    """Return the hosts at whose URL another one registered later: a URL is one host's.

    Mostly that is stored; it may not be after a crash, or since before there was such a rule.
    """
    there = [row for row in rows if row["status"] != HostStatus.OFFLINE]
    there.sort(key=lambda row: (row["registered_at"], row["id"]))
    newest = {row["host_url"]: row["id"] for row in there}
    return {row["id"] for row in there if newest[row["host_url"]] != row["id"]}


def _broken_view(row: Any, holdings: _Holdings) -> HostView:
    """Return how a host looks that cannot be loaded: it is registered, and gets nothing."""
    # Without its secret, since nothing is sent there and the secret may be what cannot be read.
    host = Host(row["id"], row["host_url"], row["dialect"], frozenset(row["capabilities"]))
    devices = tuple(
        DeviceView(device_of(item), DeviceStatus.OFFLINE, *_reason_of(item))
        for item in holdings.devices
    )
    return HostView(host, HostStatus.SUSPECT, Reason.BROKEN, devices)


@dataclass(slots=True)
class _Holdings:
    """The rows of a host's devices and of what holds them."""

    devices: list[Any] = field(default_factory=list)
    attempts: list[Any] = field(default_factory=list)
    leases: list[Any] = field(default_factory=list)


def _pages(host_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(host_ids), _PAGE):
        yield host_ids[start : start + _PAGE]


async def _holdings(session: Session, host_ids: list[str]) -> dict[str, _Holdings]:
    holdings = {host_id: _Holdings() for host_id in host_ids}
    for row in await session.rows("lab_devices", host_ids=host_ids):
        holdings[row["host_id"]].devices.append(row)
    for row in await session.rows("lab_attempts", host_ids=host_ids):
        holdings[row["host_id"]].attempts.append(row)
    for row in await session.rows("lab_leases", host_ids=host_ids):
        holdings[row["host_id"]].leases.append(row)
    return holdings


def _restored(
    row: Any,
    keys: Keys,
    limits: Limits,
    holdings: _Holdings,
    crashes: int,
    *,
    is_replaced: bool = False,
) -> Restored:
    lanes = {
        item["id"]: Lane(
            device_of(item),
            health=_health_of(item),
            away=away_of(item),
            host_works=item["reason_text"] == HOST_WORKS,
        )
        for item in holdings.devices
    }
    for item in holdings.leases:
        device_id = item["device_id"]
        lease = Lease(item["id"], item["holder"], item["seconds"])
        lane = lanes.get(device_id) or Lane(_missing_device(device_id), gone=True)
        lanes[device_id] = replace(lane, lease=lease)
    resumed: list[tuple[RunState, float]] = []
    for item in holdings.attempts:
        _put_attempt(lanes, item, resumed, row["instance_id"])
    # Once it ended, a new token alone does not bring the host back: it has to register with it.
    ended = row["credential_ended"] or row["reason"] == Reason.CREDENTIAL
    off = ended or is_replaced
    link = Link.OFFLINE if off else _LINKS.get(HostStatus(row["status"]), Link.SUSPECT)
    is_replaced = is_replaced or (link is Link.OFFLINE and row["reason"] == Reason.REPLACED)
    # Nothing is known against the host, so its first good probe makes it UP; without any it gets
    # no work, since its answers of before the restart are old.
    good = limits.recover_after - 1 if link is Link.SUSPECT else 0
    paused = row["paused"]  # that it flaps is stored, how often it was lost is not
    state = HostState(
        host_of(row, keys),
        limits,
        link,
        good=good,
        crashes=crashes,
        credential_ended=ended,
        grace_over=ended,
        draining=row["draining"],
        flaps=int(paused),
        paused=paused,
        lanes=lanes,
        replaced=(row["reason_text"] or _REPLACED) if is_replaced and not ended else None,
        trouble=_trouble(row),
    )
    return Restored(state, resumed, row["last_seen"])


def _trouble(row: Any) -> HostTrouble | None:
    """Return why the host could not be reached; who answered in its place is asked anew."""
    if row["trouble_kind"] in (None, TroubleKind.SOMEBODY_ELSE):
        return None
    return HostTrouble(TroubleKind(row["trouble_kind"]), row["trouble_text"] or "")


def host_of(row: Any, keys: Keys) -> Host:
    """Build a host from its row, with its secret unsealed."""
    return Host(
        id=row["id"],
        url=row["host_url"],
        dialect=row["dialect"],
        capabilities=frozenset(row["capabilities"]),
        idempotency=row["idempotency"],
        cancel=row["cancel"],
        secret=keys.secret_of(row),
        instance_id=row["instance_id"],
        named=row["named"],
    )


def device_of(row: Any) -> Device:
    """Build a device from its row."""
    return Device(
        id=row["id"],
        local_id=row["local_id"],
        name=row["name"],
        model=row["model"],
        capabilities=frozenset(row["capabilities"]),
        declared=row["declared"],
        disabled=row["disabled"],
    )


def away_of(row: Any) -> str | None:
    """Return why a device is away, as its host said; None when it is not."""
    reason, text = _reason_of(row)
    return text if reason is DeviceReason.AWAY else None


def _reason_of(row: Any) -> tuple[DeviceReason | None, str | None]:
    return row["reason"] and DeviceReason(row["reason"]), row["reason_text"]


def _health_of(row: Any) -> Health:
    """Build the health of a device from its row."""
    left = row["held_s"]
    pause = left if left is not None and left > 0 else None
    return Health(row["infra_errors"], row["last_error"], pause)


def _put_attempt(
    lanes: dict[str, Lane], row: Any, resumed: list[tuple[RunState, float]], instance_id: str | None
) -> None:
    """Put an attempt that holds its device on the lane: as a run, or as a hold when it is over."""
    device_id = row["device_id"]
    lane = lanes.get(device_id) or Lane(_missing_device(device_id), gone=True)
    if row["status"] == "running":
        run = replace(_run_of(row), instance_id=instance_id)
        resumed.append((run, row["elapsed_s"]))
        health = replace(lane.health, pause=None)  # its run began when it was over
        lanes[device_id] = replace(lane, run=run, lease=None, health=health)
    else:
        hold = _hold_of(row)
        lanes[device_id] = replace(lane, hold=hold, lease=None)


def _hold_of(row: Any) -> Hold:
    execution_id, attempt = row["execution_id"], row["attempt"]
    return Hold(
        execution_id,
        attempt,
        lost=row["error_kind"] == "host_lost",
        key=StepKey(execution_id, attempt, row["step"], row["tries"]) if row["step"] else None,
        handle=row["handle"],
    )


def _missing_device(device_id: str) -> Device:
    """Return a device that the host declares no more, for as long as somebody holds it."""
    local = device_id.partition(":")[2] or None
    return Device(device_id, local, device_id, None, declared=False)


def _run_of(row: Any) -> RunState:
    spec = RunSpec(
        execution_id=row["execution_id"],
        test_case_id=row["test_case_id"],
        attempt=row["attempt"],
        seq=row["first_seq"],
        steps=tuple(row["steps"]),
        device_model=row["device_model"],
        timeout_s=row["timeout_s"],
        infra_failures=row["infra_failures"],
        test_failures=row["test_failures"],
        test_retries=row["test_retries"],
        requested_by=row["requested_by"],
        campaign_execution_id=row["campaign_execution_id"],
        **secrets_of(row),
    )
    in_flight = row["step_status"] == "running"  # else the step is over, and so is the run
    delayed = in_flight and _is_delayed(row, spec)
    phase = Phase.PARKED if in_flight else Phase.STORING
    return RunState(
        spec.execution_id,
        Phase.DELAYED if delayed else phase,
        spec,
        step=row["step"],
        tries=row["tries"],
        seq=row["seq"],
        failed=row["failed"],
        stop=not in_flight,
        cancelled=row["cancelled"],
        # A step that is stored as running may be at the host, since the row comes before the call.
        # Not so during its delay: its host never heard of it, so it can go on whatever the host
        # can tell, and when it is cancelled nothing has to stop.
        uncertain=in_flight and not delayed,
        handle=row["handle"] if in_flight else None,
    )


def _is_delayed(row: Any, spec: RunSpec) -> bool:
    """Return whether the step's `delay_s` is not over by the database's clock."""
    delay_s: float = spec.steps[row["step"] - 1].get("delay_s", 0)
    return bool(row["step_age_s"] < delay_s)
