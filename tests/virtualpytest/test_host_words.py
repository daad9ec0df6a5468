"""A broken lab is no failed product: each row of the table in docs/virtualpytest.md holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.actors.fake_host import until
from vpt.dialects.base import HostTroubleError, Trouble
from vpt.dialects.device_state import missing_controllers
from vpt.dialects.results import StepResult, read_status, script_result
from vpt.dialects.start_requests import StepKind
from vpt.model import Device, DeviceReason, Json

from .conftest import KEY, StartLab, VKit
from .test_dialect import KINDS, act, check, graph, script
from .test_undisturbed import seen

DOCUMENT = Path(__file__).parents[2] / "docs" / "virtualpytest.md"
ROW = re.compile(r"^\| (\w+) \| `(.+)` \| `(\w+)`(.*?) \| (.+) \|$", re.MULTILINE)
ROWS = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
KIND = {"host_error": Trouble.HOST_ERROR, "host_refused": Trouble.HOST_REFUSED}
PHONE = Device("pi:d", "d", "d", "android_mobile", frozenset({"av", "remote", "hdmi_stream"}))
FAILED = {"success": False}


def batch(**more: Any) -> Json:
    """Return the end of a verification that failed."""
    item = {**FAILED, "verification_type": "image", "command": "waitForImageToAppear", **more}
    return {"status": "error", "result": {**FAILED, "results": [item], "logs": more.get("logs")}}


def blocks(error: str, logs: str = "") -> Json:
    """Return the end of a graph whose only block failed."""
    step = {
        **FAILED,
        "block_id": "b",
        "message": "Block: 1 action(s)",
        "error": error,
        "logs": logs,
    }
    result = {"result_type": "failure", "step_results": [step], "error": "FAILURE block"}
    return {"status": {"status": "failed", "result": result}}


def logged(error: str) -> Json:
    """Return the end of an action whose reason stands in the log only."""
    lines = [
        "[@lib:action_executor] ❌ press_key: FAILED (1ms)",
        f"[@lib:action_executor]    Error: {error}",
    ]
    item = {**FAILED, "message": "press_key", "error": "Failed after 1 iteration(s)"}
    result = {**FAILED, "results": [item], "logs": "\n".join(lines)}
    return {"status": "completed", "result": result}


def ended(code: int, output: str) -> Json:
    return {"result": {"exit_code": code, "script_success": None, "stdout": output}}


def readings(where: str, text: str) -> list[StepResult | HostTroubleError]:
    """Return what is made of a sentence, in each place where a host may say it."""
    batches: list[tuple[StepKind, Json]] = []
    if where == "result":
        batches += [(StepKind.VERIFICATION, batch(message=text)), (StepKind.ACTION, logged(text))]
        batches += [
            (StepKind.GRAPH, blocks(text)),
            (StepKind.GRAPH, blocks(f"Actions failed: {text}")),
        ]
    if where == "log":
        missed = {"message": "Text pattern not found", "logs": f"[@ocr] {text}"}
        batches += [(StepKind.VERIFICATION, batch(**missed))]
        batches += [(StepKind.GRAPH, blocks("Text pattern not found", f"[@ocr] {text}"))]
    read = [read_of(lambda one=one: read_status(*one)) for one in batches]
    if where == "script":
        failed = {**FAILED, "exit_code": 1, "stderr": text}
        read.append(read_of(lambda: script_result({"result": failed})))
    if where == "usage":
        read.append(read_of(lambda: script_result(ended(2, f"{text}\nzap.py: error: no"))))
    return read


def read_of(read: Any) -> StepResult | HostTroubleError:
    try:
        result: StepResult = read()
    except HostTroubleError as trouble:
        return trouble
    return result


def test_the_table_is_read() -> None:
    assert len(ROWS) == len(set(ROWS)) >= 18
    assert {where for where, *_ in ROWS} == {"takeControl", "result", "log", "script", "usage"}


@pytest.mark.parametrize(("where", "text", "kind", "more", "because"), ROWS)
def test_what_a_host_says_means_what_the_table_says(
    where: str, text: str, kind: str, more: str, because: str
) -> None:
    if where == "takeControl":
        assert more == ", the device is `away`"
        assert because in (missing_controllers(PHONE, json.loads(text)) or "")
        return
    read = readings(where, text)
    assert read
    for trouble in read:
        assert isinstance(trouble, HostTroubleError), trouble
        assert trouble.trouble is KIND[kind]
        assert because in trouble.message
        assert trouble.answer is not None and trouble.answer.success is False


@pytest.mark.parametrize(
    "text",
    [
        "Image logo.jpg not found within 10 s",
        "Text pattern not found",
        "The app says: Unknown command: zap",
        "Element 'Script not found' did not appear",
        "No device shows the channel",
        "boom",
        "",
    ],
)
def test_what_the_product_does_is_its_own(text: str) -> None:
    for read in readings("result", text):
        assert isinstance(read, StepResult) and not read.success


@pytest.mark.parametrize(
    "end",
    [
        ended(2, "2 channels are missing"),
        ended(1, "usage: zap.py [-h]\nzap failed"),
        {"result": {**FAILED, "exit_code": 1, "stdout": "the page says: Script not found: x"}},
    ],
)
def test_a_script_that_failed_is_judged(end: Json) -> None:
    read = read_of(lambda: script_result(end))
    assert isinstance(read, StepResult) and not read.success


# ---------------------------------------------------------------- in a lab


def away(lab: VKit) -> str | None:
    device = seen(lab)
    return device.reason_text if device.reason is DeviceReason.AWAY else None


@pytest.mark.parametrize("kind", KINDS)
async def test_a_device_without_its_remote_is_away_before_anything_is_judged(
    start_lab: StartLab, kind: str
) -> None:
    lab = await start_lab(infra_retries=1)
    host = await lab.pi(model="android_mobile", capabilities={"av", "remote"})
    warning = "Failed to connect to Android device 10.0.0.7:5555"
    host.break_controller("d1", "remote", warning)
    run = await lab.submit(KINDS[kind]("a"), device_model="android_mobile")
    await until(lambda: away(lab))
    assert away(lab) == f"Its host cannot use its remote control (controller remote): {warning}"
    assert host.done("d1") == []
    host.mend("d1")
    row = await lab.final(run.execution_id)
    assert row["status"] == "completed"
    assert await lab.kinds(row["id"]) == [("pi", "host_error"), ("pi", None)]


async def test_what_a_look_says_shows_no_secret(lab: VKit) -> None:
    host = await lab.pi(model="android_mobile", capabilities={"remote"})
    host.break_controller("d1", "remote", f"Failed at attempt 1: no connection with {KEY}")
    await lab.submit(act("a"), device_model="android_mobile")
    await until(lambda: away(lab))
    host.break_controller("d1", "remote", f"Failed in a look: no connection with {KEY}")
    await until(lambda: "in a look" in (away(lab) or ""))
    assert KEY not in (away(lab) or "") and "***" in (away(lab) or "")


async def test_a_device_needs_only_the_controllers_that_it_declared(lab: VKit) -> None:
    host = await lab.pi(model="web", capabilities={"web", "desktop"})
    host.break_controller("d1", "av")
    row = await lab.done(act("a"), device_model="web")
    assert row["status"] == "completed"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (check("a"), "Failed to capture screenshot automatically for image verification"),
        (act("a"), "Unknown command: a"),
        (graph("a"), "Reference image file not found: logo.jpg"),
    ],
)
async def test_the_output_stands_on_the_step_and_the_run_is_no_verdict(
    start_lab: StartLab, step: Json, message: str
) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.pi()
    host.on("a", success=False, message=message)
    row = await lab.done(step)
    assert row["status"] == "error" and message in row["error"]
    stored = (await lab.steps(row["id"]))[0]
    assert stored["status"] == "error" and "failed" in stored["output"]


async def test_a_script_that_is_not_there_and_one_that_takes_other_parameters(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(infra_retries=0)
    host = await lab.pi()
    host.scripts.known = {"there"}
    row = await lab.done(script("not_there"))
    assert (row["error_kind"], "has no script of that name" in row["error"]) == (
        "host_refused",
        True,
    )
    host.scripts.options["there"] = {"--count": ("int", 1)}
    row = await lab.done(script("there", parameters="--count many"))
    assert (row["error_kind"], "does not take these" in row["error"]) == ("host_refused", True)
    assert host.done("d1") == []
