"""What request bodies share."""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import Schema, pre_load
from marshmallow import fields as f

from vpt.model import Json
from vpt.web.schemas.fields import about


class StoredBody(Schema):
    """An object that may be sent back as it was read: read-only fields are dropped."""

    id = f.String(dump_only=True, metadata=about("Set by the server."))
    version = f.Integer(dump_only=True, metadata=about("Incremented by each PUT."))
    created_at = f.DateTime(dump_only=True, metadata=about("Set by the server."))
    updated_at = f.DateTime(dump_only=True, metadata=about("Set by the server."))

    @pre_load
    def _without_read_only(self, data: Json, **_: Any) -> Json:
        return {
            key: value
            for key, value in data.items()
            if key in self.load_fields or key not in self.fields
        }


class NothingBody(Schema):
    """No field at all: an empty body, or {}."""

    example: ClassVar[Json] = {}


NOTHING = NothingBody()
