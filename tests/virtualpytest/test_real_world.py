"""VirtualPyTest hosts as they are: scripts find their device, graphs navigate, failures say why."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actors.fake_host import until
from vpt.graphs import with_inputs
from vpt.model import Json

from .conftest import KEY, StartLab, VKit
from .test_dialect import SCRIPT, act, graph, script

ERRORS = "SELECT infra_errors FROM devices"
GRAPH = "/host/testcase/execute"


async def only_step(lab: VKit, row: Any) -> Any:
    """Return the row of an execution's only step."""
    (step,) = await lab.steps(row["id"])
    return step


# ---------------------------------------------------------------- scripts


@pytest.mark.parametrize("device", ["device1", "device2", "device3"])
async def test_a_script_acts_on_the_device_that_its_run_has(lab: VKit, device: str) -> None:
    host = await lab.pi("pi", "device1", "device2", "device3")
    row = await lab.done(script("where"), device_id=f"pi:{device}")
    assert row["status"] == "completed"
    assert {each: host.done(each) for each in host.devices if host.done(each)} == {
        device: ["where"]
    }


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        (None, "--host pi --device device2"),
        ("", "--host pi --device device2"),
        ({"channel": 5}, "--channel 5 --host pi --device device2"),
        ({"device": "device1"}, "--device device1 --host pi"),
        ("--device=device1 --x '--host'", "--device=device1 --x '--host'"),
        (["--host", "lab 9"], "--host 'lab 9' --device device2"),
        ("--text 'no end", "--text 'no end --host pi --device device2"),
    ],
)
async def test_a_step_may_say_its_host_and_device_itself(
    lab: VKit, parameters: Any, line: str
) -> None:
    host = await lab.pi("pi", "device1", "device2")
    if "no end" not in line:
        await lab.done(script("s", parameters=parameters), device_id="pi:device2")
    else:
        host.says[SCRIPT] = (400, b"{}")
        await lab.done(script("s", parameters=parameters), device_id="pi:device2")
    assert host.asked(SCRIPT)[0].body["parameters"] == line


async def test_a_script_gets_the_user_interface_of_its_step(lab: VKit) -> None:
    host = await lab.pi()
    await lab.done(script("goto", parameters={"node": "live"}, userinterface_name="my shop"))
    line = host.asked(SCRIPT)[0].body["parameters"]
    assert line == "--node live --userinterface 'my shop' --host pi --device d1"
    assert host.work.acts[0].params["read"]["userinterface"] == "my shop"


@pytest.mark.parametrize("value", [True, False])
async def test_a_boolean_reaches_a_script_as_what_it_is(lab: VKit, value: bool) -> None:
    host = await lab.pi()
    host.scripts.options["s"] = {"--flag": ("bool", True)}
    row = await lab.done(script("s", parameters={"flag": value}))
    assert row["status"] == "completed"
    assert host.work.acts[0].params["read"]["flag"] is value


async def test_a_step_may_name_what_it_is_sent_to(lab: VKit) -> None:
    host, fake = await lab.pi("pi", "device1", "device2"), await lab.host("fake")
    names = "${device.local_id} ${device.id} ${device.model} ${host.name} $${device.id}"
    params = {"text": names, "list": ["${device.local_id}"]}
    await lab.done(act("a", params=params), device_id="pi:device2")
    await lab.done({"command": "a", "params": params}, device_id="fake:d1")
    told = [host.work.acts[0].params, fake.actions[0].body["params"]]
    assert told == [
        {"text": "device2 pi:device2 tv pi ${device.id}", "list": ["device2"]},
        {"text": "d1 fake:d1 tv fake ${device.id}", "list": ["d1"]},
    ]


# ---------------------------------------------------------------- graphs


def navigation(label: str = "live") -> Json:
    """Return a graph that goes to a node of the navigation tree."""
    step = graph("unused")
    step["graph"]["nodes"][1] = {
        "id": "do",
        "type": "navigation",
        "data": {"target_node_label": label},
    }
    return step


async def test_a_graph_navigates_in_the_user_interface_of_its_step(lab: VKit) -> None:
    host = await lab.pi()
    row = await lab.done({**navigation(), "userinterface_name": "shopui", "team_id": "team-7"})
    assert row["status"] == "completed"
    assert host.done("d1") == ["go to live"]
    assert host.asked(GRAPH)[0].query == {"team_id": "team-7"}


async def test_a_navigation_that_fails_says_why(lab: VKit) -> None:
    await lab.pi()
    row = await lab.done(navigation())
    step = await only_step(lab, row)
    assert "Failed to load navigation tree: User interface '' not found" in step["error"]
    assert row["error_kind"] == "host_refused"


def template(**step: Any) -> Json:
    """Return a graph with references, and inputs and variables that it declares."""
    made = graph("press")
    made["graph"]["nodes"][1]["data"]["params"] = {
        "channel": "{channel}",
        "text": "{ text }",
        "device": "{device_name}",
        "part": "a {channel}",
        "json": '{"a": 1}',
    }
    made["graph"]["scriptConfig"] = {
        "inputs": [
            {"name": "channel", "type": "number", "default": 5},
            {"name": "device_name", "protected": True, "default": "a phone elsewhere"},
        ],
        "variables": [{"name": "text", "value": "hello"}],
    }
    return {**made, **step}


@pytest.mark.parametrize(
    ("step", "parameters", "channel", "text"),
    [
        ({}, {}, 5, "hello"),
        ({"inputs": {"channel": 7}}, {}, 7, "hello"),
        ({"inputs": [{"name": "channel", "value": 7}]}, {}, 7, "hello"),
        ({"inputs": {"channel": 7}}, {"channel": "9", "other": 1}, 9, "hello"),
        ({"variables": {"text": "bye"}}, {}, 5, "bye"),
        ({}, {"text": "run", "channel": 1.5}, 1.5, "run"),
    ],
)
async def test_references_of_a_graph_are_filled_in(
    lab: VKit, step: Json, parameters: Json, channel: Any, text: str
) -> None:
    host = await lab.pi()
    (made,) = with_inputs([template(**step)], parameters)
    row = await lab.done(made)
    assert row["status"] == "completed"
    assert host.work.acts[0].params == {
        "channel": channel,
        "text": text,
        "device": "d1",
        "part": "a {channel}",
        "json": '{"a": 1}',
    }


NOT_RIGHT: dict[str, tuple[Json, str]] = {
    "no start": (
        {"graph": {"nodes": [{"id": "a", "type": "success"}], "edges": []}},
        "Invalid graph: Graph must contain exactly one START block",
    ),
    "no nodes": ({"graph": {"edges": []}}, "no object with a list of nodes"),
}


@pytest.mark.parametrize("kind", NOT_RIGHT)
async def test_a_graph_that_cannot_be_right_is_refused_once(lab: VKit, kind: str) -> None:
    await lab.pi()
    await lab.pi("po")
    step, why = NOT_RIGHT[kind]
    row = await lab.done(step)
    assert (row["status"], row["error_kind"]) == ("error", "host_refused")
    assert why in row["error"]
    assert len(await lab.attempts(row["id"])) == 1
    assert {each["infra_errors"] for each in await lab.fetch(ERRORS)} == {0}


async def test_a_reference_that_nothing_gives_a_value_is_refused_unsent(lab: VKit) -> None:
    host = await lab.pi()
    step = template()
    del step["graph"]["scriptConfig"]["inputs"][0]["default"]
    row = await lab.done(step)
    assert (row["status"], row["error_kind"], row["attempt"]) == ("error", "host_refused", 1)
    assert "Nothing gives {channel} in the step's graph a value" in row["error"]
    assert host.asked(GRAPH) == []


# ---------------------------------------------------------------- reasons and output


@pytest.mark.parametrize("tells", [False, True], ids=["in its logs", "in its result"])
async def test_a_failed_action_says_why_and_what_it_printed(lab: VKit, tells: bool) -> None:
    host = await lab.pi()
    answer = {"output": "out\n", "exit_code": 3}
    host.on("execute_bash_command", success=False, message="boom", answer=answer, tells=tells)
    row = await lab.done(act("execute_bash_command"))
    step = await only_step(lab, row)
    assert (row["status"], step["error"]) == ("failed", "boom")
    first, _, rest = step["output"].partition("\n")
    assert first == "1. failed execute_bash_command boom"
    assert "output of execute_bash_command:\nout" in rest and "Full response:" in rest


async def test_a_command_that_printed_nothing_failed_with_its_exit_code(lab: VKit) -> None:
    host = await lab.pi()
    host.on("bash", success=False, message="", answer={"output": "", "exit_code": 3})
    row = await lab.done(act("bash"))
    assert (await only_step(lab, row))["error"] == "exit code 3"


async def test_each_failed_action_of_a_batch_has_its_own_reason(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", success=False, message="no connection")
    host.on("b", success=False, message="no such key")
    batch = {"actions": [{"command": "a"}], "failure_actions": [{"command": "b"}]}
    step = await only_step(lab, await lab.done(batch))
    assert step["error"] == "no connection"
    assert step["output"].splitlines()[:2] == [
        "1. failed a no connection",
        "2. failed b no such key",
    ]


async def test_a_failed_graph_says_what_its_last_block_said(lab: VKit) -> None:
    host = await lab.pi()
    host.on("press", success=False, message="the key did nothing")
    step = await only_step(lab, await lab.done(graph("press")))
    assert step["error"] == "the key did nothing"
    assert "1. failed do" in step["output"]
    assert "Full response: {'success': False, 'error': 'the key did nothing'}" in step["output"]


SAYS: dict[str, tuple[str, str]] = {
    "its last line": ("Zap 1\nTest failed: no channel in 5 s", "Test failed: no channel in 5 s"),
    "before the summary": (
        "❌ Test failed: no channel\n=======\nDuration: 5 s\nSCRIPT_RESULT_ID:abc",
        "❌ Test failed: no channel",
    ),
    "what it has": ("Zap 1\nno picture", "no picture"),
}


@pytest.mark.parametrize("kind", SAYS)
async def test_a_script_that_says_it_failed_says_why(lab: VKit, kind: str) -> None:
    host = await lab.pi()
    printed, why = SAYS[kind]
    host.on("s", success=False, message=printed, marker=True)
    step = await only_step(lab, await lab.done(script("s")))
    assert step["error"] == why
    assert step["output"].startswith(printed)


async def test_a_script_that_breaks_says_with_what(start_lab: StartLab) -> None:
    lab = await start_lab()
    host = await lab.pi()
    host.on(
        "s", success=False, message="Traceback\nValueError: no", result={"script_success": None}
    )
    step = await only_step(lab, await lab.done(script("s")))
    assert step["error"] == "The script failed with exit code 1.\nValueError: no"


# ---------------------------------------------------------------- secrets


async def test_what_a_script_prints_of_its_environment_has_no_secret(lab: VKit) -> None:
    host = await lab.pi()
    host.scripts.environment = {
        "SERVER_URL": "http://pi:live-token@127.0.0.1:5109",
        "API_KEY": KEY,
        "DEVICE1_POWER_PWD": "tapo-password",
        "HOST_NAME": "pi",
    }
    host.on("s", success=False, message=f"refused: {KEY}", environment=True)
    step = await only_step(lab, await lab.done(script("s")))
    assert step["output"].splitlines() == [
        "SERVER_URL=http://pi:***@127.0.0.1:5109",
        "API_KEY=***",
        "DEVICE1_POWER_PWD=***",
        "HOST_NAME=pi",
        "refused: ***",
    ]
    assert step["error"] == "The script failed with exit code 1.\nrefused: ***"


async def test_what_is_told_of_a_running_step_has_no_secret(lab: VKit) -> None:
    host = await lab.pi()
    name = f"http://u:geheim@h {KEY}"
    host.on(name, hang=True)
    row_id = await lab.run(act(name))
    await until(lab.moves)
    host.work.release.set()
    await lab.final(row_id)
    assert {move.state["message"] for move in lab.moves()} <= {"http://u:***@h ***", "begun"}


async def test_an_action_by_hand_is_answered_without_secrets(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", success=False, message="refused: http://u:geheim@h", tells=True)
    answer, _ = await lab.lab.act("pi", "d1", act("a"), 5.0, "ann")
    assert "geheim" not in str(answer) and answer.error == "refused: http://u:***@h"
