"""What a host has to prove before it is registered: that it is where it says, and who it says."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from vpt.actors.dispatcher import Dispatcher
from vpt.dialects.base import Dialect, HostTroubleError, Identity, Trouble
from vpt.errors import ConflictError
from vpt.model import DeviceStatus, Host, HostStatus, HostView, Reason, TroubleKind

#: Further probes of a URL that was another host's: all must find the one that registers.
_MORE_PROOFS = 2
#: For so long (s) it counts that a host said another URL: some heartbeats, and retries to register.
_CLAIM_LASTS = 300.0


class Proofs:
    """Probes the URLs that hosts say are theirs, `limit` seconds each."""

    def __init__(self, dialect: Dialect, dispatcher: Dispatcher, limit: float) -> None:
        self._dialect = dialect
        self._dispatcher = dispatcher
        self._limit = limit
        self._claims: dict[str, tuple[str, float]] = {}  # host to the URL that it says, and when

    async def check_gone(self, old: Host, new: Host) -> None:
        """Raise ConflictError when the name's host answers where it was until now.

        Another host that answers there is no reason: the two may have exchanged their addresses.
        Nor is what says no name, where another one says to be: see `_may_be_another`.
        """
        if any(view.reason is Reason.REPLACED for view in self._views_of(old)):
            return  # its old URL is another host's
        self._note_claim(old, new.url)
        where = "at its old URL" if old.url != new.url else "in its old dialect"
        try:
            identity = await self._dialect.probe(old, self._limit)
        except HostTroubleError as trouble:
            # One that is at work may take its time: it is there as long as it takes connections.
            if self._is_at_work(old) and _is_too_slow(trouble):
                raise ConflictError(f"A host of that name is at work {where}.") from trouble
            return
        if not self._may_be_another(old, identity):
            raise ConflictError(f"A host of that name still answers {where}.")

    async def identify(self, old: Host | None, new: Host, *, must_prove: bool) -> Identity | None:
        """Return who the host says it is, at the URL that it registers; None: it did not answer.

        ConflictError when somebody else answers there; when it does not answer, though it
        `must_prove` it or the URL is another host's until now.
        """
        known = old is not None and (old.url, old.dialect) == (new.url, new.dialect)
        if known and self._is_at_work(new):  # it would not answer now
            return None
        others = [view for view in self._dispatcher.views if _is_at_url_of(view, new)]
        # A lost host that registers without being there would be taken for back each time.
        must_prove = must_prove or bool(others) or (known and self._is_lost(new))
        identity = await self._proof(new, must_prove=must_prove)
        if identity is not None and others:
            await self._check_alone(replace(new, named=identity.host_name is not None), others)
        return identity

    async def has_moved(self, known: Host, said: str) -> bool:
        """Return whether a host that says another URL is not at the one that is known of it.

        A host with two addresses stays where it answers.
        """
        # Only where the known URL fails: else a host that tells two addresses by turns, or one
        # whose other address the server does not reach, would register again and again.
        if self._is_at_work(known):
            return False
        self._note_claim(known, said)
        try:
            identity = await self._dialect.probe(known, self._limit)
        except HostTroubleError as trouble:
            return trouble.trouble is not Trouble.HELD_BACK
        return self._may_be_another(known, identity)

    def _note_claim(self, host: Host, url: str) -> None:
        """Note that a registered host says another URL than the one that is known of it."""
        now = asyncio.get_running_loop().time()
        claims = self._claims.items()
        self._claims = {name: claim for name, claim in claims if now - claim[1] < _CLAIM_LASTS}
        self._claims[host.id] = (url, now)

    def _may_be_another(self, host: Host, identity: Identity) -> bool:
        """Return whether the URL of a host that says another one is where another says to be, too.

        What answers there says no name. So of hosts that exchanged their addresses, and could not
        be told apart, the first one that registers takes the place of the next.
        """
        if identity.host_name is not None:
            return False
        claims = self._claims.items()
        return any(url == host.url and name != host.id for name, (url, _) in claims)

    def _is_at_work(self, host: Host) -> bool:
        """Return whether a host may not answer a probe now though it is there.

        It serves one request at a time, and is at work.
        """
        return any(view.host.serial and _is_busy(view) for view in self._views_of(host))

    def _is_lost(self, host: Host) -> bool:
        return any(view.status is HostStatus.LOST for view in self._views_of(host))

    def _views_of(self, host: Host) -> list[HostView]:
        return [view for view in self._dispatcher.views if view.host.id == host.id]

    async def _check_alone(self, new: Host, others: list[HostView]) -> None:
        """Raise ConflictError unless the host alone is at a URL that was another one's."""
        busy = next(filter(_is_busy, others), None)
        if busy is not None and not new.named:
            raise ConflictError(
                f"{busy.host.id} is at work at that URL, and what answers there does not say its"
                " name: wait until that ends."
            )
        for _ in range(_MORE_PROOFS):  # a balanced URL leads to several hosts by turns
            await self._proof(new, must_prove=True)

    async def _proof(self, new: Host, *, must_prove: bool) -> Identity | None:
        """Return who answers a probe of the host as it would be called from now on."""
        try:
            return await self._dialect.probe(new, self._limit)
        except HostTroubleError as trouble:
            words = trouble.reason.text if trouble.reason else trouble.message.rstrip(".")
            if trouble.trouble is Trouble.SOMEBODY_ELSE:
                raise ConflictError(
                    f"{new.id} does not answer at its URL: {words}."
                    " Register the URL that leads to this host."
                ) from trouble
            if not must_prove:
                return None
            raise ConflictError(
                "The host does not answer a probe at its new URL or with its new secret: "
                f"{words}. Let it answer its probe before it registers."
            ) from trouble


def _is_too_slow(trouble: HostTroubleError) -> bool:
    return trouble.reason is None or trouble.reason.kind is TroubleKind.TOO_SLOW


def _is_busy(view: HostView) -> bool:
    """Return whether something may be at work on the host."""
    if view.status not in (HostStatus.AVAILABLE, HostStatus.BUSY, HostStatus.DRAINING):
        return False
    return any(device.status is DeviceStatus.BUSY for device in view.devices)


def _is_at_url_of(view: HostView, new: Host) -> bool:
    """Return whether another host is registered with the same URL."""
    other, offline = view.host, view.status is HostStatus.OFFLINE
    return other.id != new.id and other.url == new.url and not offline
