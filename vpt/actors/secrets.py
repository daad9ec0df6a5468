"""Secrets of steps that are sent: the values, and the mask for what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import orjson
from msgspec import Struct
from msgspec.structs import replace as struct_replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.bounds import LONGEST_REASON
from vpt.dialects.base import CUT, Trouble
from vpt.masking import Masker
from vpt.model import Answer, Json, Presence
from vpt.secret_steps import revealed
from vpt.store.db import Database
from vpt.store.patience import patiently
from vpt.store.seal import Sealer

_LARGE = 32 * 1024  # characters that are masked at once; more in a thread


class SecretGoneError(Exception):
    """A secret of the step cannot be filled in; the message is for people."""


class Revealed(Struct, frozen=True):
    """A step as the host gets it, and the mask for what the host says of it."""

    action: Json
    masker: Masker

    def __repr__(self) -> str:
        """Show nothing of the action: its values must reach no log."""
        return "Revealed(...)"


class Secrets:
    """Fills in the secrets of steps, from the database, just before a step is sent."""

    def __init__(self, db: Database, sealer: Sealer) -> None:
        self._db = db
        self._sealer = sealer

    async def reveal(self, effect: fx.SendStep) -> Revealed:
        """Return the step with its secrets; SecretGoneError names one that is gone."""
        secret = effect.secret_steps
        if secret is None:
            return Revealed(effect.action, Masker())
        named = await patiently("secrets", lambda: self._named(secret.names))
        values = self._values(effect.sealed_values)
        action, missing = revealed(secret, effect.key.step, named, values)
        if missing:
            raise SecretGoneError(
                f"There is no secret {', '.join(sorted(missing))} any more, or it was stored with"
                " another SECRET_KEY: an admin must store it again."
            )
        # What an earlier step was told the host may say now, so all of the run is masked.
        masker = await _masker([*named.values(), *values.values()])
        return Revealed(action if action is not None else effect.action, masker)

    async def _named(self, names: list[str]) -> Mapping[str, str]:
        rows = await self._db.rows("secrets_named", names=names) if names else []
        opened = ((row["name"], self._sealer.open(row["sealed_value"])) for row in rows)
        return {name: value for name, value in opened if value is not None}

    def _values(self, sealed: bytes | None) -> Mapping[str, str]:
        opened = None if sealed is None else self._sealer.open(sealed)
        values: dict[str, str] = {} if opened is None else orjson.loads(opened)
        return values


async def _masker(values: list[str]) -> Masker:
    large = sum(map(len, values)) > _LARGE
    return await asyncio.to_thread(Masker, values) if large else Masker(values)


async def masked(outcome: m.Outcome, masker: Masker) -> m.Outcome:
    """Return a host's answer without the secrets of its run."""
    if not masker:
        return outcome
    if isinstance(outcome, Answer):
        size = len(outcome.output or "") + len(outcome.error or "")
        if size > _LARGE:
            return await asyncio.to_thread(_masked_answer, outcome, masker)
        return _masked_answer(outcome, masker)
    return struct_replace(
        outcome,
        error=masker.text(outcome.error),
        presence=_masked_presence(outcome.presence, masker),
    )


def _masked_answer(answer: Answer, masker: Masker) -> Answer:
    output, error = _masked_text(answer.output, masker), _masked_text(answer.error, masker)
    presence = _masked_presence(answer.presence, masker)
    return replace(answer, output=output, error=error, presence=presence)


def _masked_presence(presence: Presence | None, masker: Masker) -> Presence | None:
    if presence is None or presence.reason is None:
        return presence
    reason = masker.text(presence.reason)
    if len(presence.reason) >= LONGEST_REASON:  # it was cut, perhaps in the middle of a value
        reason = masker.cut_end(reason)
    return replace(presence, reason=reason)


def _masked_text(text: str | None, masker: Masker) -> str | None:
    if text is None or not text.endswith(CUT):
        return None if text is None else masker.text(text)
    # It was cut, perhaps in the middle of a value.
    return masker.cut_end(masker.text(text.removesuffix(CUT))) + CUT


def no_secret(error: SecretGoneError) -> m.NoAnswer:
    """Return the outcome of a step that was not sent, as a secret of it is gone."""
    return m.NoAnswer(Trouble.NO_SECRET, str(error))
