"""The host machine by hypothesis: no history of commands and facts breaks what must hold.

The invariants are `state.check`, and those that `World` asserts: one attempt a device, one call
a device, one probe a host, each step stored before the next goes out, no attempt ends twice, and
no `failed` that the host did not say. At the end of each history nothing is stuck.
`MatchedHistories` has the dispatcher in them: what is submitted finds its device by matching, and
at the end each execution came to its end.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.actors.world import (
    FAIL,
    PASS,
    World,
    device,
    host,
    serial_host,
    serial_world,
    trouble,
    world,
)
from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.state import Link, Phase, must_register
from vpt.dialects.base import ScreenPart, ScreenRequest, Trouble
from vpt.model import (
    DeviceRequest,
    DeviceStatus,
    Host,
    HostStatus,
    HostTrouble,
    Presence,
    Reason,
    TroubleKind,
    Waiting,
)

OUTCOMES = st.sampled_from([PASS, PASS, PASS, FAIL]) | st.sampled_from(list(Trouble)).map(
    lambda t: trouble(t.name)
)
DEVICES = st.sampled_from(["h:d1", "h:d2"])
STEPS = (
    {"command": "a", "retries": 1},
    {"command": "b", "continue_on_failure": True, "delay_s": 1},
    {"command": "c"},
)


pytestmark = pytest.mark.timeout(300)
REFUSES = HostTrouble(TroubleKind.CREDENTIAL, "answers 401")
ANOTHER = HostTrouble(TroubleKind.SOMEBODY_ELSE, "another host answers at its URL: x")
_ENDS = (m.StepDue, m.LeaseOver, m.PauseOver, m.DevicePauseOver)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.w: World = self.new_world().up()
        self.late: list[fx.SendStep] = []
        self.asks = 0

    def new_world(self) -> World:
        return world(devices=2, steps=STEPS, test_retries=1)

    def ask(self) -> int:
        self.asks += 1
        return self.asks

    @rule(device_id=DEVICES)
    def a_new_one_runs(self, device_id: str) -> None:
        """From its start to its first step."""
        lane = self.w.state.lanes.get(device_id)
        if lane is not None and lane.actions:
            self.act_answered(PASS)
        elif lane is not None and lane.lease is not None:
            self.give_back(device_id)
        self.run_it(f"e{len(self.w.executions) + 1}", device_id)
        self.w.settle()

    @rule(execution=st.sampled_from(["e1", "e2", "e3", "e4"]), device_id=DEVICES)
    def run_it(self, execution: str, device_id: str) -> None:
        elsewhere = any(
            r.execution_id == execution for r in self.w.records if isinstance(r, fx.StoreAttempt)
        )
        if self.w.executions.get(execution, "queued") == "queued" and not elsewhere:
            self.w.run(execution, device_id)

    @precondition(lambda self: self.w.records)
    @rule()
    def the_database_refuses(self) -> None:
        self.w.refuses = True

    @precondition(lambda self: self.w.records)
    @rule()
    def store_all(self) -> None:
        self.w.settle()

    @precondition(lambda self: self.w.state.link is not Link.UP or self.w.state.paused)
    @rule()
    def all_is_well(self) -> None:
        """Most of the time a host is there: else a history would be of nothing but absence."""
        if self.w.state.link is Link.OFFLINE:
            self.register((1, 2), idempotency=self.w.state.host.idempotency)
        self.probes(good=True, times=2)
        if "pause" in self.w.alarms:
            self.w.ring("pause")
        for device_id in ("h:d1", "h:d2"):
            self.a_device_goes_or_comes(device_id, available=True)
        self.drain(on=False)

    @precondition(lambda self: self.w.state.link is not Link.UP or self.w.state.paused)
    @rule()
    def all_is_well_again(self) -> None:
        self.all_is_well()

    @precondition(lambda self: self.w.forwards)
    @rule()
    def the_host_is_lost_for_good(self) -> None:
        """Lost in the middle of a step, and longer than RUN_GRACE."""
        self.probes(good=False, times=6)
        if "grace" in self.w.alarms:
            self.w.ring("grace")

    @precondition(lambda self: self.w.attempts)
    @rule(pick=st.integers(0, 9))
    def an_old_cancel_is_acknowledged(self, pick: int) -> None:
        """Of an attempt that is over; the present one's word is `cancel_answered`."""
        over = [name for name, one in self.w.attempts.items() if one.released]
        for execution_id, number in over[pick : pick + 1]:
            for device_id in ("h:d1", "h:d2"):
                self.w.tell(m.CancelAnswered(device_id, execution_id, number, True))

    @precondition(lambda self: self.w.records)
    @rule()
    def store(self) -> None:
        self.w.store()

    @precondition(lambda self: self.w.forwards)
    @rule(outcome=OUTCOMES)
    def host_answers_and_it_is_stored(self, outcome: m.Outcome) -> None:
        self.host_answers(outcome, 0)
        self.w.settle()

    @precondition(lambda self: self.w.forwards)
    @rule(outcome=OUTCOMES, pick=st.integers(0, 1))
    def host_answers(self, outcome: m.Outcome, pick: int) -> None:
        forward = list(self.w.forwards.values())[pick % len(self.w.forwards)]
        self.late.append(forward)
        self.w.answer(outcome, forward.device.id)

    @precondition(lambda self: self.late)
    @rule(outcome=OUTCOMES, pick=st.integers(0, 9))
    def an_old_answer_comes(self, outcome: m.Outcome, pick: int) -> None:
        forward = self.late[pick % len(self.late)]
        open_call = self.w.forwards.get(forward.device.id)
        if open_call is None or open_call.key != forward.key:
            known = set(self.w.said_no), set(self.w.acting), set(self.w.broken)
            self.w.finish(forward, outcome)
            self.w.said_no, self.w.acting, self.w.broken = known  # an old answer changes nothing

    @precondition(lambda self: self.w.alarms)
    @rule(pick=st.integers(0, 9))
    def alarm_rings(self, pick: int) -> None:
        names = sorted(self.w.alarms)
        self.w.ring(names[pick % len(names)])

    @rule(good=st.sampled_from([True, True, True, False]), times=st.integers(1, 3))
    def probes(self, good: bool, times: int) -> None:
        for _ in range(times):
            self.w.tell(m.ProbeDue())
            if self.w.probing:
                self.w.probe(good=good)

    @precondition(lambda self: self.w.cancels)
    @rule(acknowledged=st.booleans())
    def cancel_answered(self, acknowledged: bool) -> None:
        self.w.cancel_answered(acknowledged=acknowledged)

    @rule(execution=st.sampled_from(["e1", "e2", "e3", "m1", "m2", "m3", "m4"]))
    def cancel(self, execution: str) -> None:
        self.w.tell(m.Cancel(execution))

    @rule(device_id=DEVICES, user=st.sampled_from(["u", "v"]))
    def act(self, device_id: str, user: str) -> None:
        lane = self.w.state.lanes.get(device_id)
        before = len(self.w.acts)
        self.w.tell(m.RunAction(self.ask(), device_id, {}, 1, "k", user))
        if lane is not None and lane.lease is not None and lane.lease.holder != user:
            assert len(self.w.acts) == before, "an action on what is somebody else's"

    @rule(device_id=DEVICES, holder=st.sampled_from(["u", "v"]))
    def lease(self, device_id: str, holder: str) -> None:
        ask = self.ask()
        self.w.tell(m.TakeLease(ask, device_id, f"l{ask}", holder, 600))

    @precondition(lambda self: self.w.acts)
    @rule(outcome=OUTCOMES)
    def act_answered(self, outcome: m.Outcome) -> None:
        act = self.w.acts.pop(0)
        self.w.tell(m.ActionAnswered(act.device.id, act.command.ask, outcome, 1.0))

    @rule(device_id=DEVICES, beside=st.booleans())
    def show(self, device_id: str, beside: bool) -> None:
        request = ScreenRequest(ScreenPart.FILE if beside else ScreenPart.PICTURE, beside=beside)
        self.w.tell(m.ShowScreen(self.ask(), device_id, request))

    @precondition(lambda self: self.w.screens)
    @rule(outcome=st.sampled_from([b"a picture", trouble("TIMEOUT"), trouble("NOT_CONNECTED")]))
    def screen_shown(self, outcome: bytes | m.NoAnswer) -> None:
        shown = self.w.screens.pop(0)
        self.w.tell(m.ScreenShown(shown.ask, outcome, shown.request.beside))

    @rule(device_id=DEVICES)
    def give_back(self, device_id: str) -> None:
        lease = self.w.state.lanes[device_id].lease if device_id in self.w.state.lanes else None
        if lease is not None:
            self.w.tell(m.LeaseOver(device_id, lease.id))

    @precondition(lambda self: not self.w.state.paused and self.w.forwards)
    @rule()
    def lost_again_and_again(self) -> None:
        """Flap: lost and back, three times."""
        for _ in range(3):
            for good, times in ((False, 6), (True, 2)):
                self.probes(good, times)

    @rule(devices=st.sampled_from([(1,), (1, 2), (2,)]), idempotency=st.booleans())
    def register(self, devices: tuple[int, ...], idempotency: bool) -> None:
        declared = tuple(device(n) for n in devices)
        self.w.tell(m.Register(self.ask(), self.known(idempotency=idempotency), declared))

    def known(self, *, idempotency: bool = True) -> Host:
        return host(idempotency=idempotency)

    @rule(device_id=DEVICES, available=st.sampled_from([True, True, False]))
    def a_device_goes_or_comes(self, device_id: str, available: bool) -> None:
        """It is on the word of its host, in a heartbeat; what it runs goes on."""
        ran = {name for name, lane in self.w.state.lanes.items() if lane.run}
        self.w.tell(m.DevicesReported({device_id.partition(":")[2]: Presence(available)}))
        assert ran == {name for name, lane in self.w.state.lanes.items() if lane.run}

    @rule(on=st.sampled_from([True, False, False]))
    def drain(self, on: bool) -> None:
        self.w.tell(m.Drain(self.ask(), on))

    @precondition(lambda self: self.w.forwards or self.w.acts or self.w.records)
    @rule()
    def the_credential_ends(self) -> None:
        """Its runs end at once but for what is being stored, and their askers are answered."""
        self.w.tell(m.CredentialEnded())
        assert not self.w.forwards
        phases = {lane.run.phase for lane in self.w.state.lanes.values() if lane.run}
        assert phases <= {Phase.STARTING, Phase.STORING, Phase.ENDING}
        assert self.w.state.view is not None
        assert self.w.state.view.status is HostStatus.OFFLINE
        assert self.w.state.view.reason is Reason.CREDENTIAL
        assert must_register(self.w.state)

    @precondition(lambda self: self.w.forwards)
    @rule()
    def the_host_has_another_secret(self) -> None:
        """It refuses a step with 401, and is told to register anew until it did."""
        self.host_answers(m.NoAnswer(Trouble.HOST_REFUSED, "401", REFUSES), 0)
        assert must_register(self.w.state) is not self.w.state.host.serial

    @precondition(lambda self: self.w.state.link is Link.UP and not self.w.state.draining)
    @rule(device_id=DEVICES, times=st.integers(3, 5))
    def it_fails_again_and_again(self, device_id: str, times: int) -> None:
        """Until the device is held back, and each trial after a pause, too."""
        for _ in range(times):
            if f"pause:{device_id}" in self.w.alarms:
                self.w.ring(f"pause:{device_id}")
            self.a_new_one_runs(device_id)
            if device_id in self.w.forwards:
                self.w.answer(trouble("HOST_ERROR"), device_id).settle()

    @rule(device_id=st.none() | DEVICES)
    def somebody_mends_it(self, device_id: str | None) -> None:
        self.w.tell(m.ForgetErrors(self.ask(), device_id))

    @precondition(lambda self: self.w.forwards or self.w.acts or self.w.records)
    @rule()
    def another_host_has_its_url(self) -> None:
        """Whatever is under way there is given up, and nothing more is sent until it registers."""
        self.w.tell(m.Replaced("x registered with its URL"))
        assert not self.w.forwards
        assert self.w.state.view is not None
        assert self.w.state.view.status is HostStatus.OFFLINE
        assert self.w.state.view.reason in (Reason.REPLACED, Reason.CREDENTIAL)
        assert must_register(self.w.state)

    @rule()
    def somebody_else_answers(self) -> None:
        """A probe finds another host: nothing is sent there (`World` sees to it)."""
        self.w.tell(m.ProbeDue())
        if self.w.probing:
            self.w.probe(good=False, reason=ANOTHER)
            assert self.w.state.link is not Link.UP
            assert must_register(self.w.state)

    @precondition(lambda self: self.w.forwards)
    @rule()
    def unregister(self) -> None:
        self.w.tell(m.Unregister(self.ask()))

    def teardown(self) -> None:
        """When the host behaves again, everything comes to its end."""
        w = self.w
        declared = (device(1), device(2))
        w.tell(m.Register(self.ask(), self.known(), declared), m.Drain(self.ask(), False))
        for _ in range(1000):
            if not self._one_good_thing():
                break
        assert w.state.link is Link.UP
        assert not [a for a in w.attempts.values() if a.status == "running" or not a.released]
        assert w.state.view
        assert {v.status for v in w.state.view.devices} == {DeviceStatus.ONLINE}
        assert len(w.replies) == self.asks, "an asker was left without an answer"

    def _one_good_thing(self) -> bool:
        w = self.w
        if w.records:
            w.store()
        elif w.forwards:
            w.answer(PASS, next(iter(w.forwards)))
        elif w.acts:
            self.act_answered(PASS)
        elif w.screens:
            self.screen_shown(b"a picture")
        elif w.watches:
            w.watched(trouble("IDLE"), next(iter(w.watches)))
        elif w.looks:
            w.looked(Presence(at_work=False))
        elif w.cancels:
            w.cancel_answered(acknowledged=True)
        elif w.probing:
            w.probe(good=True)
        elif due := [n for n, f in w.alarms.items() if isinstance(f, _ENDS)]:
            w.ring(due[0])
        elif w.state.link is not Link.UP or any(not lane.idle for lane in w.state.lanes.values()):
            w.tell(m.ProbeDue())
        elif looks := [n for n, f in w.alarms.items() if isinstance(f, m.LookDue)]:
            w.ring(looks[0])
        else:
            return False
        return True


class Serial:
    """A host that works one thing at a time and names what it has begun."""

    w: World

    def new_world(self) -> World:
        return serial_world(steps=STEPS, test_retries=1)

    def known(self, *, idempotency: bool = True) -> Host:
        return serial_host()

    @precondition(lambda self: self.w.forwards)
    @rule(number=st.integers(1, 3))
    def begins(self, number: int) -> None:
        self.w.begun(f"x{number}", next(iter(self.w.forwards)))

    @precondition(lambda self: self.w.watches)
    @rule(outcome=OUTCOMES)
    def a_watch_ends(self, outcome: m.Outcome) -> None:
        self.w.watched(outcome, next(iter(self.w.watches)))

    @rule(device_id=DEVICES, works=st.booleans())
    def the_host_works_by_itself(self, device_id: str, works: bool) -> None:
        said = {device_id.partition(":")[2]: Presence(None, at_work=works)}
        self.w.tell(m.DevicesReported(said))

    @precondition(lambda self: self.w.looks)
    @rule(available=st.booleans(), works=st.sampled_from([None, True, False, False]))
    def a_look_ends(self, available: bool, works: bool | None) -> None:
        self.w.looked(Presence(available, at_work=works))


class MatchedHistories(Histories):
    """The same with the real dispatcher between those who submit and the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[m.StartRun] = []  # told by the dispatcher, and not yet read by the actor
        self.number = 0
        self.dispatcher = self.w.dispatcher = Dispatcher(self._told)
        assert self.w.state.view is not None
        self.dispatcher.announce(self.w.state.view)

    def _told(self, host_id: str, message: m.Message) -> None:
        assert isinstance(message, m.StartRun)
        assert message.device_id not in {run.device_id for run in self.runs}, "given twice"
        status = {v.device.id: v.status for v in self.dispatcher.views[0].devices}
        assert status[message.device_id] is DeviceStatus.ONLINE, "given while it was not free"
        self.runs.append(message)

    def run_it(self, execution: str, device_id: str) -> None:
        """Runs come from the dispatcher only."""
        if self.runs:
            self.the_actor_reads()

    @precondition(lambda self: len(self.dispatcher) < 6)
    @rule(priority=st.integers(0, 100), device_id=st.none() | DEVICES)
    def submit(self, priority: int, device_id: str | None) -> None:
        self.number += 1
        name = f"m{self.number}"
        self.w.executions[name] = "queued"
        request = DeviceRequest("model", device_id=device_id)
        self.dispatcher.add(Waiting(name, request, priority, float(self.number), 1e9))

    @precondition(lambda self: self.runs)
    @rule()
    def the_actor_reads(self) -> None:
        run = self.runs.pop(0)
        self.w.run(run.execution_id, run.device_id)

    def _one_good_thing(self) -> bool:
        if self.runs:
            self.the_actor_reads()
            return True
        return super()._one_good_thing()

    def teardown(self) -> None:
        super().teardown()
        assert {s for s in self.w.executions.values() if s in {"queued", "running"}} == set()
        assert len(self.dispatcher) == self.dispatcher.known == 0


class SerialHistories(Serial, Histories):
    """The first of a serial host."""


class SerialMatchedHistories(Serial, MatchedHistories):
    """The second of a serial host."""


#: So many times as many histories as by default.
MORE = int(os.environ.get("VPT_HISTORIES", "1"))


def _tested(histories: type[Histories], number: int) -> Any:
    case = histories.TestCase
    case.settings = settings(SETTINGS, max_examples=number * MORE)
    return case


SETTINGS = settings(
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHistories = _tested(Histories, 120)
TestMatchedHistories = _tested(MatchedHistories, 120)
TestSerialHistories = _tested(SerialHistories, 75)
TestSerialMatchedHistories = _tested(SerialMatchedHistories, 75)
