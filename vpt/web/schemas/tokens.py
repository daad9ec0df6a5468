"""Tokens and the audit."""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, validate, validates_schema
from marshmallow import fields as f

from vpt.model import Json, Role
from vpt.store.tokens import HOST_NAME
from vpt.web.schemas.fields import Number, about, title
from vpt.web.schemas.response import EARLY, ResponseSchema, moment, one_of, text, whole

MOST_DAYS = 3650.0


class TokenBody(Schema):
    """The token to create."""

    name = title("The user name that requests with this token act as.")
    role = f.Enum(
        Role,
        by_value=True,
        load_default=Role.OPERATOR,
        metadata=about("What the token allows; `host` is the role of a host's own token."),
    )
    host_id = f.String(
        load_default=None,
        allow_none=True,
        validate=validate.Regexp(rf"(?:{HOST_NAME.pattern})\Z"),
        metadata=about(
            "The host that uses the token; required with role `host`, refused with any other."
        ),
    )
    days = Number(
        load_default=None,
        allow_none=True,
        validate=validate.Range(0, MOST_DAYS, min_inclusive=False),
        metadata=about("Days until it expires. Default: 30, or never with role `host`."),
    )

    example: ClassVar[Json] = {"name": "nightly", "role": "operator", "days": 90}

    @validates_schema
    def _names_its_host(self, data: dict[str, Any], **_: Any) -> None:
        if not data["name"].isprintable():
            raise ValidationError("Expected printable characters.", "name")
        if (data["role"] is Role.HOST) != (data["host_id"] is not None):
            raise ValidationError("Required with role host, and only with that.", "host_id")


class TokenResponse(ResponseSchema):
    """A stored token, without the secret text of it."""

    id = text()
    name = text(none=True)
    role = one_of(Role)
    host_id = text("With role `host`: the host that uses it.", none=True)
    created_by = text(none=True)
    created_at = moment()
    expires_at = moment(none=True)
    last_used_at = moment("Precise to a minute.", none=True)
    example: ClassVar[Json] = {
        "id": "tk_0f1e2d3c4b5a6978",
        "name": "nightly",
        "role": "operator",
        "host_id": None,
        "created_by": "me",
        "created_at": EARLY,
        "expires_at": "2026-03-02T12:00:00.000000Z",
        "last_used_at": None,
    }


class NewTokenResponse(TokenResponse):
    """The new token, with the text to send; it is never shown again."""

    token = text()
    example: ClassVar[Json] = {**TokenResponse.example, "token": "eyJhbGciOiJIUzI1NiIs..."}


class AuditEntryResponse(ResponseSchema):
    """One request that could have changed something."""

    id = text()
    at = moment()
    user_id = text()
    role = one_of(Role)
    token_id = text(none=True)
    method = text()
    route = text()
    path = text()
    status = whole()
    peer = text()
    request_id = text()
    count = whole("More than 1: so many refused requests of the user, of which this is the last.")
    example: ClassVar[Json] = {
        "id": "0000018d5f2c",
        "at": EARLY,
        "user_id": "me",
        "role": "admin",
        "token_id": None,
        "method": "DELETE",
        "route": "/api/hosts/{id}",
        "path": "/api/hosts/pi-1",
        "status": 204,
        "peer": "10.0.0.9",
        "request_id": "6f1e0a9b00000001",
        "count": 1,
    }


TOKEN = TokenBody()
