"""The link to a host: probes, what they say of it, and a host that flaps.

A probe is a GET of the host's health. `suspect_after` missed ones in a row make the host SUSPECT
(no new work), `lost_after` make it LOST, `recover_after` good ones in a row make it UP again.
OFFLINE is what a host says of itself, or what becomes of one whose credential ended or whose URL
another host has; only its registration ends that.
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine.transition import Transition
from vpt.actors.state import FLAP_WINDOW, FLAPS_AT, Link, Phase, pause_of
from vpt.dialects.base import Trouble
from vpt.model import Answer, HostTrouble, TroubleKind

#: Seconds to the probe after a first failed connection; they double with each further one.
SOON = 0.2
DOWN = (Link.LOST, Link.OFFLINE)
#: Good probes in a row after which a host that refused a call is tried again.
TRIAL_AFTER = 30
#: Troubles of a call after which nobody else is sent there before a probe was answered.
NO_LINK = (Trouble.NOT_CONNECTED, Trouble.BROKEN, Trouble.SOMEBODY_ELSE)

# ---------------------------------------------------------------- probes


def probe(t: Transition) -> None:
    """Begin a probe, unless one is under way or the host cannot or need not answer one."""
    if t.state.showing is not None:
        # Behind that fetch it would wait for the host, and might be counted as missed for it.
        t.state = replace(t.state, probe_owed=True)
        return
    # One at a time, or a slow host would be counted as missed several times for one silence.
    if t.state.probing or t.state.link is Link.OFFLINE or occupied(t):
        return
    begin_probe(t)


def begin_probe(t: Transition) -> None:
    """Begin a probe in any case."""
    t.state = replace(t.state, probing=True)
    t.add(fx.Probe(t.state.host))


def occupied(t: Transition) -> bool:
    """Return whether a host that answers one request at a time is at work on one of ours."""
    # Then its silence is normal: a probe would wait behind the call and be counted as missed, and
    # a host with a long step would be lost for no reason. It is not left unwatched, since whoever
    # made the call notices when the host's machine is gone (`vpt/dialects/serial.py`). A late
    # answer counts as work too; a hold of a lost host does not, since only probes end that.
    return t.state.showing is not None or (t.state.host.serial and _works(t))


def _works(t: Transition) -> bool:
    return any(
        lane.actions
        or lane.looking
        or (lane.run is not None and lane.run.phase is Phase.SENT)
        or (lane.hold is not None and not lane.hold.lost)
        for lane in t.state.lanes.values()
    )


def probe_missed(t: Transition, fact: m.ProbeMissed) -> None:
    """Count a missed probe; one that was overtaken by a call to a serial host proves nothing."""
    t.state = replace(t.state, probing=False)
    reason = fact.reason
    if reason is not None and reason.kind is TroubleKind.CREDENTIAL:
        t.state = replace(t.state, unauthorized=True)
    if reason is not None and reason.kind is TroubleKind.SOMEBODY_ELSE:
        # No slow network makes another host of it: it counts at once, and whatever is under way.
        count_missed(t, max(t.state.missed + 1, t.state.limits.suspect_after))
        _note_trouble(t, reason)
    elif reason is not None and reason.kind is TroubleKind.CREDENTIAL and t.state.host.serial:
        # It answered, so it is not lost, but no call of ours is let through.
        missed = min(t.state.missed + 1, t.state.limits.lost_after - 1)
        count_missed(t, max(missed, t.state.limits.suspect_after))
        _note_trouble(t, reason)
    elif not occupied(t):
        count_missed(t, t.state.missed + 1)
        _note_trouble(t, reason)


def note_authority(t: Transition, outcome: m.Outcome) -> None:
    """Note whether the host took a call for one of its server; SUSPECT is one that did not."""
    if isinstance(outcome, Answer):
        t.state = replace(t.state, unauthorized=False, call_refused=False)
    elif outcome.reason is not None and outcome.reason.kind is TroubleKind.CREDENTIAL:
        # A step's own refusal (400, 404, 422) says nothing of other steps, but this one does.
        # It would refuse every other run, too, each of which would lose an attempt by it.
        t.state = replace(t.state, unauthorized=True, call_refused=True)
        count_missed(t, max(t.state.missed + 1, t.state.limits.suspect_after))
        _note_trouble(t, outcome.reason)


def _note_trouble(t: Transition, reason: HostTrouble | None) -> None:
    """Store why the host was not reached just now, unless that may have been one lost packet."""
    certain = t.state.missed >= t.state.limits.suspect_after
    if certain and reason is not None and reason != t.state.trouble:
        t.state = replace(t.state, trouble=reason)
        t.view_kept = False


def good_probes_needed(t: Transition) -> int:
    """Return after how many good probes in a row the host is UP."""
    # A host that refused a call may well answer probes, since mostly these need no secret. So they
    # prove nothing; but nothing else would show that it was mended, so after a while it is tried.
    # A serial host is called with the key after each probe until it takes it (`check_key`).
    needed, unproven = t.state.limits.recover_after, t.state.call_refused
    return max(needed, TRIAL_AFTER) if unproven and not t.state.host.serial else needed


def connection_failed(t: Transition, parks: int, reason: HostTrouble | None = None) -> None:
    """Count a call that could not connect, or broke, as a missed probe, and look again soon."""
    # It says more than a missed probe: the host is SUSPECT at once, so that nobody is sent to a
    # host that just refused somebody. It may also have been one lost packet, so the next probe
    # does not wait for its turn; the more often the same step was parked for it, the longer.
    count_missed(t, max(t.state.missed + 1, t.state.limits.suspect_after))
    _note_trouble(t, reason)
    soon = min(SOON * 2 ** min(parks, 10), t.state.limits.probe_interval)
    t.add(fx.Alarm("probe-soon", soon, m.ProbeDue()))


def count_missed(t: Transition, missed: int) -> None:
    """Store how many probes in a row were missed, and what follows for the link."""
    t.state = replace(t.state, missed=missed, good=0)
    for lane in t.lanes():
        hold = lane.hold
        # A device needs so many good probes in a row. Once it had them that fact stays: what
        # the device still waits for then is the host's acknowledgement, not another streak.
        if hold is not None and 0 < hold.good < t.state.limits.recover_after:
            t.put(lane, hold=replace(hold, good=0))
    if t.state.link is Link.OFFLINE:
        return
    if missed >= t.state.limits.lost_after:
        set_link(t, Link.LOST)
    elif missed >= t.state.limits.suspect_after and t.state.link is Link.UP:
        set_link(t, Link.SUSPECT)


# ---------------------------------------------------------------- the link


def set_link(t: Transition, link: Link) -> None:
    """Change the link, and start or end what depends on it."""
    before = t.state.link
    if link is before:
        return
    t.state = replace(t.state, link=link)
    if link is Link.UP:
        t.state = replace(t.state, trouble=None, unauthorized=False, call_refused=False)
    if link is Link.LOST:
        _count_loss(t)
    elif link is Link.UP and t.state.paused:  # the pause counts from here: see _count_loss
        t.add(fx.Alarm("pause", pause_of(t.state.flaps), m.PauseOver()))
    # LOST and OFFLINE share one RUN_GRACE: a host that says goodbye after it was lost does not
    # get another one. Either way its runs stay, since most hosts are back within it.
    if link in DOWN and before not in DOWN:
        t.add(fx.Alarm("grace", t.state.limits.run_grace, m.GraceOver()))
    elif link not in DOWN and before in DOWN:
        t.state = replace(t.state, grace_over=False)
        t.add(fx.Alarm("grace", 0, None))


def _count_loss(t: Transition) -> None:
    """Count a loss; a host that is lost again and again gets no work for a while."""
    # Each run on such a host would cost an attempt and RUN_GRACE. The pause is counted from the
    # moment when the host is back, since while it is away it gets no work anyway; with each
    # further loss it doubles. Each loss is forgotten after FLAP_WINDOW under an alarm of its own
    # (hence `lost_ever` in its name), so that only those of late count.
    losses, number = t.state.losses + 1, t.state.lost_ever + 1
    t.state = replace(t.state, losses=losses, lost_ever=number)
    t.add(fx.Alarm(f"loss:{number}", FLAP_WINDOW, m.LossForgotten()))
    if losses >= FLAPS_AT or t.state.flaps:
        t.state = replace(t.state, flaps=t.state.flaps + 1, paused=True)
        t.add(fx.Alarm("pause", 0, None))


def loss_forgotten(t: Transition, _: m.LossForgotten) -> None:
    """Count one loss less; `losses` may be 0 already, when a run proved the host good."""
    t.state = replace(t.state, losses=max(0, t.state.losses - 1))


def pause_over(t: Transition, _: m.PauseOver) -> None:
    """Let a host that flapped have work again; `flaps` stays, so that its next pause is longer."""
    t.state = replace(t.state, paused=False)


def proved_good(t: Transition) -> None:
    """Forget that a host flapped: a run came to its verdict there."""
    # Time alone proves nothing, since a paused host has no run that could fail.
    if t.state.flaps:
        t.state = replace(t.state, losses=0, flaps=0, paused=False)
        t.add(fx.Alarm("pause", 0, None))
