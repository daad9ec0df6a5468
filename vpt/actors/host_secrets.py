"""What hosts know that nobody may read in what they say: credentials and keys.

A host's scripts print their environment, and with it the token by which it joins. vpt keeps of a
token its hash only, so a token is known from when its host presents it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

from vpt.masking import SHORTEST_SECRET, HostMasker
from vpt.model import DeviceSchema, Heartbeat, Host, Presence, Registration

#: Of each host: while a token is replaced, scripts may still print the one before.
_MOST_PRESENTED = 3
_MOST_HOSTS = 4096


class PresentedTokens:
    """The tokens that hosts presented since the server's start, the newest of each."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, deque[str]] = OrderedDict()

    def note(self, host_id: str, token: str) -> None:
        """Note what a host presented."""
        tokens = self._known.setdefault(host_id, deque(maxlen=_MOST_PRESENTED))
        self._known.move_to_end(host_id)
        if token not in tokens:
            tokens.append(token)
        if len(self._known) > _MOST_HOSTS:
            self._known.popitem(last=False)

    def of(self, host_id: str) -> Iterable[str]:
        """Return the tokens of a host."""
        return self._known.get(host_id, ())


#: One for the process: who checks a token and who masks it have nothing else in common.
PRESENTED = PresentedTokens()


class HostSecrets:
    """The secrets of hosts, to be masked in what they say."""

    def __init__(
        self, shared: Iterable[str | None], presented: PresentedTokens = PRESENTED
    ) -> None:
        """Accept those that any host may know: the join token and the shared API key."""
        self._shared = frozenset(value for value in shared if value)
        self._presented = presented

    def masker(self, host_id: str, secret: str | None, of_run: Iterable[str] = ()) -> HostMasker:
        """Return the mask for what a host says.

        `secret` is its own key, `of_run` has the secrets of a run.
        """
        # A host with a key of its own may have been given the shared one before.
        own = {*self._shared, *self._presented.of(host_id), *([secret] if secret else ())}
        # A shorter one would be found in innocent texts.
        known = frozenset(value for value in own if len(value) >= SHORTEST_SECRET)
        run = tuple(of_run)
        # The forms of a value are many, and most steps have no secret of their run.
        return HostMasker([*known, *run]) if run else _masker(known)

    def masker_of(self, host: Host, of_run: Iterable[str] = ()) -> HostMasker:
        """Return the mask for what this host says."""
        return self.masker(host.id, host.secret, of_run)


def masked_registration(registration: Registration, masker: HostMasker) -> Registration:
    """Return a registration without what nobody may read of it."""
    devices = tuple(replace(each, name=masker.text(each.name)) for each in registration.devices)
    schemas = {name: _masked_schema(each, masker) for name, each in registration.schemas.items()}
    return replace(
        registration,
        devices=devices,
        hardware=masker.json(registration.hardware),
        schemas=schemas,
        presences=_masked_presences(registration.presences, masker),
    )


def masked_heartbeat(heartbeat: Heartbeat, masker: HostMasker) -> Heartbeat:
    """Return a heartbeat without what nobody may read of it."""
    metrics = masker.json(heartbeat.device_metrics)
    presences = _masked_presences(heartbeat.presences, masker)
    return replace(heartbeat, device_metrics=metrics, presences=presences)


def _masked_presences(
    presences: Mapping[str, Presence], masker: HostMasker
) -> Mapping[str, Presence]:
    return {name: _masked_presence(each, masker) for name, each in presences.items()}


def _masked_presence(presence: Presence, masker: HostMasker) -> Presence:
    reason = None if presence.reason is None else masker.text(presence.reason)
    return replace(presence, reason=reason, properties=masker.json(presence.properties))


def _masked_schema(schema: DeviceSchema, masker: HostMasker) -> DeviceSchema:
    # As a text: what is masked stands within strings, and the text has 40 KB.
    text = masker.text(schema.text.decode()).encode()
    if text == schema.text:
        return schema
    return DeviceSchema(hashlib.sha256(text).digest(), text)


@lru_cache(maxsize=1024)
def _masker(values: frozenset[str]) -> HostMasker:
    return HostMasker(values)
