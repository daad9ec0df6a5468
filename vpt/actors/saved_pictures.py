"""The pictures of a step, from a host's answer into the store."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
import structlog

from vpt.actors.messages import StepKey
from vpt.errors import VptError
from vpt.model import Answer, Json
from vpt.store.artifacts import Artifacts

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class SavedPictures:
    """What is stored of a step's pictures: the screenshot's kind, the others, and a note."""

    screenshot: str | None = None
    others: list[Json] = field(default_factory=list)
    notes: str | None = None

    @property
    def others_json(self) -> str | None:
        """Return the others as they are stored, None when there are none."""
        return orjson.dumps(self.others).decode() if self.others else None


async def saved_pictures(
    artifacts: Artifacts, key: StepKey | None, answer: Answer | None
) -> SavedPictures:
    """Store the pictures of an answer; one that cannot be stored is noted and fails nothing."""
    data = answer.raw.get("screenshot") if answer and answer.raw else None
    if answer is None or not data or key is None:
        return SavedPictures(notes=answer.notes if answer else None)
    saved = SavedPictures(notes=answer.notes)
    saved.screenshot = await _saved(artifacts, key, data, saved)
    if saved.screenshot is not None:
        await _save_others(artifacts, key, answer, saved)
    return saved


async def _save_others(
    artifacts: Artifacts, key: StepKey, answer: Answer, saved: SavedPictures
) -> None:
    for caption, data in answer.pictures:
        number = len(saved.others) + 1
        if await _saved(artifacts, key, data, saved, number):
            saved.others.append({"number": number, "caption": caption})


async def _saved(
    artifacts: Artifacts,
    key: StepKey,
    data: object,
    saved: SavedPictures,
    number: int | None = None,
) -> str | None:
    what = "The screenshot" if number is None else "A picture"
    try:
        return await artifacts.save(key.execution_id, key.attempt, key.step, data, number)
    except VptError as error:
        log.warning("screenshot_refused", execution_id=key.execution_id, error=error.message)
        saved.notes = f"{what} was left out: {error.message}."
    except OSError:
        log.exception("screenshot_lost", execution_id=key.execution_id)
        saved.notes = f"{what} could not be stored: see the server's log."
    return None
