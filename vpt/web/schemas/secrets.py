"""Named secrets."""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, validate, validates_schema
from marshmallow import fields as f

from vpt.masking import LONGEST_SECRET, SHORTEST_SECRET
from vpt.model import Json
from vpt.web.schemas.fields import about
from vpt.web.schemas.response import EARLY, ResponseSchema, moment, text


class SecretBody(Schema):
    """The value of a secret."""

    value = f.String(
        required=True,
        validate=validate.Length(SHORTEST_SECRET, LONGEST_SECRET),
        metadata=about(
            "Stored sealed and never shown again. Shorter ones are refused: their mask would"
            " destroy texts that only look like them."
        ),
    )
    example: ClassVar[Json] = {"value": "correct horse battery staple"}

    @validates_schema
    def _can_be_masked(self, data: dict[str, Any], **_: Any) -> None:
        if len(data["value"].strip()) < SHORTEST_SECRET:
            raise ValidationError("Expected more than blanks.", "value")
        if "\0" in data["value"]:
            raise ValidationError("Expected no NUL.", "value")


class SecretResponse(ResponseSchema):
    """A secret without its value: `${secret:NAME}` in steps and parameters refers to it."""

    name = text()
    created_by = text()
    updated_by = text("Who stored the present value.")
    created_at = moment()
    updated_at = moment()
    example: ClassVar[Json] = {
        "name": "tv-password",
        "created_by": "me",
        "updated_by": "me",
        "created_at": EARLY,
        "updated_at": EARLY,
    }


SECRET = SecretBody()
