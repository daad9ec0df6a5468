"""Secrets: the host gets them, and nobody else, whatever the host says."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import socketio
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace as struct_replace

from tests.actors.fake_host import until
from tests.conftest import JOIN_TOKEN, Client, ClientFactory, token
from tests.web.kit import FakeHost, got, made, refused, test_case
from vpt.actors.lab import Lab
from vpt.actors.messages import NoAnswer
from vpt.actors.secrets import masked
from vpt.bounds import LONGEST_REASON
from vpt.config import Config
from vpt.dialects.base import CUT, MAX_TEXT, HostTroubleError, Trouble, clean
from vpt.dialects.document import DocumentDialect
from vpt.dialects.http import LONGEST_WHY, raise_for_status
from vpt.events import Events
from vpt.masking import Masker
from vpt.model import Answer, HostTrouble, Json, Presence, Role, TroubleKind
from vpt.store.db import Database
from vpt.web.app import make_app

WRONG_SECRET = HostTrouble(TroubleKind.CREDENTIAL, "answers 401")
PASSWORD, KEY = "hunter2-and-more", "kept-by-an-admin"
PARAMETERS = {"password": {"secret": True}, "user": {}}
STEPS = [
    {"command": "log_in", "params": {"as": "${user}", "password": "${password}"}},
    {"command": "press_key", "key": "${secret:key}"},
]


@pytest.fixture
async def admin(client: ClientFactory) -> Client:
    admin = await client(Role.ADMIN)
    async with admin.put("/api/secrets/key", json={"value": KEY}) as response:
        assert response.status == 200, await response.text()
        assert KEY not in await response.text()
    return admin


def tells_all(_: Any) -> dict[str, Any]:
    """Answer as a host that says all that it was sent, in each form."""
    said = f"{PASSWORD} {json.dumps(KEY)} {base64.b64encode(f'u:{PASSWORD}'.encode()).decode()}"
    return {"success": True, "output": said, "error": said, "screenshot": None, "echo": said}


async def ended(client: Client, execution_id: str) -> dict[str, Any]:
    return await got(client, f"/api/executions/{execution_id}", wait=20)


async def stored(db: Database) -> str:
    """Return all rows of the database as text."""
    async with db.session() as session:
        connection = session._connection
        names = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        rows = [
            row[0]
            for (name,) in names
            for row in await connection.fetch(f"SELECT t::text FROM {name} t")
        ]
    return "\n".join(rows)


async def test_only_the_host_is_told(
    operator: Client,
    admin: Client,
    host: FakeHost,
    db: Database,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host.answer = tells_all
    case = await made(operator, "/api/testcases", test_case(steps=STEPS, parameters=PARAMETERS))
    assert case["parameters"] == {"password": {"secret": True}, "user": {"secret": False}}
    events: list[Any] = []
    io = socketio.AsyncClient(reconnection=False)
    io.on("*", lambda *words: events.append(words))
    await io.connect(str(operator.make_url("/")), auth={"token": token(Role.VIEWER)})
    host.gate.clear()
    parameters = {"password": PASSWORD, "user": f"me:{PASSWORD}"}
    body = {"parameters": parameters}
    run = await made(operator, f"/api/testcases/{case['id']}/execute", body)
    assert PASSWORD not in await stored(db)  # while it runs, too
    host.gate.set()
    item = await ended(operator, run["execution_id"])
    await io.disconnect()
    assert item["status"] == "completed"
    assert host.seen[0]["params"] == {"as": f"me:{PASSWORD}", "password": PASSWORD}
    assert host.seen[1]["key"] == KEY
    assert item["parameters"] == {"password": "***", "user": "me:***"}
    assert item["steps"][0]["step"]["params"] == {"as": "me:***", "password": "***"}
    assert item["steps"][1]["step"]["key"] == "***"
    assert item["steps"][0]["output"].startswith('*** "***" ')
    output = f"/api/executions/{run['execution_id']}/attempts/1/steps/2/output"
    whole = json.dumps(item) + await (await operator.get(output)).text() + str(events)
    whole += await (await operator.get(f"/api/executions/{run['execution_id']}/junit")).text()
    whole += "".join(capsys.readouterr()) + await stored(db)
    for value in (PASSWORD, KEY, base64.b64encode(PASSWORD.encode()).decode()[2:-4]):
        assert value not in whole
    async with db.session() as session:
        kept = "SELECT secret_steps, sealed_values FROM test_executions"
        assert {tuple(row) for row in await session._connection.fetch(kept)} == {(None, None)}


async def test_a_refusal_of_the_host_is_masked_and_a_retry_has_the_values(
    operator: Client, admin: Client, host: FakeHost
) -> None:
    answers = iter([False, True, True])
    host.answer = lambda _: {"success": next(answers), "error": f"wrong: {PASSWORD}"}
    case = test_case(steps=STEPS, parameters=PARAMETERS, test_retries=1)
    case = await made(operator, "/api/testcases", case)
    body = {"parameters": {"password": PASSWORD, "user": "me"}}
    run = await made(operator, f"/api/testcases/{case['id']}/execute", body)
    item = await ended(operator, run["execution_id"])
    assert (item["status"], item["attempt"]) == ("completed", 2)
    assert [attempt["status"] for attempt in item["attempts"]] == ["failed", "completed"]
    assert PASSWORD not in json.dumps(item)
    assert [step["params"]["password"] for step in host.seen[:2]] == [PASSWORD, PASSWORD]


async def test_a_secret_that_vanished_ends_the_run_honestly(
    operator: Client, admin: Client, host: FakeHost, db: Database
) -> None:
    case = await made(operator, "/api/testcases", test_case(steps=[{"command": "x"}, STEPS[1]]))
    host.gate.clear()
    run = await made(operator, f"/api/testcases/{case['id']}/execute", {})
    async with admin.delete("/api/secrets/key") as response:
        assert response.status == 204
    host.gate.set()
    item = await ended(operator, run["execution_id"])
    assert (item["status"], item["error_kind"], item["attempt"]) == ("error", "config", 1)
    assert "There is no secret key any more" in item["error"]
    assert len(host.seen) == 1
    held = "SELECT 1 FROM execution_attempts WHERE released_at IS NULL"
    async with db.session() as session:  # nothing was sent, so the device waits for nothing
        assert await session._connection.fetch(held) == []
    status, answer = await refused(
        operator, "POST", f"/api/testcases/{case['id']}/execute", json={}
    )
    assert status == 422
    assert "There is no secret key." in json.dumps(answer)


async def test_only_admins_write_and_nobody_reads(
    operator: Client, viewer: Client, admin: Client
) -> None:
    assert (await refused(operator, "PUT", "/api/secrets/key", json={"value": "x" * 9}))[0] == 403
    assert (await refused(operator, "DELETE", "/api/secrets/key"))[0] == 403
    assert (await refused(viewer, "GET", "/api/secrets"))[0] == 403
    item = await got(operator, "/api/secrets/key")
    assert item.keys() == {"name", "created_by", "updated_by", "created_at", "updated_at"}
    assert (await got(operator, "/api/secrets"))["items"] == [item]
    for body in ({"value": "short"}, {"value": "      "}, {"value": 1}, {}, {"value": "x" * 4097}):
        status, answer = await refused(admin, "PUT", "/api/secrets/new", json=body)
        assert status == 400
        assert str(body.get("value", "?")) not in json.dumps(answer)
    assert (await refused(admin, "PUT", "/api/secrets/a b", json={"value": KEY}))[0] in {400, 404}
    assert (await refused(admin, "DELETE", "/api/secrets/none"))[0] == 404
    audit = json.dumps(await got(admin, "/api/audit"))
    assert "/api/secrets/key" in audit
    assert KEY not in audit


async def test_a_campaign_has_references_and_no_values(
    operator: Client, admin: Client, host: FakeHost, db: Database
) -> None:
    case = await made(operator, "/api/testcases", test_case(steps=STEPS, parameters=PARAMETERS))

    def campaign(password: str) -> dict[str, Any]:
        entry = {"password": password, "user": "me"}
        return {"name": "c", "test_cases": [{"test_case_id": case["id"], "parameters": entry}]}

    status, answer = await refused(operator, "POST", "/api/campaigns", json=campaign(PASSWORD))
    assert status == 400
    assert "${secret:NAME}" in json.dumps(answer)
    assert PASSWORD not in json.dumps(answer)
    unknown = await made(operator, "/api/campaigns", campaign("${secret:unknown}"))
    path = f"/api/campaigns/{unknown['id']}/execute"
    assert (await refused(operator, "POST", path, json={}))[0] == 422
    good = await made(operator, "/api/campaigns", campaign("${secret:key}"))
    run = await made(operator, f"/api/campaigns/{good['id']}/execute", {})
    path = f"/api/campaign-executions/{run['campaign_execution_id']}"
    over = await got(operator, path, wait=20)
    assert over["status"] == "completed", over
    assert host.seen[0]["params"]["password"] == KEY
    assert KEY not in json.dumps(over) + await stored(db)


async def test_values_survive_a_restart_of_the_server(
    operator: Client,
    admin: Client,
    host: FakeHost,
    config: Config,
    dsn: str,
    lab: Lab,
    events: Events,
) -> None:
    case = await made(operator, "/api/testcases", test_case(steps=STEPS, parameters=PARAMETERS))
    host.gate.clear()
    path, body = f"/api/testcases/{case['id']}/execute", {"password": PASSWORD, "user": "me"}
    runs = [await made(operator, path, {"parameters": body}) for _ in range(2)]
    await until(lambda: host.seen)  # the first one runs, the second one is queued
    await lab.stop()
    db, dialect = Database(dsn), DocumentDialect()
    await db.open()
    next_lab = Lab(config, db, events, dialect)
    await next_lab.start()
    host.gate.set()
    next_server = TestServer(make_app(config, db, next_lab, events))
    async with TestClient(next_server, headers=operator.session.headers) as client:
        for run in runs:
            item = await ended(client, run["execution_id"])
            assert (item["status"], item["parameters"]["password"]) == ("completed", "***")
    await next_lab.stop()
    await dialect.close()
    await db.close()
    sent = [action["params"]["password"] for action in host.seen if action["step"] == 1]
    assert set(sent) == {PASSWORD}
    assert [action["key"] for action in host.seen if action["step"] == 2] == [KEY, KEY]


@pytest.mark.parametrize("size", [1, 100_000])
async def test_what_a_host_says_instead_of_an_answer_is_masked(size: int) -> None:
    masker, said = Masker([PASSWORD]), f"{'x' * size} {PASSWORD}"
    refusal = await masked(NoAnswer(Trouble.HOST_REFUSED, said), masker)
    answer = await masked(Answer(success=False, output=said, error=said), masker)
    assert refusal == NoAnswer(Trouble.HOST_REFUSED, f"{'x' * size} ***")
    assert answer == Answer(success=False, output=refusal.error, error=refusal.error)


async def test_what_a_step_printed_before_its_host_failed_is_masked() -> None:
    raw = {"output": f"with {PASSWORD}", "error": PASSWORD, "list": [PASSWORD], PASSWORD: 1}
    said = Answer(success=False, output=f"with {PASSWORD}", error=PASSWORD, raw=raw)
    shown = {"output": "with ***", "error": "***", "list": ["***"], "***": 1}
    refusal = await masked(NoAnswer(Trouble.HOST_ERROR, "no", answer=said), Masker([PASSWORD]))
    wanted = Answer(success=False, output="with ***", error="***", raw=shown)
    assert refusal == NoAnswer(Trouble.HOST_ERROR, "no", answer=wanted)


async def test_what_a_host_says_of_its_device_is_masked_and_the_rest_of_its_answer_stays() -> None:
    masker, long = Masker([PASSWORD]), "x" * (LONGEST_REASON - 4)
    for said, shown in (
        (f"not {PASSWORD}", "not ***"),
        (long + PASSWORD[:4], f"{long}***"),
        (None, None),
    ):
        told, wanted = (
            Presence(available=False, reason=said),
            Presence(available=False, reason=shown),
        )
        refusal = NoAnswer(Trouble.HOST_REFUSED, "no", WRONG_SECRET, presence=told)
        assert await masked(refusal, masker) == struct_replace(refusal, presence=wanted)
        answer = Answer(success=False, presence=told)
        assert await masked(answer, masker) == Answer(success=False, presence=wanted)


async def test_what_a_host_says_of_its_devices_after_a_run_is_masked(
    operator: Client, admin: Client, host: FakeHost, db: Database
) -> None:
    case = await made(operator, "/api/testcases", test_case(steps=STEPS, parameters=PARAMETERS))
    body = {"parameters": {"password": PASSWORD, "user": "me"}}
    run = await made(operator, f"/api/testcases/{case['id']}/execute", body)
    assert (await ended(operator, run["execution_id"]))["status"] == "completed"
    said = f"cannot log in as me:{PASSWORD} with {KEY}"
    away = {"available": False, "reason": said, "properties": {"last": said}}
    name = (await got(operator, "/api/hosts"))["items"][0]["id"]
    headers = {"Authorization": f"Bearer {JOIN_TOKEN}"}
    for devices in ({"tv-1": away}, {"tv-1": {**away, "properties": {"last": f"again {said}"}}}):
        told = {"devices": devices}
        async with operator.post(
            f"/api/hosts/{name}/heartbeat", json=told, headers=headers
        ) as response:
            assert response.status == 200, await response.text()
    shown = json.dumps(await got(operator, "/api/devices")) + await stored(db)
    assert "as me:*** with ***" in shown
    assert PASSWORD not in shown
    assert KEY not in shown


async def test_a_value_at_the_edge_of_a_cut_output_is_masked() -> None:
    said = clean("x" * (MAX_TEXT - 8) + PASSWORD)
    answer = await masked(Answer(success=True, output=said), Masker([PASSWORD]))
    assert isinstance(answer, Answer)
    assert answer.output == "x" * (MAX_TEXT - 8) + f"***{CUT}"


async def test_a_value_at_the_edge_of_a_shortened_reason_is_masked() -> None:
    with pytest.raises(HostTroubleError) as refused:
        raise_for_status(400, {"error": "x" * (LONGEST_WHY - 8) + PASSWORD})
    said = NoAnswer(Trouble.HOST_REFUSED, refused.value.message)
    refusal = await masked(said, Masker([PASSWORD]))
    assert isinstance(refusal, NoAnswer)
    assert refusal.error == f"The host refused it: {'x' * (LONGEST_WHY - 8)}***…"


@pytest.mark.parametrize("said", [{}, {"parameters": {}}, {"parameters": {"user": {}}}])
async def test_a_secret_parameter_stays_one_until_somebody_says_otherwise(
    operator: Client, said: Json
) -> None:
    case = await made(operator, "/api/testcases", test_case(steps=STEPS, parameters=PARAMETERS))
    path = f"/api/testcases/{case['id']}"
    async with operator.put(path, json=test_case(steps=STEPS, **said)) as response:
        assert response.status == 400
        assert "not named here: password." in await response.text()
    async with operator.get(path) as response:
        assert (await response.json())["version"] == 1
    body = test_case(steps=[{"command": "press_key"}], **said)
    async with operator.put(path, json=body) as response:
        assert response.status == 200, "it is used no more"
    async with operator.put(path, json=case) as response:
        assert (await response.json())["parameters"]["password"] == {"secret": True}
    plain = test_case(steps=STEPS, parameters={"password": {"secret": False}})
    async with operator.put(path, json=plain) as response:
        assert (await response.json())["parameters"] == plain["parameters"]


ACTION = {"device_id": "tv-1", "command": "log_in", "action_type": "remote"}


async def test_a_manual_action_has_named_secrets_and_its_answer_has_not(
    operator: Client, admin: Client, host: FakeHost, db: Database
) -> None:
    host.answer = lambda action: {**tells_all(action), "more": [{KEY: f"{KEY} of {action}"}]}
    params = {"pin": "${secret:key}", "text": "a${secret:key}b ${other} $${secret:key}"}
    result = await operator.post("/api/hosts/host-1/execute", json={**ACTION, "params": params})
    answer = await result.text()
    assert result.status == 200, answer
    assert host.seen[-1]["params"] == {
        "pin": KEY,
        "text": f"a{KEY}b ${{other}} $${{secret:key}}",
    }
    assert KEY not in answer + await stored(db)
    assert json.loads(answer)["result"]["more"][0].keys() == {"***"}
    sent = len(host.seen)
    unknown = {**ACTION, "params": {"pin": "${secret:none}"}}
    status, refusal = await refused(operator, "POST", "/api/hosts/host-1/execute", json=unknown)
    assert (status, len(host.seen)) == (422, sent)
    assert "There is no secret none," in json.dumps(refusal)
    for many in ("${secret:key}" * 5000, "".join(f"${{secret:s{n}}}" for n in range(51))):
        body = {**ACTION, "params": {"pin": many}}
        status, refusal = await refused(operator, "POST", "/api/hosts/host-1/execute", json=body)
        assert (status, len(host.seen)) == (400, sent)
        assert "50 secrets at most" in json.dumps(refusal)


@asynccontextmanager
async def unreadable_secrets(dsn: str) -> AsyncIterator[None]:
    """Let statements that read secrets wait, as for a database that does not answer."""
    other = await asyncpg.connect(dsn)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE secrets IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await other.close()


async def test_a_step_without_its_secrets_is_no_step_that_took_too_long(
    operator: Client, admin: Client, host: FakeHost, dsn: str, db: Database
) -> None:
    steps = [{"command": "x"}, {**STEPS[1], "timeout_s": 0.5}]
    case = await made(operator, "/api/testcases", test_case(steps=steps))
    host.gate.clear()
    run = await made(operator, f"/api/testcases/{case['id']}/execute", {})
    async with unreadable_secrets(dsn):
        host.gate.set()
        statement = "SELECT count(*) FROM execution_attempts WHERE status = 'error'"
        async with db.session() as session:
            async with asyncio.timeout(60):
                while await session._connection.fetchval(statement) == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
    item = await ended(operator, run["execution_id"])
    first = item["attempts"][0]
    assert (first["status"], first["error_kind"]) == ("error", "internal")
    assert "The database did not return the secrets" in first["error"]
    assert (item["status"], host.seen[-1]["key"]) == ("completed", KEY)


async def test_an_action_without_its_secrets_says_so(
    operator: Client, admin: Client, host: FakeHost, dsn: str
) -> None:
    action = {**ACTION, "params": {"pin": "${secret:key}"}, "timeout_s": 0.2}
    async with unreadable_secrets(dsn):
        status, answer = await refused(operator, "POST", "/api/hosts/host-1/execute", json=action)
    assert (status, host.seen) == (503, [])
    assert "The database did not return the secrets" in json.dumps(answer)


async def test_the_time_of_a_step_begins_when_it_is_sent(
    operator: Client, admin: Client, host: FakeHost, dsn: str, lab: Lab
) -> None:
    steps = [{"command": "x"}, {**STEPS[1], "timeout_s": 60}]
    case = await made(operator, "/api/testcases", test_case(steps=steps))
    loop, waits = asyncio.get_running_loop(), 0.5
    host.gate.clear()
    run = await made(operator, f"/api/testcases/{case['id']}/execute", {})
    alarms = lab._supervisor._actors["host-1"]._alarms
    first = alarms["step:host-1:tv-1"]
    async with unreadable_secrets(dsn):
        host.gate.set()
        await until(lambda: alarms.get("step:host-1:tv-1", first) is not first)
        asked = loop.time()
        await until(lambda: loop.time() > asked + waits)
        host.gate.clear()
        readable = loop.time()
    await until(lambda: len(host.seen) > 1)
    assert alarms["step:host-1:tv-1"].when() > readable + 60 - waits / 2
    host.gate.set()
    assert (await ended(operator, run["execution_id"]))["status"] == "completed"
