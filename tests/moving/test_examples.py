"""The examples of docs/virtualpytest.md are imported as they are, and pass on the stand-in."""

from __future__ import annotations

import re
from pathlib import Path

from tests.client.kit import Cli
from tests.conftest import Client
from tests.virtualpytest.stand_in import StandIn
from tests.web.kit import got, made

DOCUMENT = Path(__file__).parents[2] / "docs" / "virtualpytest.md"
_EXAMPLE = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PARAMETERS = {"item": "A book", "action": "live_chup"}


async def test_each_example_is_imported_and_passes(
    pi: StandIn, operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    examples = _EXAMPLE.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(examples) >= 6
    for number, example in enumerate(examples):
        (tmp_path / f"{number}.yaml").write_text(example)
    ended = await vpt("import", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    for case in (await got(operator, "/api/testcases", fields="steps"))["items"]:
        used = {name for name in _PARAMETERS if f"${{{name}}}" in str(case["steps"])}
        body = {"parameters": {name: _PARAMETERS[name] for name in used}}
        run = await made(operator, f"/api/testcases/{case['id']}/execute", body)
        done = await got(operator, f"/api/executions/{run['execution_id']}", wait=30)
        assert done["status"] == "completed", (case["name"], done["error"], done["steps"])
    kinds = {
        one.path.split("/")[2] for one in pi.requests if one.path.endswith(("Batch", "execute"))
    }
    assert kinds == {"action", "verification", "testcase", "script"}


async def test_a_command_that_no_device_knows_is_refused_with_those_that_are_known(
    pi: StandIn, operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "lab.yaml"
    steps = {
        "one": "{command: press_kei, action_type: remote}",
        "batch": "{actions: [{command: press_key}], failure_actions: [{command: explode}]}",
        "seen": "{command: waitForTextToApear, verification_type: text}",
        "graph": "{graph: {nodes: [{id: a, type: action, data: {command: swype}}]}}",
        "block": "{graph: {nodes: [{id: a, type: action, data: {actions: [{command: tab}]}}]}}",
        "filled in": '{command: "${command}"}',
        "of the host": "{command: sleep, action_type: standard_block}",
        "short": "{command: waitForTextToAppear, verification_type: text}",
    }
    lines = [
        f"- {{name: {name}, device_model: [stb], steps: [{one}]}}" for name, one in steps.items()
    ]
    lines.append("- {name: elsewhere, device_model: box, steps: [{command: whatever}]}")
    path.write_text("\n".join(["test_cases:", *lines]))
    for more in ([], ["--dry-run"]):
        ended = await vpt("import", path, *more)
        assert ended.code == 4
        wrong = re.findall(r"test case '([\w ]+)', step 1: no device of the model stb", ended.err)
        assert sorted(wrong) == ["batch", "block", "graph", "one", "seen"]
        assert "knows the action 'press_kei'; known are press_key, " in ended.err
        assert "the verification 'waitForTextToApear'; known are waitForTextToAppear, " in ended.err
        assert "warning: test case 'short', step 1: waitForTextToAppear needs" in ended.err
        assert "--no-check" in ended.err
        assert (await got(operator, "/api/testcases"))["items"] == []
    assert (await vpt("import", path, "--no-check")).code == 0
    assert (await vpt("import", path)).out == "nothing to do: 9 unchanged\n"
