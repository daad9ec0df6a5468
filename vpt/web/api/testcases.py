"""Routes of test cases."""

from __future__ import annotations

import secrets
from dataclasses import asdict

import structlog
from aiohttp import hdrs, web

from vpt.bounds import LONGEST_TEST_CASE
from vpt.device_models import to_columns
from vpt.errors import (
    ConflictError,
    KeyReusedError,
    NothingFitsError,
    PreconditionError,
    UnprocessableError,
)
from vpt.model import Json, RequestKey, Role, Submitted
from vpt.secret_steps import check_still_secret
from vpt.store.disk import DiskFullError
from vpt.store.seal import Sealer
from vpt.submission import prepare_execution
from vpt.web.http.auth import needs, secret_of, user_of
from vpt.web.http.idempotency import IDEMPOTENCY_KEY, once
from vpt.web.http.keys import DB, LAB
from vpt.web.http.lists import long_items
from vpt.web.http.operations import JSON, ResponseSpec, body_of, operation, page_of, query_of
from vpt.web.http.params import IF_MATCH, choice, etag, text
from vpt.web.http.requests import (
    found,
    json_response,
    json_text,
    no_content,
    path_id,
)
from vpt.web.schemas.executions import EXECUTE, SubmittedResponse
from vpt.web.schemas.testcases import (
    TEST_CASE,
    ListedTestCaseResponse,
    MoreFields,
    TestCaseResponse,
)

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

#: Why a valid request may not start anything.
NOT_STARTED = (
    UnprocessableError,
    NothingFitsError,
    KeyReusedError,
    ConflictError,
    DiskFullError,
)
_ONE = ResponseSpec({JSON: TestCaseResponse}, headers=(hdrs.ETAG,))


@routes.get("/api/testcases")
@needs(Role.VIEWER)
@operation(
    lists=ListedTestCaseResponse,
    query=(
        text("q", "Only those whose name contains this text."),
        text("device_model", "Only those for this device model.", example="desktop"),
        text("tag", "Only those with this tag.", example="smoke"),
        choice("fields", "`steps` adds the steps, which lists leave out.", MoreFields),
    ),
)
async def list_test_cases(request: web.Request) -> web.Response:
    """List test cases, newest first, with their steps where `fields` asks for them."""
    page, filters = page_of(request), query_of(request)
    steps = filters.pop("fields") is not None
    return await long_items(request.app[DB], "test_case_items", page, steps=steps, **filters)


@routes.post("/api/testcases")
@needs(Role.OPERATOR)
@operation(_ONE, 201, body=TEST_CASE, most=LONGEST_TEST_CASE)
async def create_test_case(request: web.Request) -> web.Response:
    """Create a test case."""
    test_case = _columns(await body_of(request))
    test_case_id = f"tc_{secrets.token_hex(8)}"
    parameters = test_case.pop("parameters")
    async with request.app[DB].transaction() as session:
        await session.row("insert_test_case", id=test_case_id, **test_case)
        if parameters:
            names = {"id": test_case_id, "parameters": parameters}
            await session.row("set_test_case_parameters", **names)
    return await _answer(request, test_case_id, 201)


@routes.get("/api/testcases/{id}")
@needs(Role.VIEWER)
@operation(_ONE)
async def get_test_case(request: web.Request) -> web.Response:
    """Show a test case, with its version as ETag."""
    return await _answer(request, path_id(request))


@routes.put("/api/testcases/{id}")
@needs(Role.OPERATOR)
@operation(
    _ONE,
    headers=(IF_MATCH,),
    body=TEST_CASE,
    most=LONGEST_TEST_CASE,
    refuses=(PreconditionError,),
)
async def put_test_case(request: web.Request) -> web.Response:
    """Replace a test case; with If-Match only when nobody changed it since you read it.

    400 for a secret parameter that its steps still use and that the body does not name: it stays
    one by `{"secret": true}` and ends being one by `{"secret": false}`.
    """
    db, test_case_id = request.app[DB], path_id(request)
    found(await db.row("test_case_item", id=test_case_id))
    test_case = _columns(await body_of(request))
    versions = IF_MATCH.of(request.headers)
    parameters = test_case.pop("parameters")
    async with db.transaction() as session:
        done = await session.row(
            "update_test_case", id=test_case_id, versions=versions, **test_case
        )
        if done is None:
            raise PreconditionError
        check_still_secret(done["parameters"], parameters, test_case["steps"])
        await session.row("set_test_case_parameters", id=test_case_id, parameters=parameters)
    return await _answer(request, test_case_id)


@routes.delete("/api/testcases/{id}")
@needs(Role.OPERATOR)
@operation(None, 204, headers=(IF_MATCH,), refuses=(ConflictError, PreconditionError))
async def delete_test_case(request: web.Request) -> web.Response:
    """Delete a test case that no campaign uses; its executions are kept."""
    db, test_case_id = request.app[DB], path_id(request)
    found(await db.row("test_case_item", id=test_case_id))
    if (
        await db.row("delete_test_case", id=test_case_id, versions=IF_MATCH.of(request.headers))
        is None
    ):
        raise PreconditionError
    return no_content()


@routes.post("/api/testcases/{id}/execute")
@needs(Role.OPERATOR)
@operation(
    SubmittedResponse,
    202,
    headers=(IDEMPOTENCY_KEY,),
    body=EXECUTE,
    refuses=NOT_STARTED,
)
async def execute_test_case(request: web.Request) -> web.Response:
    """Run a test case now, or as soon as a device that fits is free."""
    db, test_case_id = request.app[DB], path_id(request)

    async def start(key: RequestKey | None) -> web.Response:
        test_case = found(await db.row("test_case_to_run", id=test_case_id))
        wanted = await body_of(request)
        sealer, user_id = Sealer(secret_of(request.app)), user_of(request).user_id
        new = await prepare_execution(db, sealer, test_case, wanted, user_id)
        submitted = await request.app[LAB].executions.submit(new, key)
        return json_response(asdict(submitted), 202)

    async def again(execution_id: str) -> web.Response:
        row = found(await db.row("execution_status", execution_id=execution_id))
        known = Submitted(execution_id, row["status"], row["host_id"], row["device_id"])
        return json_response(asdict(known), 202)

    return await once(request, start, again)


def _columns(test_case: Json) -> Json:
    """Return a body as it is stored."""
    return test_case | to_columns(test_case["device_model"])


async def _answer(request: web.Request, test_case_id: str, status: int = 200) -> web.Response:
    row = found(await request.app[DB].row("test_case_item", id=test_case_id))
    return json_text(row["item"], status, etag=etag(row["version"]))
