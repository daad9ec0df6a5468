"""Executions that no registered device fits any more: they wait FIT_GRACE, then they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.actors.conftest import Kit, StartLab, execution
from tests.actors.fake_host import FakeHost, Gate, until
from vpt.actors import lab as lab_module
from vpt.actors import matching
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.unfit import Unfit
from vpt.model import (
    Device,
    DeviceRequest,
    DeviceStatus,
    DeviceView,
    Host,
    HostStatus,
    HostView,
    QueueChanged,
    Waiting,
    WaitReason,
)

LONG = 3600.0


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_module, "_FIT", 0.02)


def reasons(lab: Kit, execution_id: str) -> list[WaitReason]:
    told = [event for event in lab.told if isinstance(event, QueueChanged)]
    return [event.reason for event in told if event.execution_id == execution_id]


async def _withdrawn(lab: Kit, host: FakeHost) -> None:
    host.devices = ("d2",)
    await lab.join(host)


async def _renamed(lab: Kit, host: FakeHost) -> None:
    host.devices = ("d9", "d2")
    await lab.join(host)


async def _another_model(lab: Kit, host: FakeHost) -> None:
    host.model = "oven"
    await lab.join(host)


async def _deleted(lab: Kit, host: FakeHost) -> None:
    await lab.lab.registry.delete_host(host.name)


Change = Callable[[Kit, FakeHost], Awaitable[None]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_withdrawn, "h:d1 was withdrawn by its host"),
        (_renamed, "h:d1 was withdrawn by its host"),
        (_another_model, "h:d1 is an oven now"),
        (_deleted, "host h was deleted"),
    ],
)
async def test_what_nothing_registered_fits_any_more_ends_and_says_what_changed(
    start_lab: StartLab, change: Change, words: str
) -> None:
    lab = await start_lab(fit_grace=0.5)
    host = await lab.host("h", "d1", "d2")
    await lab.lab.registry.drain("h", on=True)
    execution_id = await lab.run("a", device_id="h:d1", queue_timeout_s=LONG)
    await change(lab, host)
    row = await lab.final(execution_id)
    assert (row["status"], row["error_kind"]) == ("error", "nothing_fits")
    wants = "No registered device fits any more: it wants tv on h:d1"
    assert row["error"] == f"{wants}; {words}"
    assert reasons(lab, execution_id)[-1] is WaitReason.NOTHING_FITS


async def test_a_device_that_is_back_within_the_grace_gets_its_run(start_lab: StartLab) -> None:
    lab = await start_lab(fit_grace=LONG)
    host = await lab.host("h", "d1", "d2")
    await lab.lab.registry.drain("h", on=True)
    execution_id = await lab.run("a", device_id="h:d1")
    host.devices = ("d2",)
    await lab.join(host)
    await until(lambda: reasons(lab, execution_id)[-1:] == [WaitReason.NOTHING_FITS])
    host.devices = ("d1", "d2")
    await lab.join(host)
    await lab.lab.registry.drain("h", on=False)
    assert (await lab.final(execution_id))["status"] == "completed"


async def test_the_grace_begins_anew_with_the_server_and_ends(start_lab: StartLab) -> None:
    lab = await start_lab(fit_grace=LONG)
    host = await lab.host("h", "d1", "d2")
    await lab.lab.registry.drain("h", on=True)
    execution_id = await lab.run("a", device_id="h:d1", queue_timeout_s=LONG)
    await _withdrawn(lab, host)
    lab.config = replace(lab.config, fit_grace=0.2)
    await lab.restart()
    row = await lab.final(execution_id)
    assert row["error_kind"] == "nothing_fits"
    assert row["error"].endswith("h:d1 is not registered any more: its host does not declare it.")


async def test_in_a_campaign_the_rest_goes_on(start_lab: StartLab) -> None:
    lab = await start_lab(fit_grace=0.3)
    host, gate = await lab.host("h", "d1", "d2"), Gate()
    host.on("hold", gate.held())
    entries = [
        execution("hold", device_id="h:d1"),
        *(execution("a", device_id="h:d1") for _ in range(4)),
        execution("b", device_id="h:d2"),
    ]
    campaign_id = await lab.campaign(*entries)
    await gate.reached()
    await _withdrawn(lab, host)
    gate.open()
    assert (await lab.campaign_final(campaign_id))["status"] == "error"
    sql = """
        SELECT e.status, e.error_kind FROM campaign_results r
        JOIN test_executions e ON e.id = r.execution_id
        WHERE r.campaign_execution_id = $1 ORDER BY r.position
    """
    ends = [tuple(row) for row in await lab.fetch(sql, campaign_id)]
    unfit = ("error", "nothing_fits")
    assert ends == [("completed", None), *[unfit] * 4, ("completed", None)]


def view(*devices: str, model: str = "tv") -> HostView:
    items = (DeviceView(Device(f"h:{d}", d, d, model), DeviceStatus.BUSY) for d in devices)
    return HostView(Host("h", "http://h"), HostStatus.BUSY, None, tuple(items))


class Clock:
    """A dispatcher, what is ended, and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ended: list[str] = []
        self.dispatcher = Dispatcher(lambda _host, _message: None)
        self.unfit = Unfit(self.dispatcher, self._end, grace=100.0, now=lambda: self.now)

    def _end(self, waiting: Waiting, _: str) -> None:
        self.dispatcher.withdraw(waiting.execution_id)
        self.ended.append(waiting.execution_id)

    def add(self, name: str) -> None:
        self.dispatcher.add(Waiting(name, DeviceRequest("tv"), 50, self.now, 1e9))

    async def at(self, now: float) -> list[str]:
        """Look at this time; return what ended."""
        self.now, self.ended = now, []
        await self.unfit.look()
        return self.ended


async def test_the_time_is_that_of_the_request_so_the_next_of_a_campaign_does_not_wait() -> None:
    clock = Clock()
    clock.add("a")
    assert [await clock.at(now) for now in (0.0, 99.0)] == [[], []]
    assert await clock.at(100.0) == ["a"]
    assert await clock.at(100.5) == [], "nobody waits just now"
    clock.add("b")
    assert await clock.at(101.0) == ["b"], "it asks for what is gone for as long"
    assert await clock.at(150.0) == []
    clock.add("c")
    assert await clock.at(150.0) == [], "nobody asked for a while: it is noticed anew"
    assert await clock.at(249.0) == []
    assert await clock.at(250.0) == ["c"]


async def test_what_fits_meanwhile_ends_the_time() -> None:
    clock = Clock()
    clock.dispatcher.announce(view("d1"))
    clock.add("a")
    clock.dispatcher.announce(view())
    assert [await clock.at(now) for now in (0.0, 99.0)] == [[], []]
    clock.dispatcher.announce(view("d1"))
    assert await clock.at(99.5) == []
    clock.dispatcher.announce(view("d1", model="oven"))
    assert [await clock.at(now) for now in (100.0, 199.0)] == [[], []]
    assert await clock.at(200.0) == ["a"]


async def test_what_fits_on_another_device_waits_on() -> None:
    clock = Clock()
    clock.dispatcher.announce(view("d1", "d2"))
    clock.add("a")
    clock.dispatcher.announce(view("d2"))
    assert [await clock.at(now) for now in (0.0, 1000.0)] == [[], []]


def test_what_is_wanted_is_told_in_words() -> None:
    assert matching.wanted(DeviceRequest("tv")) == "tv"
    request = DeviceRequest("tv", frozenset({"nfc", "gps"}), host_id="pi-1")
    assert matching.wanted(request) == "tv with gps, nfc on a device of pi-1"
