"""What the application and a request carry, by typed keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from vpt.config import Config
from vpt.events import Events
from vpt.measures import LabelledHistograms
from vpt.model import Role
from vpt.store.artifacts import Artifacts
from vpt.store.audit import Audit
from vpt.store.db import Database
from vpt.store.tokens import Tokens

if TYPE_CHECKING:
    from vpt.actors.lab import Lab
    from vpt.web.http.supabase import Supabase


@dataclass(frozen=True, slots=True)
class User:
    """Who asks; `expires_at` is in seconds since the epoch, None when the token never ends.

    With role host, `user_id` is the id of the host that the token speaks for. A token that can be
    revoked has an id.
    """

    user_id: str
    role: Role
    expires_at: float | None
    token_id: str | None = None


CONFIG = web.AppKey("config", Config)
DB = web.AppKey("db", Database)
LAB: web.AppKey[Lab] = web.AppKey("lab")
ARTIFACTS = web.AppKey("artifacts", Artifacts)
EVENTS = web.AppKey("events", Events)
#: Seconds that requests took, by method, route and status.
REQUESTS = web.AppKey("requests", LabelledHistograms)
TOKENS = web.AppKey("tokens", Tokens)
AUDIT = web.AppKey("audit", Audit)
#: Set where people of a Supabase project may sign in.
SUPABASE: web.AppKey[Supabase] = web.AppKey("supabase")

#: Set by the middleware on every route that needs a user; `auth.user_of` reads it.
USER = web.RequestKey("user", User)
