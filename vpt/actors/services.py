"""What every host's actor needs of the rest of the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vpt.actors.dispatcher import Dispatcher
from vpt.actors.ledger import Shared
from vpt.actors.secrets import Secrets
from vpt.dialects.base import Dialect
from vpt.events import Events
from vpt.measures import Tally
from vpt.model import Waiting
from vpt.store.artifacts import Artifacts


class NotTaken(Protocol):
    """The callback for a run that could not start on its device."""

    def __call__(self, execution_id: str, device_id: str, *, gone: bool) -> None:
        """Put it back into the queue, unless it is `gone` for good."""


@dataclass(frozen=True, slots=True)
class HostServices:
    """What every host's actor needs of the rest of the server."""

    shared: Shared
    dialect: Dialect
    events: Events
    dispatcher: Dispatcher
    artifacts: Artifacts
    probe_timeout: float
    probed: Callable[[str, float | None], None]  # host, milliseconds; None when it was missed
    requeue: Callable[[Waiting], None]
    not_taken: NotTaken
    waited_s: Callable[[Waiting], float]  # by the queue's clock, which is the database's
    tally: Tally
    secrets: Secrets
    may_act: Callable[[], bool]  # false while another server may have taken over
