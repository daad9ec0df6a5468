"""The calls of a host's actor to its host, each with its outcome instead of an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

import structlog
from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.secrets import Revealed, masked
from vpt.actors.services import HostServices
from vpt.actors.slim import slim
from vpt.actors.state import CONNECT_SHARE
from vpt.dialects.base import Call, HostTroubleError, Trouble
from vpt.model import Json, Presence
from vpt.upkeep import count_failure, note_failure

log = structlog.get_logger(__name__)

SHOW_LIMIT = 30.0  # seconds
STOP_S = 1.0  # that a host which stopped an action gets to answer with what that printed


async def acted(services: HostServices, effect: fx.SendAction) -> m.Outcome:
    """Send a manual action with its secrets; return what came of it, without them."""
    connect = effect.command.timeout_s * CONNECT_SHARE
    try:
        revealed = await services.secrets.reveal_action(effect, connect)
    except HostTroubleError as trouble:
        return m.NoAnswer.of(trouble)
    call = call_of_action(effect, revealed.action)
    # Masked here, so that no secret waits in an inbox or reaches whoever asked.
    return await masked(await sent(services, call), revealed.masker)


async def sent(services: HostServices, call: Call) -> m.Outcome:
    """Send a call; return what came of it."""
    # Another server may have taken over, and send the same step: then this one must not.
    if not services.may_act():
        return m.NoAnswer(Trouble.HELD_BACK, "The server's claim on its database ran out.")
    try:
        return await services.dialect.send(call)
    except HostTroubleError as trouble:
        return m.NoAnswer.of(trouble)


async def show(
    services: HostServices, effect: fx.FetchScreen, tell: Callable[[m.Fact], None]
) -> None:
    """Fetch what somebody wants to see of a device, and tell the actor what came of it."""
    outcome: bytes | m.NoAnswer
    # On a serial host it excludes probes until it is over, so it has a limit of its own: the
    # person waits for less (`screens.py`).
    try:
        outcome = await services.dialect.show(
            effect.host, effect.device, effect.request, SHOW_LIMIT
        )
    except HostTroubleError as trouble:
        outcome = m.NoAnswer.of(trouble)
    except Exception as error:  # noqa: BLE001 (logged: no probe is sent before a screen is shown)
        note_failure(error, "screen")
        outcome = m.NoAnswer(Trouble.HOST_ERROR, "The server made a mistake: see its log.")
    tell(m.ScreenShown(effect.ask, outcome, effect.request.beside))


async def answered(services: HostServices, probe: fx.Probe, pause: float) -> float:
    """Return how long (s) a host took to answer; HostTroubleError when it missed the probe.

    What this server could not send says nothing of the host, so it is sent `pause` seconds later.
    """
    held_back = False
    while True:
        began = perf_counter()
        try:
            await services.dialect.probe(probe.host, services.probe_timeout)
            await services.dialect.check_key(probe.host, services.probe_timeout)
        except HostTroubleError as trouble:
            if trouble.trouble is not Trouble.HELD_BACK:
                raise
            count_failure("probe")
            if not held_back:
                log.warning("probe_held_back", host_id=probe.host.id, error=trouble.message)
            held_back = True
            await asyncio.sleep(pause)
        else:
            return perf_counter() - began


async def watched(services: HostServices, effect: fx.WatchStep) -> m.StepAnswered:
    """Wait for the end of a step whose attempt is over; what it brought is dropped."""
    key = effect.key
    name = f"{key.execution_id}/{key.attempt}/{key.step}/{key.tries}"
    call = Call(effect.host, effect.device, {}, name, effect.limit, step_limit=0.0)
    outcome = await sent(services, replace(call, handle=effect.handle, anew=effect.anew))
    return m.StepAnswered(effect.device.id, key, slim(outcome), 0.0)


async def looked(services: HostServices, effect: fx.Look, limit: float) -> m.DeviceLooked:
    """Return what a host says of a device when it is asked."""
    presence: Presence | None = None
    try:
        said = await services.dialect.look(effect.host, effect.device, limit)
        presence = await services.secrets.masked_presence(effect.host, said)
    except HostTroubleError:
        pass
    except Exception as error:  # noqa: BLE001 (logged: no probe is sent before a look is over)
        note_failure(error, "look")
    return m.DeviceLooked(effect.device.id, presence)


def call_of_step(effect: fx.SendStep, revealed: Revealed, tell: Callable[[m.Fact], None]) -> Call:
    """Return the call of a step; what the host says meanwhile is passed to `tell`."""
    key, mask = effect.key, revealed.masker.json
    body = {
        **revealed.action,
        "execution_id": key.execution_id,
        "attempt": key.attempt,
        "step": key.step,
        "device_model": effect.device_model,
    }
    device_id = effect.device.id
    return Call(
        effect.host,
        effect.device,
        body,
        f"{key.execution_id}/{key.attempt}/{key.step}/{key.tries}",
        effect.limit,
        effect.connect,
        effect.step_limit,
        opens=key.step == key.tries == 1,
        handle=effect.handle,
        anew=effect.anew,
        on_begun=lambda handle: tell(m.StepBegun(device_id, key, handle)),
        on_progress=lambda state: tell(m.StepProgressed(device_id, key, mask(state))),
    )


def call_of_action(effect: fx.SendAction, action: Json) -> Call:
    """Return the call of a manual action; it lasts longer than the host may act, to be answered."""
    command = effect.command
    return Call(
        effect.host,
        effect.device,
        {**action, "device_model": effect.device.model},
        command.key,
        command.timeout_s + STOP_S,
        command.timeout_s * CONNECT_SHARE,
        command.timeout_s,
        effect.lease_id,
        touch=command.touch,
    )
