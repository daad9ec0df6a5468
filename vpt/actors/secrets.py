"""Secrets of steps and manual actions that are sent: their values, the mask for what comes back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

import asyncpg
import orjson
from msgspec import Struct, structs

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.host_secrets import HostSecrets
from vpt.bodies import is_heavy
from vpt.bounds import LONGEST_REASON
from vpt.dialects.base import HostTroubleError, Trouble
from vpt.errors import DatabaseAwayError
from vpt.masking import Masker
from vpt.model import Answer, Host, Json, Presence
from vpt.parameters import target_values
from vpt.secret_steps import revealed, revealed_action, targeted
from vpt.store.db import Database
from vpt.store.patience import patiently
from vpt.store.seal import Sealer

_PICTURE = "screenshot"  # of an answer: no text to mask
_LARGE = 32 * 1024  # characters that are masked at once; more in a thread
_MOST_RECENT = 16  # runs with secrets of a host, the last ones, whose secrets it may still say


class Revealed(Struct, frozen=True):
    """A step as the host gets it, and the mask for what the host says of it."""

    action: Json
    masker: Masker

    def __repr__(self) -> str:
        """Show nothing of the action: its values must reach no log."""
        return "Revealed(...)"


class Secrets:
    """Fills in secrets, from the database, and the target of a step, just before it is sent."""

    def __init__(self, db: Database, sealer: Sealer, hosts: HostSecrets) -> None:
        self._db = db
        self._sealer = sealer
        self._hosts = hosts
        self._recent: dict[str, deque[Masker]] = {}  # host to the masks of what it was told lately

    async def reveal(self, effect: fx.SendStep) -> Revealed:
        """Return the step with its secrets; HostTroubleError when it cannot have them."""
        secret, target = effect.secret_steps, target_values(effect.host, effect.device)
        # Before any secret is filled in: none of them is looked through for such names.
        step = targeted(effect.action, target)
        if secret is None:
            return Revealed(step, self._hosts.masker_of(effect.host))
        named = await self._named(secret.names, effect.connect)
        values = self._values(effect.sealed_values)
        action, missing = revealed(secret, effect.key.step, named, values, target)
        _check_complete(missing, " any more")
        # What an earlier step was told the host may say now, so all of the run is masked.
        masker = await self._masker_of(effect.host, [*named.values(), *values.values()])
        return Revealed(action if action is not None else step, masker)

    async def reveal_action(self, effect: fx.SendAction, limit_s: float) -> Revealed:
        """Return a manual action with its named secrets; HostTroubleError as `reveal`."""
        command = effect.command
        step = targeted(command.action, target_values(effect.host, effect.device))
        if not command.secrets:
            return Revealed(step, self._hosts.masker_of(effect.host))
        named = await self._named(list(command.secrets), limit_s)
        _check_complete(set(command.secrets) - named.keys())
        action = await asyncio.to_thread(revealed_action, step, named)
        return Revealed(action, await self._masker_of(effect.host, list(named.values())))

    async def masked_presences(
        self, host_id: str, presences: Mapping[str, Presence]
    ) -> Mapping[str, Presence]:
        """Return what a host says of its devices without the secrets that it was told lately.

        It says so when it likes, so no run of it has the mask for that.
        """
        for masker in tuple(self._recent.get(host_id, ())) if presences else ():
            presences = await asyncio.to_thread(_all_masked, presences, masker)
        return presences

    async def masked_presence(self, host: Host, presence: Presence | None) -> Presence | None:
        """Return what a host says of a device, when it is asked, without secrets."""
        if presence is None:
            return None
        told = await self.masked_presences(host.id, {"": presence})
        return _masked_presence(told[""], self._hosts.masker_of(host))

    async def _masker_of(self, host: Host, values: list[str]) -> Masker:
        """Return the mask of these values, which the host is about to be told, and of its own."""
        recent = self._recent.setdefault(host.id, deque(maxlen=_MOST_RECENT))
        large = sum(map(len, values)) > _LARGE
        make = self._hosts.masker_of
        masker = await asyncio.to_thread(make, host, values) if large else make(host, values)
        if values and masker not in recent:
            recent.append(masker)
        return masker

    async def _named(self, names: list[str], limit_s: float) -> Mapping[str, str]:
        """Return the values of these secrets that there are.

        The database is waited for until it is too late to send the step, so that a step which was
        not sent never ends as one that its host did not finish in time.
        """
        try:
            async with asyncio.timeout(limit_s):
                return await patiently("secrets", lambda: self._opened(names))
        except (TimeoutError, DatabaseAwayError, asyncpg.PostgresError) as error:
            raise HostTroubleError(
                Trouble.NO_DATABASE,
                "The database did not return the secrets of the step, which was not sent: see"
                " record_waits_for_database in the server's log.",
            ) from error

    async def _opened(self, names: list[str]) -> Mapping[str, str]:
        rows = await self._db.rows("secrets_named", names=names) if names else []
        opened = ((row["name"], self._sealer.open(row["sealed_value"])) for row in rows)
        return {name: value for name, value in opened if value is not None}

    def _values(self, sealed: bytes | None) -> Mapping[str, str]:
        opened = None if sealed is None else self._sealer.open(sealed)
        values: dict[str, str] = {} if opened is None else orjson.loads(opened)
        return values


def _check_complete(missing: Iterable[str], since: str = "") -> None:
    if names := ", ".join(sorted(missing)):
        raise HostTroubleError(
            Trouble.NO_SECRET,
            f"There is no secret {names}{since}, or it was stored with another SECRET_KEY: an admin"
            " must store it again.",
        )


async def masked(outcome: m.Outcome, masker: Masker) -> m.Outcome:
    """Return a host's answer without the secrets of its run."""
    if not masker:
        return outcome
    if isinstance(outcome, Answer):
        return await _masked(outcome, masker)
    return structs.replace(
        outcome,
        error=masker.text(outcome.error),
        answer=outcome.answer and await _masked(outcome.answer, masker),
        presence=_masked_presence(outcome.presence, masker),
    )


async def _masked(answer: Answer, masker: Masker) -> Answer:
    size = len(answer.output or "") + len(answer.error or "")
    # The JSON of an action's answer is as long as the host likes; its picture is not looked at.
    told = {key: item for key, item in (answer.raw or {}).items() if key != _PICTURE}
    if size > _LARGE or is_heavy(told):
        return await asyncio.to_thread(_masked_answer, answer, masker)
    return _masked_answer(answer, masker)


def _masked_answer(answer: Answer, masker: Masker) -> Answer:
    output, error = (text and masker.text(text) for text in (answer.output, answer.error))
    presence = _masked_presence(answer.presence, masker)
    raw = answer.raw and {
        masker.text(key): item if key == _PICTURE else masker.json(item)
        for key, item in answer.raw.items()
    }
    pictures = tuple((masker.text(caption), data) for caption, data in answer.pictures)
    return replace(
        answer, output=output, error=error, presence=presence, raw=raw, pictures=pictures
    )


def _all_masked(presences: Mapping[str, Presence], masker: Masker) -> Mapping[str, Presence]:
    return {
        name: replace(
            _masked_presence(presence, masker) or presence,
            properties=masker.json(presence.properties),
        )
        for name, presence in presences.items()
    }


def _masked_presence(presence: Presence | None, masker: Masker) -> Presence | None:
    if presence is None or presence.reason is None:
        return presence
    reason = masker.text(presence.reason)
    if len(presence.reason) >= LONGEST_REASON:  # it was cut, perhaps in the middle of a value
        reason = masker.cut_end(reason)
    return replace(presence, reason=reason)
