"""A host that joined and does not take the lab's key is shown as such before anything runs."""

from __future__ import annotations

from typing import Any

from tests.actors.fake_host import until
from vpt.model import Credential, HostStatus, HostView
from vpt.store.seal import Sealer

from .conftest import CALM, KEY, StartLab, VKit, Wilful
from .test_dialect import act


def seen(lab: VKit) -> HostView:
    return next(view for view in lab.lab.views() if view.host.id == "pi")


async def joined(lab: VKit, key: str) -> Wilful:
    """Let a host join that wants this key; return it once the lab says what is wrong with it."""
    host = Wilful(lab.server.url, "pi", devices={"d1": "tv"}, key=key, pace=CALM)
    lab.stand_ins.append(host)
    await host.start()
    await lab.join_pi(host)
    await until(lambda: seen(lab).trouble)
    return host


def shown(lab: VKit) -> tuple[Any, ...]:
    view = seen(lab)
    assert view.trouble is not None
    return view.status, view.trouble.kind


async def test_a_wrong_key_is_seen_before_anything_runs(lab: VKit) -> None:
    host = await joined(lab, "another key")
    assert shown(lab) == (HostStatus.SUSPECT, "credential")
    trouble = seen(lab).trouble
    assert trouble is not None
    assert "answers 401: it does not accept the API key that vpt sends" in trouble.text
    assert "Set API_KEY, or the host's api_key, to the host's API_KEY" in trouble.text
    waiting = await lab.submit(act("a"))
    asked = len(host.asked("/host/devices"))
    await until(lambda: len(host.asked("/host/devices")) > asked + lab.config.host_lost_after)
    assert shown(lab) == (HostStatus.SUSPECT, "credential"), "it answers, so it is not lost"
    assert not host.control
    host.key = KEY
    assert (await lab.final(waiting.execution_id))["status"] == "completed"


async def test_a_lab_without_a_key_says_so(start_lab: StartLab) -> None:
    lab = await start_lab(api_key=None, host_lost_after=4)
    await joined(lab, "a key")
    trouble = seen(lab).trouble
    assert shown(lab) == (HostStatus.SUSPECT, "credential") and trouble is not None
    assert "answers 401: vpt has no API key" in trouble.text


async def test_a_key_of_the_host_alone_mends_it(start_lab: StartLab) -> None:
    lab = await start_lab(api_key=None)
    await joined(lab, "a key of its own")
    sealed = Sealer("s" * 40).seal("a key of its own")
    await lab.fetch("UPDATE hosts SET sealed_api_key = $1", sealed)
    await lab.lab.registry.host_edited("pi")
    await lab.is_now("pi", HostStatus.AVAILABLE)
    assert (await lab.done(act("a")))["status"] == "completed"


async def test_once_it_took_the_key_it_is_not_asked_for_that_again(lab: VKit) -> None:
    host = await lab.pi()
    probes = len(host.asked("/host/system/health"))
    await until(lambda: len(host.asked("/host/system/health")) > probes + 3)
    assert len(host.asked("/host/devices")) == 1


async def test_a_script_whose_host_has_no_credential_any_more_is_given_up_at_once(
    lab: VKit,
) -> None:
    """Its report will be refused, so nobody waits for it."""
    host = await lab.pi()
    host.on("a", times=1, hang=True)
    run = await lab.submit({"script": "a"})
    await until(lambda: host.done("d1"))
    await lab.fetch("UPDATE hosts SET credential = $1", Credential.OWN)
    await lab.lab.registry.end_credentials()
    await until(lambda: seen(lab).status is HostStatus.OFFLINE)

    async def over() -> Any:
        attempt = (await lab.attempts(run.execution_id))[0]
        return attempt if attempt["error_kind"] else None

    attempt = await until(over)
    assert attempt["error_kind"] == "host_lost" and "token" in attempt["error"]
