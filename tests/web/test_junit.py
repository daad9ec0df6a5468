"""Reports for CI: JUnit XML that the common schema and parser take, and that tells the truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import xmlschema
from junitparser import Error, Failure, Skipped
from junitparser import xunit2 as x

from tests.conftest import Client
from tests.web.kit import FakeHost, got, made, refused, test_case
from tests.web.test_campaigns import campaign, executed
from vpt.config import Config
from vpt.store.artifacts import Artifacts
from vpt.store.db import Database
from vpt.store.prune import Ages, Pruning

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).parents[1] / "data" / "junit-10.xsd"))


async def report(client: Client, path: str, **params: Any) -> x.TestSuite:
    """Return the one suite of a report that holds to the schema."""
    response = await client.get(f"{path}/junit", params=params)
    assert (response.status, response.content_type) == (200, "application/xml")
    text = await response.text()
    SCHEMA.validate(text)
    (suite,) = x.JUnitXml.fromstring(text.encode())
    return suite


async def run(client: Client, **changes: Any) -> tuple[str, x.TestCase]:
    """Run a test case to its end; give its path and its case of the report."""
    case = await made(client, "/api/testcases", test_case(**changes))
    begun = await made(client, f"/api/testcases/{case['id']}/execute", {})
    path = f"/api/executions/{begun['execution_id']}"
    (reported,) = await report(client, path, wait="30")
    return path, reported


async def test_a_passed_test_has_its_time_its_place_and_its_steps(
    operator: Client, host: FakeHost
) -> None:
    host.answer = lambda action: {"success": True, "output": f"did {action['command']}"}
    path, case = await run(operator)
    assert (case.result, case.interim_result) == ([], [])
    assert (case.name, case.classname) == ("Start the app", "Start the app")
    done = await got(operator, path)
    assert case.time == round(done["duration_s"], 3)
    assert "attempt 1 on host-1:tv-1 of host host-1: completed" in case.system_out
    assert "step 2, press_key: passed" in case.system_out
    assert "did press_key" in case.system_out
    suite = await report(operator, path)
    named = {one.name: one.value for one in suite.properties()}
    assert named == {
        "execution_id": done["execution_id"],
        "1.execution_id": done["execution_id"],
        "1.host": "host-1",
        "1.device": "host-1:tv-1",
    }
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (1, 0, 0, 0)


async def test_a_failed_test_is_a_failure_and_its_earlier_attempts_are_reruns(
    operator: Client, host: FakeHost
) -> None:
    host.answer = lambda _: {"success": False, "error": "no picture", "output": "black\nscreen"}
    _, case = await run(operator, test_retries=1)
    (failure,) = case.result
    assert isinstance(failure, Failure)
    assert failure.message == "step 1, launch_app: no picture"
    assert failure.text.startswith(f"{failure.message}\n")
    assert "output: black\n      screen" in failure.text, "GitLab shows the text only"
    assert [one.message for one in case.rerun_failures()] == [failure.message]
    assert not case.is_flaky


async def test_a_test_that_passes_in_the_end_is_flaky(operator: Client, host: FakeHost) -> None:
    host.answer = lambda _: {"success": len(host.seen) > 1, "output": "flickers"}
    _, case = await run(operator, test_retries=1)
    assert case.result == []
    assert [one.message for one in case.flaky_failures()] == ["step 1, launch_app: flickers"]


async def test_what_is_not_the_tests_fault_is_an_error(operator: Client, host: FakeHost) -> None:
    host.gate.clear()
    path, case = await run(operator, steps=[{"command": "hang", "timeout_s": 0.05}])
    (error,) = case.result
    assert (type(error), error.type) == (Error, "step_timeout")
    assert error.text.startswith(f"{error.message}\n  step 1, hang: error")
    assert (await got(operator, path))["error_kind"] == "step_timeout"


async def test_what_is_not_over_is_no_pass(operator: Client, host: FakeHost) -> None:
    host.gate.clear()
    case = await made(operator, "/api/testcases", test_case())
    begun = await made(operator, f"/api/testcases/{case['id']}/execute", {})
    path = f"/api/executions/{begun['execution_id']}"
    (reported,) = await report(operator, path)
    (error,) = reported.result
    assert (type(error), error.type) == (Error, "unfinished")
    await operator.post(f"{path}/cancel")
    host.gate.set()
    (reported,) = await report(operator, path, wait="30")
    assert [type(one) for one in reported.result] == [Skipped]


async def test_a_run_whose_steps_are_gone_says_so(
    operator: Client, host: FakeHost, db: Database, config: Config
) -> None:
    host.answer = lambda _: {"success": False}
    path, _ = await run(operator)
    async with db.session() as session:
        await session._connection.execute(
            "UPDATE test_executions SET started_at = now() - interval '401 days',"
            " completed_at = now() - interval '400 days'"
        )
    await Pruning(db, Artifacts(config.vpt_data_dir), Ages.of(config)).prune()
    (case,) = await report(operator, path)
    assert [type(one) for one in case.result] == [Failure]
    assert case.system_out.startswith("attempt 1 on host-1:tv-1 of host host-1: failed")
    assert case.system_out.endswith("The steps are too old to be kept.")


async def test_a_campaign_is_a_suite_in_its_order(operator: Client, host: FakeHost) -> None:
    host.answer = lambda _: {"success": False}
    done = await executed(operator, await campaign(operator, 3, stop_on_failure=True))
    suite = await report(operator, f"/api/campaign-executions/{done['campaign_execution_id']}")
    assert (suite.name, suite.tests, suite.failures, suite.skipped) == ("all", 3, 1, 2)
    assert [case.name for case in suite] == ["0", "1", "2"]
    assert [type(case.result[0]) for case in suite] == [Failure, Skipped, Skipped]
    named = {one.name: one.value for one in suite.properties()}
    assert named["1.execution_id"] == done["results"][0]["execution_id"]
    assert named["campaign_execution_id"] == done["campaign_execution_id"]
    assert "2.host" not in named


NASTY = ']]></failure> & "quoted" \x1b[31mred\x07 \ufffe \U0001f600 ü\r\n'


async def test_whatever_a_host_says_the_report_can_be_read(
    operator: Client, host: FakeHost
) -> None:
    host.answer = lambda _: {"success": False, "output": NASTY, "error": NASTY}
    _, case = await run(operator, name="<b>&\"']]>")
    assert case.name == "<b>&\"']]>"
    assert "\ufffd[31mred\ufffd" in case.system_out
    assert "\U0001f600 ü" in case.result[0].message


async def test_long_output_is_cut(operator: Client, host: FakeHost) -> None:
    host.answer = lambda _: {"success": True, "output": "x" * 100_000}
    _, case = await run(operator)
    assert len(case.system_out) < 3000
    (whole, _) = re.findall(r"\[cut\] The whole: GET (\S+)", case.system_out)
    assert await (await operator.get(whole)).text() == "x" * 100_000


async def test_the_report_of_very_many_steps_is_bounded_and_says_where_the_rest_is(
    operator: Client, host: FakeHost, db: Database
) -> None:
    host.answer = lambda _: {"success": False}
    done = await executed(operator, await campaign(operator, 8))
    async with db.session() as session:
        await session._connection.execute(
            "UPDATE test_executions SET actions = array_fill('a'::text, ARRAY[3000]);"
            "INSERT INTO execution_steps (execution_id, attempt, step, action, status, output)"
            " SELECT id, 1, n, 'a', 'passed', repeat('x', 600)"
            " FROM test_executions, generate_series(2, 3000) AS n"
        )
    path = f"/api/campaign-executions/{done['campaign_execution_id']}"
    text = await (await operator.get(f"{path}/junit")).text()
    assert len(text) < 12 * 2**20
    suite = await report(operator, path)
    for case in suite:
        assert [type(one) for one in case.result] == [Failure], "what failed is told first"
        assert "step 1, launch_app: failed" in case.system_out
        assert re.search(r"\d+ more steps: GET /api/executions/\w+\?attempt=1", case.system_out)


async def test_a_campaign_that_could_not_go_on_is_an_error(
    operator: Client, host: FakeHost, db: Database
) -> None:
    done = await executed(operator, await campaign(operator, 1))
    async with db.session() as session:
        await session._connection.execute(
            "UPDATE campaign_executions"
            " SET status = 'error', error_kind = 'internal', error = 'It broke.'"
        )
    path = f"/api/campaign-executions/{done['campaign_execution_id']}"
    suite = await report(operator, path)
    assert (suite.tests, suite.errors) == (2, 1)
    (error,) = list(suite)[-1].result
    assert (error.message, error.type) == ("It broke.", "internal")
    item = await got(operator, path)
    assert (item["error_kind"], item["error"]) == ("internal", "It broke.")


@pytest.mark.parametrize("kind", ["executions", "campaign-executions"])
async def test_there_is_no_report_of_nothing(viewer: Client, kind: str) -> None:
    status, answer = await refused(viewer, "GET", f"/api/{kind}/none/junit")
    assert (status, answer["code"]) == (404, "not_found")
