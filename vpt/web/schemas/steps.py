"""The fields of a step that the server itself reads; all others are for the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import ValidationError
from marshmallow import fields as f

from vpt.bounds import MOST_STEP_RETRIES
from vpt.errors import InvalidError
from vpt.model import Json
from vpt.parameters import is_name
from vpt.web.schemas import fields

STEP_FIELDS: Mapping[str, f.Field[Any]] = {
    "timeout_s": fields.seconds("Seconds that the step may take."),
    "retries": fields.bounded(
        "How often the step is repeated when the host reports that it failed.",
        0,
        MOST_STEP_RETRIES,
    ),
    "continue_on_failure": fields.Flag(
        metadata=fields.about(
            "Go on with the next step when this one failed; the execution is still `failed`."
        )
    ),
    "delay_s": fields.seconds("Seconds to wait before the step.", zero=True),
}

#: A parameter, as JSON Schema has it: it may replace the value of any of these fields.
PARAMETER: Json = {"type": "string", "pattern": r"^\$\{[^{}]+\}$"}


def step_errors(step: Json, *, filled_in: bool) -> dict[str, Any]:
    """Return what is wrong with STEP_FIELDS; `${name}` is allowed until it is filled in."""
    errors = {}
    for key, field in STEP_FIELDS.items():
        if key not in step or (not filled_in and is_name(step[key])):
            continue
        try:
            field.deserialize(step[key])
        except ValidationError as error:
            errors[key] = error.messages
    return errors


def check_steps(steps: Sequence[Json]) -> None:
    """Raise InvalidError when parameters filled in a value that STEP_FIELDS do not allow."""
    errors: dict[int, object] = {
        index: wrong
        for index, step in enumerate(steps)
        if (wrong := step_errors(step, filled_in=True))
    }
    if errors:
        raise InvalidError({"steps": errors})


class Step(f.Dict):
    """A step as a JSON object, of which only STEP_FIELDS are checked."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if errors := step_errors(value, filled_in=False):
            raise ValidationError(errors)
        return value
