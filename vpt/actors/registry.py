"""The registry of hosts: they register, are edited, drained, unregistered and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import structlog

from vpt.actors import messages as m
from vpt.actors.declared import store_devices, store_properties, store_schemas
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.host_secrets import HostSecrets, masked_heartbeat, masked_registration
from vpt.actors.proofs import Proofs
from vpt.actors.restore import Keys, host_of
from vpt.actors.samples import Samples
from vpt.actors.stored import StoredHosts
from vpt.actors.supervisor import Supervisor
from vpt.background import each
from vpt.bodies import in_thread
from vpt.dialects.base import Dialect, Identity
from vpt.errors import (
    ConflictError,
    DatabaseAwayError,
    NotFoundError,
    NotRegisteredError,
    ReplacedError,
)
from vpt.model import (
    Credential,
    Heartbeat,
    Host,
    HostStatus,
    Presence,
    Registration,
)
from vpt.names import check_names
from vpt.store.db import Database, Session

log = structlog.get_logger(__name__)

#: A host that joined with a credential is not replaced by one that has a lower one.
_RANK = {Credential.OPEN: 0, Credential.JOIN: 1, Credential.OWN: 2}
_JUST_NOW = "Another host registered under that name just now."


#: Sends a host's actor something that is stored.
_Send = Callable[[str], Awaitable[None]]


class Registry:
    """Changes what is stored of hosts, and makes their actors know of it.

    The database comes first: a restarted actor loads what it has. So a change that is stored is
    answered as a success even if the actor cannot be reached now, and `sweep` sends again what
    an actor that lives on did not get.
    """

    def __init__(
        self,
        db: Database,
        supervisor: Supervisor,
        dispatcher: Dispatcher,
        samples: Samples,
        dialect: Dialect,
        keys: Keys,
        secrets: HostSecrets,
        *,
        probe_timeout: float,
        check_open: Callable[[], None],
    ) -> None:
        self._db = db
        self._supervisor = supervisor
        self._samples = samples
        self._keys = keys
        self._secrets = secrets
        self._proofs = Proofs(dialect, dispatcher, probe_timeout)
        self._check_open = check_open
        self._url_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._seen: set[str] = set()
        self._stored = StoredHosts(db, supervisor, keys)
        self._unsent: set[tuple[str, _Send]] = set()
        #: What heartbeats say of devices while their host's registration is under way.
        self._said_meanwhile: dict[str, dict[str, Presence]] = {}

    # ------------------------------------------------------------ joining and leaving

    async def register(self, registration: Registration, *, peer: str) -> None:
        """Register a host, for the first time or again.

        Raises ConflictError when the name belongs to a better credential, or to a host that
        still answers at another URL; when somebody else answers at its URL; when the host does not
        prove a new URL or secret; and when a name would mean two devices.
        """
        self._check_open()
        host = registration.host
        said = self._said_meanwhile[host.id] = {}
        try:
            presences = await self._supervisor.masked_presences(host.id, registration.presences)
            masker = self._secrets.masker(host.id, registration.secret)
            told = replace(registration, presences=presences)
            # In the thread: what a host says of itself may be as long as a body.
            registration = await in_thread(partial(masked_registration, told, masker))
            row = await self._db.row("lab_host", id=host.id)
            new = _as_called(registration, row, self._keys)
            identity = await self._check_proofs(registration, row, new)
            # One at a time: of two names that register one URL at once neither would find the
            # other. Not the proof, which may wait for a host: whatever changes meanwhile, the
            # store notices.
            async with self._url_locks.setdefault(host.url, asyncio.Lock()):
                await self._register(registration, row, identity, peer)
        finally:
            if self._said_meanwhile.get(host.id) is said:
                del self._said_meanwhile[host.id]
        if said:  # a heartbeat that came meanwhile was sent later, so its word is the newer one
            self._supervisor.tell(host.id, m.DevicesReported(said))

    async def _register(
        self, registration: Registration, row: Any, identity: Identity | None, peer: str
    ) -> None:
        host = registration.host
        try:
            replaced = await self._store_registration(registration, row, identity)
            log.info("host_registered", host_id=host.id, host_url=host.url, peer=peer)
            # What is stored is told first: from here on nothing more goes out at that URL for them.
            for other in replaced:
                log.warning("host_replaced", host_id=other, by=host.id)
                self._supervisor.tell(other, m.Replaced(_replaced_words(host.id)))
            await self._stored.send_registration(host.id)
        except ConflictError:  # nothing was stored
            raise
        except BaseException:
            # The host is answered to try again, but may not do it; and if there is a row, it
            # needs an actor: without one the host would never be probed or get any work.
            self._unsent.add((host.id, self._stored.send_all))
            raise

    async def unregister(
        self, host_id: str, credential: Credential, instance_id: str | None = None
    ) -> None:
        """Accept that a host leaves; what it runs gets RUN_GRACE.

        ReplacedError when it is another host of that name which leaves.
        """
        self._check_not_replaced(await self._check_known(host_id, credential), instance_id)
        await self._supervisor.ask(host_id, m.Unregister)
        log.info("host_unregistered", host_id=host_id)

    async def delete_host(self, host_id: str) -> None:
        """Delete a host; NotFoundError, ConflictError while it runs something.

        A host whose deletion fails or is cancelled goes on as it was: the supervisor starts its
        actor again if the row is still there.
        """
        async with self._supervisor.lock(host_id):
            await self._supervisor.retire(host_id)
            if await self._db.row("delete_host", id=host_id) is not None:
                self._supervisor.forget(host_id)
                log.info("host_deleted", host_id=host_id)
                return
            if await self._db.row("lab_host", id=host_id) is None:
                raise NotFoundError("There is no such host.")
            raise ConflictError("The host runs something: drain it and wait, or cancel that.")

    async def end_credentials(self) -> None:
        """Put out the hosts whose last token of their own was revoked or has expired."""
        for row in await self._db.rows("ended_credentials"):
            await self.end_credential(row["id"])

    async def end_credential(self, host_id: str) -> None:
        """Put a host out if its last token of its own was revoked or has expired.

        Under the host's lock: a registration with a new token is stored before this looks, or its
        actor hears of that registration after it has heard of this.
        """
        async with self._stored.reading(host_id) as stored:
            if stored is not None and stored.credential_ended:
                log.warning("host_credential_ended", host_id=host_id)
                self._supervisor.tell(host_id, m.CredentialEnded())

    async def _check_known(self, host_id: str, credential: Credential) -> Any:
        """Return the host's row; NotRegisteredError when only a registration would help."""
        row = await self._db.row("lab_host", id=host_id)
        if row is None or row["status"] == HostStatus.OFFLINE:
            raise NotRegisteredError
        if _RANK[credential] < _RANK[Credential(row["credential"])]:
            raise ConflictError("The host joined with a better credential.")
        sealed = row["sealed_secret"]
        if sealed and not self._keys.sealer.can_open(bytes(sealed)):
            # SECRET_KEY changed: only the host itself can send its secret again.
            raise NotRegisteredError
        return row

    def _check_not_replaced(self, row: Any, instance_id: str | None) -> None:
        """Raise ReplacedError for an installation whose name another one has, which is there."""
        known = row["instance_id"]
        if None in (known, instance_id) or known == instance_id:
            return
        # If the other one is gone, or the row is of an old backup, the sender may register anew.
        if self._supervisor.must_register(row["id"]):
            raise NotRegisteredError
        raise ReplacedError

    async def _check_proofs(
        self, registration: Registration, row: Any, new: Host
    ) -> Identity | None:
        """Refuse a registration that would take a name, or a URL, from a host that is still there.

        Return who the host says it is, None when it does not answer now. A better credential needs
        no proof for the name: whoever has it may take it. With an equal one, a new URL or secret is
        tried before it replaces what stands, or anybody with the join token could cut a host off by
        a registration with a secret that it does not have.
        """
        if row is None:
            return await self._proofs.identify(None, new, must_prove=False)
        better = _RANK[registration.credential] - _RANK[Credential(row["credential"])]
        if better < 0:
            raise ConflictError("The name belongs to a host that joined with a better credential.")
        old = host_of(row, self._keys)
        moved = (old.url, old.dialect) != (new.url, new.dialect)
        if moved and better == 0:
            await self._proofs.check_gone(old, new)
        must_prove = better == 0 and _is_to_prove(old, new)
        identity = await self._proofs.identify(old, new, must_prove=must_prove)
        if moved:
            _log_move(old, new)
        return identity

    async def _store_registration(
        self, registration: Registration, row: Any, identity: Identity | None
    ) -> list[str]:
        """Store the host, its devices, and that others at its URL are there no more: their ids."""
        host = registration.host
        async with self._db.transaction() as session:
            await _lock(session, host, row)
            await check_names(session, host.id, registration.devices)
            stored = await session.row(
                "upsert_host",
                id=host.id,
                host_url=host.url,
                old_url=row["host_url"] if row is not None else None,
                dialect=host.dialect,
                credential=registration.credential,
                capabilities=sorted(host.capabilities),
                hardware=registration.hardware,
                idempotency=host.idempotency,
                cancel=host.cancel,
                sealed_secret=self._sealed(registration.secret, row),
                old_credential=row["credential"] if row is not None else None,
                old_dialect=row["dialect"] if row is not None else None,
                page_url=registration.page_url,
                instance_id=registration.instance_id,
                named=_is_named(host, identity, row),
            )
            if stored is None:  # the row is not the one that was checked
                raise ConflictError(_JUST_NOW)
            await session.row(
                "store_credential_until", id=host.id, until_s=registration.credential_until
            )
            await store_devices(session, registration)
            await store_schemas(session, registration)
            # Only who was found at the URL takes it from another one.
            others = [] if identity is None else await _replace_others(session, host)
            if identity is None or identity.host_name is None:
                _check_credential(registration.credential, others)
        return [other["id"] for other in others]

    def _sealed(self, secret: str | None, row: Any) -> bytes | None:
        """Return the sealed secret; the very same bytes for one that is stored already."""
        # So of two equal registrations at once neither takes the other for another host's.
        if secret is None:
            return None
        sealed: bytes | None = row["sealed_secret"] if row is not None else None
        if sealed is not None and self._keys.sealer.open(sealed) == secret:
            return sealed
        return self._keys.sealer.seal(secret)

    # ------------------------------------------------------------ changes

    async def host_edited(self, host_id: str) -> None:
        """Send the host's actor what people changed of the host."""
        await self._send_stored(host_id, self._stored.send_host)

    async def devices_changed(self, host_id: str) -> None:
        """Send the host's actor what people changed of its devices."""
        await self._send_stored(host_id, self._stored.send_devices)

    async def drain(self, host_id: str, *, on: bool) -> None:
        """Store and send that a host gets no new work (`on`), or gets it again.

        Then its devices that are held back get it, too.
        """
        if await self._db.row("store_draining", host_id=host_id, draining=on) is None:
            raise NotFoundError("There is no such host.")
        await self._send_stored(host_id, self._stored.send_draining)
        if not on:
            await self.forget_errors(host_id)

    async def forget_errors(self, host_id: str, device_id: str | None = None) -> None:
        """Let a device that is held back, or (None) all of the host, have runs again."""
        # The actor first: what it stores after the row was cleared must not have the old errors.
        async with self._supervisor.lock(host_id):
            await self._supervisor.inform(host_id, lambda ask: m.ForgetErrors(ask, device_id))
            await self._db.row("forget_errors", host_id=host_id, device_id=device_id)

    async def _send_stored(self, host_id: str, send: _Send) -> None:
        """Send an actor what is stored already, now or with the next sweep."""
        with suppress(DatabaseAwayError):  # the change is stored: the request for it succeeded
            await self._send_or_keep(host_id, send)

    async def _send_or_keep(self, host_id: str, send: _Send) -> None:
        try:
            await send(host_id)
        except BaseException:
            self._unsent.add((host_id, send))
            raise

    # ------------------------------------------------------------ signs of life

    async def heartbeat(
        self,
        host_id: str,
        heartbeat: Heartbeat,
        credential: Credential,
    ) -> None:
        """Note that a host is alive, and probe it; NotRegisteredError when it must register.

        ReplacedError when another host of that name registered since.
        """
        row = await self._check_known(host_id, credential)
        self._check_not_replaced(row, heartbeat.instance_id)
        self._seen.add(host_id)
        self._supervisor.tell(host_id, m.HeartbeatSeen())
        # Most heartbeats have no text, and a key need not be opened for them.
        if heartbeat.presences or heartbeat.device_metrics:
            masker = self._secrets.masker(host_id, self._keys.secret_of(row))
            heartbeat = await in_thread(partial(masked_heartbeat, heartbeat, masker))
        presences = await self._supervisor.masked_presences(host_id, heartbeat.presences)
        if presences:
            self._said_meanwhile.get(host_id, {}).update(presences)
            self._supervisor.tell(host_id, m.DevicesReported(presences))
            await store_properties(self._db, host_id, presences)
        if heartbeat.stats or heartbeat.device_metrics:
            self._samples.reported(host_id, heartbeat.stats, heartbeat.device_metrics)
        if self._supervisor.must_register(host_id) or await self._has_moved(row, heartbeat):
            raise NotRegisteredError

    async def _has_moved(self, row: Any, heartbeat: Heartbeat) -> bool:
        said = (heartbeat.host_url or "").rstrip("/")
        # Most hosts are where they were: only of another one the sealed secret is opened.
        if said in ("", row["host_url"]):
            return False
        return await self._proofs.has_moved(host_of(row, self._keys), said)

    def probed(self, host_id: str, ms: float | None) -> None:
        """Note how long (ms) a host took to answer a probe, None when it did not."""
        if ms is not None:
            self._seen.add(host_id)
        self._samples.probed(host_id, ms)

    async def store_seen(self) -> None:
        """Store which hosts were heard since the last call, all in one statement."""
        seen, self._seen = self._seen, set()
        if seen:
            await self._db.row("store_seen", host_ids=sorted(seen))

    async def sweep(self) -> None:
        """Send what could not be sent when it was stored; put out whom nobody vouches for."""
        unsent = (partial(self._send_again, *each_one) for each_one in tuple(self._unsent))
        await each((self.end_credentials, *unsent))

    async def _send_again(self, host_id: str, send: _Send) -> None:
        # Taken out first: a change that fails in the meantime puts it in again.
        self._unsent.discard((host_id, send))
        await self._send_or_keep(host_id, send)


def _as_called(registration: Registration, row: Any, keys: Keys) -> Host:
    """Return the host as it would be called from now on: with the secret that it shows."""
    secret = registration.secret
    if registration.host.dialect != "document" and row is not None:
        # These hosts show no secret: theirs is a key of the server's, by how they joined.
        shown = {**row, "dialect": registration.host.dialect}
        secret = keys.secret_of({**shown, "credential": registration.credential})
    return replace(registration.host, secret=secret, instance_id=registration.instance_id)


def _is_named(host: Host, identity: Identity | None, row: Any) -> bool:
    """Return whether the host says its name in its health: as before, while it does not answer."""
    if identity is not None:
        return identity.host_name is not None
    place = (host.url, host.dialect)
    return row is not None and (row["host_url"], row["dialect"]) == place and row["named"]


async def _replace_others(session: Session, host: Host) -> list[Any]:
    words = _replaced_words(host.id)
    return await session.rows("replace_hosts", host_url=host.url, id=host.id, text=words)


def _check_credential(credential: Credential, others: list[Any]) -> None:
    """Refuse to take a URL from a host with a better credential, on the mere word of who registers.

    What answers there and says that it is the other host needs no credential: it is there.
    """
    better = (one for one in others if _RANK[Credential(one["credential"])] > _RANK[credential])
    first = next(better, None)
    if first is not None:
        raise ConflictError(
            f"The URL belongs to {first['id']}, which joined with a better credential: let the host"
            " say its name in its health, or delete the other one."
        )


def _log_move(old: Host, new: Host) -> None:
    log.warning(
        "host_url_changed",
        host_id=old.id,
        old_url=old.url,
        new_url=new.url,
        old_dialect=old.dialect,
        new_dialect=new.dialect,
    )


def _replaced_words(host_id: str) -> str:
    return f"{host_id} registered with its URL and answers there"


def _is_to_prove(old: Host, new: Host) -> bool:
    """Return whether the host is called elsewhere, or with another secret, from now on."""
    # In another dialect the old secret, which the host did not choose, is no secret of its own.
    secret = old.secret if old.dialect == new.dialect else None
    return old.url != new.url or (secret != new.secret and new.dialect == "document")


async def _lock(session: Session, host: Host, row: Any) -> None:
    """Lock the rows that a registration may change.

    ConflictError when the secret of its host was changed since `row` was read.
    """
    stored = await session.rows("lock_hosts", id=host.id, host_url=host.url)
    secret = next((one["sealed_secret"] for one in stored if one["id"] == host.id), None)
    if row is not None and secret != row["sealed_secret"]:
        raise ConflictError(_JUST_NOW)
