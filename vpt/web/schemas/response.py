"""What responses share: their base, their fields, and the form of a refusal.

Most responses are JSON that PostgreSQL builds, which no schema dumps. These schemas describe it in
the OpenAPI document, and tests check the real responses against them. A schema of a whole response
is named ...Response; the document names it without that.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema
from marshmallow import fields as f

from vpt.model import Json
from vpt.web.schemas.fields import about

#: Values for the examples.
EXECUTION_ID, CAMPAIGN_EXECUTION_ID = "ex_5b0c7f1de2a94c38", "ce_1f2e3d4c5b6a7988"
TEST_CASE_ID, CAMPAIGN_ID = "tc_0123456789abcdef", "ca_fedcba9876543210"
EARLY, LATE = "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:04.200000Z"


class ResponseSchema(Schema):
    """A response: every field is present except those in `maybe`; clients ignore unknown ones."""

    class Meta:
        """A later version may add fields."""

        unknown = EXCLUDE

    maybe: ClassVar[frozenset[str]] = frozenset()
    example: ClassVar[Any] = None

    def on_bind_field(self, field_name: str, field_obj: f.Field[Any]) -> None:
        """Mark the field as required in the document."""
        field_obj.required = field_name not in self.maybe


def text(sentence: str = "", *, none: bool = False) -> f.String:
    """Build a field for a text."""
    return f.String(allow_none=none, metadata=about(sentence))


def moment(sentence: str = "", *, none: bool = False) -> f.DateTime:
    """Build a field for a point in time."""
    return f.DateTime(allow_none=none, metadata=about(sentence))


def whole(sentence: str = "", *, none: bool = False) -> f.Integer:
    """Build a field for a whole number."""
    return f.Integer(allow_none=none, metadata=about(sentence))


def number(sentence: str = "", *, none: bool = False) -> f.Float:
    """Build a field for a number."""
    return f.Float(allow_none=none, metadata=about(sentence))


def flag(sentence: str = "") -> f.Boolean:
    """Build a field for true or false."""
    return f.Boolean(metadata=about(sentence))


def one_of(choices: type[StrEnum], sentence: str = "", *, none: bool = False) -> f.Enum[StrEnum]:
    """Build a field for one value of an enum."""
    return f.Enum(choices, by_value=True, allow_none=none, metadata=about(sentence))


def words(sentence: str = "") -> f.List[str]:
    """Build a field for a list of texts."""
    return f.List(f.String(), metadata=about(sentence))


class ErrorResponse(ResponseSchema):
    """Why a request was refused."""

    error = text("One sentence for people.")
    code = text("The same for programs.")
    example: ClassVar[Json] = {"error": "The requested object does not exist.", "code": "not_found"}


class ErrorsResponse(ResponseSchema):
    """What is wrong with the fields of a body: messages by field, nested as the body is."""

    errors = f.Dict(keys=f.String())
    example: ClassVar[Json] = {"errors": {"name": ["Missing data for required field."]}}
