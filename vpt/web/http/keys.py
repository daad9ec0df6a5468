"""The typed keys under which the application and a request hold their parts."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.connections import Connections
from vpt.events import Events
from vpt.http_server import UnreadAnswers
from vpt.measures import LabelledHistograms
from vpt.store.artifacts import Artifacts
from vpt.store.audit import Audit
from vpt.store.db import Database
from vpt.store.tokens import Tokens, User
from vpt.web.http.refusals import Refusals
from vpt.web.http.supabase import Supabase

CONFIG = web.AppKey("config", Config)
DB = web.AppKey("db", Database)
LAB = web.AppKey("lab", Lab)
ARTIFACTS = web.AppKey("artifacts", Artifacts)
EVENTS = web.AppKey("events", Events)
#: How long requests took in seconds, by method, route and status.
REQUESTS = web.AppKey("requests", LabelledHistograms)
TOKENS = web.AppKey("tokens", Tokens)
CONNECTIONS = web.AppKey("connections", Connections)
AUDIT = web.AppKey("audit", Audit)
#: Which refused requests are logged and audited, and which are counted.
REFUSALS = web.AppKey("refusals", Refusals)
UNREAD = web.AppKey("unread_answers", UnreadAnswers)
#: Set only where users of a Supabase project may sign in.
SUPABASE = web.AppKey("supabase", Supabase)


@dataclass(frozen=True, slots=True)
class RefusedHost:
    """A host whose registration was refused; `name` None: it did not say one."""

    name: str | None
    reason: str


#: Set by routes of registrations, for the log.
REFUSED_HOST = web.RequestKey("refused_host", RefusedHost)
#: Set by the middleware on every route that needs a user; `auth.user_of` reads it.
USER = web.RequestKey("user", User)
