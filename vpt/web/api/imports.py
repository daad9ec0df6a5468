"""The route that stores history of another system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from aiohttp import web

from vpt.model import Json, Role
from vpt.web.http.auth import needs, user_of
from vpt.web.http.keys import DB
from vpt.web.http.operations import body_of, operation
from vpt.web.http.requests import json_response
from vpt.web.schemas.imports import IMPORT, LONGEST_IMPORT, ImportedResponse

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

#: Columns of `import_executions`, and the fields that they are made of.
_COLUMNS = {
    "test_case_ids": "test_case_id",
    "names": "test_case_name",
    "device_models": "device_model",
    "host_ids": "host_id",
    "device_ids": "device_id",
    "statuses": "status",
    "errors": "error",
    "outputs": "output",
    "started_at": "started_at",
    "completed_at": "completed_at",
}


@routes.post("/api/executions/import")
@needs(Role.ADMIN)
@operation(ImportedResponse, body=IMPORT, most=LONGEST_IMPORT)
async def import_executions(request: web.Request) -> web.Response:
    """Store finished executions of another system as history.

    An execution's id here is made of its source and its id there: those that were imported before
    stay as they are. They are listed, counted and deleted by age as all others, and marked by
    `imported_from`.
    """
    body = await body_of(request)
    source, given = body["source"], body["executions"]
    imported = await request.app[DB].value(
        "import_executions",
        ids=[f"{source}_{item['id']}" for item in given],
        source=source,
        user_id=user_of(request).user_id,
        **_columns_of(given),
    )
    log.info("executions_imported", source=source, imported=imported, known=len(given) - imported)
    return json_response({"imported": imported, "known": len(given) - imported})


def _columns_of(given: Sequence[Json]) -> dict[str, list[Any]]:
    return {column: [item[field] for item in given] for column, field in _COLUMNS.items()}
