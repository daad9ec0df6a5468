"""Links to screenshots."""

from __future__ import annotations

from typing import ClassVar

from vpt.model import Json
from vpt.web.schemas.response import EXECUTION_ID, ResponseSchema, moment, text


class SignedLinkResponse(ResponseSchema):
    """A link to the screenshot that needs no token until it expires."""

    url = text()
    expires_at = moment()
    example: ClassVar[Json] = {
        "url": f"/screenshots/{EXECUTION_ID}/1/1.png?expires=1769864400&signature=0a1b",
        "expires_at": "2026-01-31T13:00:00Z",
    }
