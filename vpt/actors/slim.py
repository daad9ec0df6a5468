"""What is kept in memory of a host's answer until it is stored."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from vpt.actors import messages as m
from vpt.model import Answer


def slim(outcome: m.Outcome) -> m.Outcome:
    """Return the answer with only what will be stored."""
    # While the database is away it waits in memory, and a raw answer can have 16 MiB.
    if isinstance(outcome, Answer):
        return _slim(outcome)
    answer = outcome.answer and _slim(outcome.answer)
    return structs.replace(outcome, answer=answer)


def _slim(answer: Answer) -> Answer:
    if answer.raw is None:
        return answer
    return replace(answer, raw={"screenshot": answer.raw.get("screenshot")})
