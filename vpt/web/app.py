"""The web application: its parts, wired together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp_cors
from aiohttp import web

from vpt.bounds import LONGEST_BODY
from vpt.config import Config
from vpt.events import Events
from vpt.http_server import answer_expectations, hide_versions
from vpt.store.artifacts import Artifacts
from vpt.store.db import Database
from vpt.web import pages
from vpt.web.api import (
    by_hand,
    campaigns,
    devices,
    executions,
    hosts,
    imports,
    junit,
    metrics,
    screenshots,
    secrets,
    system,
    testcases,
    tokens,
    virtualpytest,
)
from vpt.web.docs import documents
from vpt.web.http.keys import ARTIFACTS, CONFIG, DB, EVENTS, LAB
from vpt.web.http.middlewares import REQUEST_ID, expectation_refused, gate
from vpt.web.http.prefix import PrefixResource
from vpt.web.live import sockets

if TYPE_CHECKING:
    from vpt.actors.lab import Lab

RESOURCES = (
    *(system, metrics, testcases, imports, executions, campaigns, junit),
    *(hosts, virtualpytest, devices, by_hand, screenshots, secrets, tokens, documents, pages),
)
#: Seconds for which a browser may cache the answer to a preflight request.
PREFLIGHT_AGE = 600
EXPOSED = ("ETag", "Retry-After", REQUEST_ID)


def make_app(config: Config, db: Database, lab: Lab, events: Events) -> web.Application:
    """Build the application; the caller opens and closes the arguments."""
    hide_versions()
    app = web.Application(middlewares=[gate], client_max_size=min(config.max_body, LONGEST_BODY))
    app[CONFIG], app[DB], app[LAB], app[EVENTS] = config, db, lab, events
    app[ARTIFACTS] = Artifacts(config.vpt_data_dir)
    tokens.setup(app)
    system.setup(app)
    metrics.setup(app)
    documents.setup(app)
    for resource in RESOURCES:
        app.add_routes(resource.routes)
    _allow_origins(app, config.origins)
    answer_expectations(app, expectation_refused)
    sockets.attach(app)  # after CORS, which Socket.IO handles itself
    app.router.register_resource(PrefixResource(app.router, config))
    return app


def _allow_origins(app: web.Application, origins: tuple[str, ...]) -> None:
    if not origins:
        return
    options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]
        expose_headers=EXPOSED, allow_headers="*", max_age=PREFLIGHT_AGE
    )
    cors = aiohttp_cors.setup(app, defaults=dict.fromkeys(origins, options))
    for route in list(app.router.routes()):
        cors.add(route)
