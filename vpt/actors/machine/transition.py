"""The scratch object of one transition: the state so far and the effects so far.

The rules are plain functions in the modules beside this one. Each gets the present `Transition` as
its first argument, `t`, replaces `t.state` and adds effects. Nothing outlives the transition but
the values that `result` returns.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.state import HostState, Lane, Phase, RunState, view_of


class Transition:
    """One message on its way: `state` and `effects` as they are by now."""

    __slots__ = ("_lanes", "_link_before", "effects", "state", "view_kept")

    def __init__(self, state: HostState) -> None:
        self.state = state
        self.effects: list[fx.Effect] = []
        self.view_kept = False  # the message changes nothing visible, unless the link changes
        self._lanes: dict[str, Lane] | None = None  # a copy of its own, once a lane changed
        self._link_before = state.link

    def result(self, *, always: bool = False) -> tuple[HostState, fx.Effects]:
        """Return the new state and the effects, with `Announce` first when the view changed."""
        # It comes first because the dispatcher looks for another device at once when it gets a
        # run back (`ReturnRun`), and must not find the same one free.
        # Building and comparing a view costs as much as the rest of a transition, and most
        # messages are of a run that goes on, which others see as the same busy device.
        if self.view_kept and self.state.link is self._link_before:
            return self.state, tuple(self.effects)
        view = view_of(self.state)
        if view is self.state.view and not always:
            return self.state, tuple(self.effects)
        return replace(self.state, view=view), (fx.Announce(view), *self.effects)

    def add(self, *effects: fx.Effect) -> None:
        """Add effects, to be performed in this order."""
        self.effects.extend(effects)

    def put(self, lane: Lane, **changes: Any) -> Lane:
        """Store a changed lane and return it; one that is absent and had no errors is removed."""
        lane = replace(lane, **changes)
        if lane.wanted and not lane.actions:  # the run that waited for them may be sent again
            lane = replace(lane, wanted=False)
        if self._lanes is None:  # the old state must stay as it was; one copy a transition will do
            self._lanes = dict(self.state.lanes)
            self.state = replace(self.state, lanes=self._lanes)
        self._lanes[lane.device.id] = lane
        if lane.absent and not lane.health.errors:
            del self._lanes[lane.device.id]
        return lane

    def put_run(self, lane: Lane, run: RunState, **changes: Any) -> Lane:
        """Store a changed run on its lane and return the lane."""
        return self.put(lane, run=replace(run, **changes))

    def put_lanes(self, lanes: dict[str, Lane]) -> None:
        """Replace all lanes."""
        self._lanes = lanes
        self.state = replace(self.state, lanes=lanes)

    def lanes(self) -> tuple[Lane, ...]:
        """Return the lanes as they are now, safe to go through while they change."""
        return tuple(self.state.lanes.values())

    def open_call(self, device_id: str, key: m.StepKey) -> tuple[Lane, RunState] | None:
        """Return lane and run when just this try has its call open, else None."""
        # What a call, its timeout or its host says of a try may be late: the step was answered
        # meanwhile, the run was cancelled, the device has another run. The key tells: it is
        # another one for each try, and a try's call is open in phase SENT only.
        lane = self.state.lanes.get(device_id)
        run = lane.run if lane else None
        if lane is None or run is None or run.phase is not Phase.SENT or run.key != key:
            return None
        return lane, run

    def excluded_by(self, lane: Lane) -> tuple[Lane, ...]:
        """Return the lanes that must rest while this one works: the others of a serial host."""
        if not self.state.host.serial:
            return ()
        return tuple(each for each in self.state.lanes.values() if each.device.id != lane.device.id)
