"""A host's state as the database has it: the way back after every kind of death."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vpt.actors.state import Hold as Held
from vpt.actors.state import HostState, Lane, Lease, Limits, Link, Phase, Run
from vpt.model import Credential, Device, Host, HostStatus, RunSpec
from vpt.store.db import Database, Session
from vpt.store.seal import Sealer

#: Hosts whose rows one statement reads: few statements, and each within the time limit of one.
_PAGE = 1000
_LINKS = {HostStatus.LOST: Link.LOST, HostStatus.OFFLINE: Link.OFFLINE}


@dataclass(frozen=True, slots=True)
class Restored:
    """What an actor begins with; `resumed` are runs and how long (s) they have run."""

    state: HostState
    resumed: list[tuple[Run, float]]
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens the secrets of hosts, and the key that VirtualPyTest hosts share."""

    sealer: Sealer = field(repr=False)
    api_key: str | None = field(default=None, repr=False)

    def secret_of(self, row: Any) -> str | None:
        """Return the secret that is sent with calls to that host, to its URL only."""
        if row["dialect"] == "document":
            return self._opened(row["sealed_secret"])
        if row["sealed_api_key"] is not None:  # it never gets the others' key beside its own
            return self._opened(row["sealed_api_key"])
        return None if row["credential"] == Credential.OPEN else self.api_key

    def _opened(self, sealed: bytes | None) -> str | None:
        return None if sealed is None else self.sealer.open(sealed)


async def restore(
    db: Database, keys: Keys, limits: Limits, host_id: str, crashes: int
) -> Restored | None:
    """Load a host, its devices and what holds them; None when it is not registered."""
    async with db.transaction() as session:
        row = await session.row("lab_host", id=host_id)
        if row is None:
            return None
        holdings = await _holdings(session, [host_id])
    return _restored(row, keys, limits, holdings[host_id], crashes)


async def restore_all(db: Database, keys: Keys, limits: Limits) -> list[Restored]:
    """Load every registered host as `restore` does, in as few statements as for one."""
    async with db.transaction() as session:
        rows = await session.rows("lab_hosts")
        holdings: dict[str, _Holdings] = {}
        for page in _pages([row["id"] for row in rows]):
            holdings |= await _holdings(session, page)
    return [_restored(row, keys, limits, holdings[row["id"]], crashes=0) for row in rows]


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


def _restored(row: Any, keys: Keys, limits: Limits, holdings: _Holdings, crashes: int) -> Restored:
    devices = [device_of(item) for item in holdings.devices]
    lanes = {device.id: Lane(device) for device in devices}
    for item in holdings.leases:
        device_id = item["device_id"]
        lease = Lease(item["id"], item["holder"], item["seconds"])
        lane = lanes.get(device_id) or Lane(_missing_device(device_id), gone=True)
        lanes[device_id] = Lane(lane.device, lease=lease, gone=lane.gone)
    resumed: list[tuple[Run, float]] = []
    for item in holdings.attempts:
        _take_up(lanes, item, resumed)
    link = _LINKS.get(HostStatus(row["status"]), Link.SUSPECT)
    good = limits.recover_after - 1 if link is Link.SUSPECT else 0
    paused = row["paused"]  # how often it was lost is forgotten, that it is held back is not
    state = HostState(
        host_of(row, keys),
        limits,
        link,
        good=good,
        crashes=crashes,
        draining=row["draining"],
        flaps=int(paused),
        paused=paused,
        lanes=lanes,
    )
    return Restored(state, resumed, row["last_seen"])


def host_of(row: Any, keys: Keys) -> Host:
    """Build a host from its row, its secret unsealed."""
    return Host(
        id=row["id"],
        url=row["host_url"],
        dialect=row["dialect"],
        capabilities=frozenset(row["capabilities"]),
        idempotency=row["idempotency"],
        cancel=row["cancel"],
        secret=keys.secret_of(row),
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


def _take_up(lanes: dict[str, Lane], row: Any, resumed: list[tuple[Run, float]]) -> None:
    """Put an attempt that still has its device back on its lane."""
    device_id = row["device_id"]
    lane = lanes.get(device_id) or Lane(_missing_device(device_id), gone=True)
    if row["status"] == "running":
        run = _run_of(row)
        resumed.append((run, row["elapsed_s"]))
        lanes[device_id] = Lane(lane.device, run=run, gone=lane.gone)
    else:
        hold = Held(row["execution_id"], row["attempt"], lost=row["error_kind"] == "host_lost")
        lanes[device_id] = Lane(lane.device, hold=hold, gone=lane.gone)


def _missing_device(device_id: str) -> Device:
    """Stand in for a device that is declared no more while somebody still holds it."""
    local = device_id.partition(":")[2] or None
    return Device(device_id, local, device_id, None, declared=False)


def _run_of(row: Any) -> Run:
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
    )
    in_flight = row["step_status"] == "running"
    delayed = in_flight and row["step_age_s"] < spec.steps[row["step"] - 1].get("delay_s", 0)
    phase = Phase.PARKED if in_flight else Phase.STORING
    return Run(
        spec.execution_id,
        Phase.DELAYED if delayed else phase,
        spec,
        step=row["step"],
        tries=row["tries"],
        seq=row["seq"],
        failed=row["failed"],
        stop=not in_flight,
        cancelled=row["cancelled"],
        uncertain=in_flight and not delayed,
        handle=row["handle"] if in_flight else None,
    )
