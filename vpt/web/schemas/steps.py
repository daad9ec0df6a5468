"""The fields of a step that the server itself reads; all others are for the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError
from marshmallow import fields as f

from vpt.model import Json
from vpt.steps import STEP_KEYS, KeyRule, step_errors
from vpt.web.schemas import fields


def _field(key: KeyRule) -> f.Field[Any]:
    """Build the field that describes one of the server's keys of a step."""
    if key.kind == "boolean":
        return fields.Flag(metadata=fields.about(key.about))
    if key.kind == "integer":
        return fields.bounded(key.about, int(key.lowest), int(key.highest))
    return fields.seconds(key.about, zero=not key.above_lowest)


#: For the API's description; `vpt.steps` checks these keys.
STEP_FIELDS: Mapping[str, f.Field[Any]] = {name: _field(key) for name, key in STEP_KEYS.items()}

#: A parameter, as JSON Schema has it: it may replace the value of any of these fields.
PARAMETER: Json = {"type": "string", "pattern": r"^\$\{[^{}]+\}$"}


class Step(f.Dict):
    """A step as a JSON object, of which only STEP_FIELDS are checked."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if errors := step_errors(value, filled_in=False):
            raise ValidationError(errors)
        return value
