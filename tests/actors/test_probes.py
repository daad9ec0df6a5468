"""A probe that the server could not send says nothing of the host."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.actors.fake_host import FakeHost, until
from tests.test_connections import no_descriptors
from vpt import upkeep
from vpt.actors import effects as fx
from vpt.actors.calls import answered
from vpt.dialects.base import HostTroubleError, Trouble
from vpt.dialects.document import DocumentDialect


async def test_a_probe_without_descriptors_is_sent_later_and_not_missed() -> None:
    host, dialect = FakeHost("h"), DocumentDialect()
    await host.appear()
    services: Any = SimpleNamespace(dialect=dialect, probe_timeout=10.0)
    probe = fx.Probe(host.registration().host)
    before = upkeep.failures["probe"]
    with no_descriptors():
        with pytest.raises(HostTroubleError) as trouble:
            await dialect.probe(probe.host, 10)
        assert trouble.value.trouble is Trouble.HELD_BACK
        probing = asyncio.create_task(answered(services, probe, 0.01))
        await until(lambda: upkeep.failures["probe"] >= before + 2)
    assert await probing >= 0
    await dialect.close()
    await host.close()
