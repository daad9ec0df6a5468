"""`vpt export` and `vpt import`: a lab's test cases and campaigns in git."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.client.kit import Cli, Terminal
from tests.conftest import Client, token
from tests.web.kit import FakeHost, got, made, test_case
from vpt.client.api import Api, RefusedError
from vpt.client.exits import MisuseError
from vpt.client.files import TestCaseSpec, dump, read_files
from vpt.client.sync import ImportPlan, read_server
from vpt.model import Json, Role

#: Values that YAML and JSON read differently.
TRAPS: Json = {
    "texts": ["yes", "no", "on", "null", "~", "1.10", "007", "1e5", "12:30", "2026-11-01", "0x1f"],
    "more": [
        "",
        " ",
        "a: b",
        "- a",
        "#",
        "|",
        "'",
        '"',
        "a\nb\n",
        "a  \n b",
        "\ttab",
        "é 🚀",
        "${x}",
    ],
    "values": [True, False, None, 0, -1, 1.5, 1e-7, 1e300, 2**60, [], {}],
}


async def _everything(operator: Client) -> Json:
    """Return the content of the server, without ids, versions and times."""
    cases = (await got(operator, "/api/testcases"))["items"]
    campaigns = (await got(operator, "/api/campaigns"))["items"]
    names = {case["id"]: case["name"] for case in cases}
    own = {"id", "version", "created_at", "updated_at"}
    for campaign in campaigns:
        for entry in campaign["test_cases"]:
            entry["test_case"] = names[entry.pop("test_case_id")]
    return {
        item["name"]: {key: value for key, value in item.items() if key not in own}
        for item in cases + campaigns
    }


async def _fill(operator: Client) -> None:
    steps = [{"command": "a", "params": TRAPS, "timeout_s": 2.0}]
    more = {"description": "one\ntwo\n", "tags": ["x"], "timeout_s": 5, "test_retries": 1}
    full = await made(operator, "/api/testcases", test_case(name="é: full", steps=steps, **more))
    plain = await made(operator, "/api/testcases", test_case(name="Plain"))
    entries = [
        {"test_case_id": full["id"], "parameters": {"n": 1e5, "t": "on"}},
        {"test_case_id": plain["id"]},
    ]
    body = {"name": "Nightly", "test_cases": entries, "stop_on_failure": True}
    await made(operator, "/api/campaigns", body)


async def test_what_is_exported_is_the_same_to_import_and_makes_an_equal_lab(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    await _fill(operator)
    before = await _everything(operator)
    folder, single = tmp_path / "lab", tmp_path / "lab.json"
    for to in (folder, single):
        assert (await vpt("export", to)).code == 0
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml")) == [
        "campaigns/nightly.yaml",
        "test_cases/plain.yaml",
        "test_cases/é-full.yaml",
    ]
    text = (folder / "campaigns" / "nightly.yaml").read_text()
    assert text == (
        "campaigns:\n  - name: Nightly\n    stop_on_failure: true\n    test_cases:\n"
        "      - test_case: 'é: full'\n        parameters:\n          n: 100000.0\n"
        "          t: 'on'\n      - test_case: Plain\n"
    )
    for way in (folder, single):
        ended = await vpt("import", way, "--prune")
        assert (ended.code, ended.out) == (0, "nothing to do: 3 unchanged\n")
    for kind in ("campaigns", "testcases"):
        for item in (await got(operator, f"/api/{kind}"))["items"]:
            assert (await operator.delete(f"/api/{kind}/{item['id']}")).status == 204
    ended = await vpt("import", folder)
    assert ended.out.splitlines() == [
        "create test case 'Plain'",
        "create test case 'é: full'",
        "create campaign 'Nightly'",
        "3 changes, 0 unchanged",
    ]
    assert await _everything(operator) == before


def test_every_reader_of_yaml_takes_what_is_written_for_what_it_is(tmp_path: Path) -> None:
    case = TestCaseSpec(name="on", device_model="no", steps=[TRAPS])
    text = dump([case], [], "yaml")
    assert yaml.safe_load(text)["test_cases"][0]["steps"] == [TRAPS]
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    again = read_files([path]).test_cases["on"]
    assert json.dumps(again.steps) == json.dumps([TRAPS])
    path.write_text(
        "test_cases: [{name: a, device_model: tv, steps: "
        "[{a: [yes, 2026-11-01, 12:30, 007, 1.5, 1e2, true, 12, ~]}]}]"
    )
    [step] = read_files([path]).test_cases["a"].steps
    assert step["a"] == ["yes", "2026-11-01", "12:30", "007", 1.5, 100.0, True, 12, None]


async def test_only_what_differs_is_written_and_a_dry_run_changes_nothing(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    await _fill(operator)
    path = tmp_path / "lab.yaml"
    await vpt("export", path)
    whole: Any = yaml.safe_load(path.read_text())
    whole["test_cases"][1]["steps"][0]["params"]["values"][0] = 1  # which Python takes for True
    whole["test_cases"].append({"name": "New", "device_model": "tv", "steps": [{"a": 1}]})
    whole["campaigns"][0]["test_cases"].append({"test_case": "New"})
    path.write_text(json.dumps(whole))
    before = await _everything(operator)
    changes = [
        "create test case 'New'",
        "update test case 'é: full' (steps)",
        "update campaign 'Nightly' (test_cases)",
    ]
    ended = await vpt("import", "--dry-run", path)
    assert ended.out.splitlines() == [*(f"would {one}" for one in changes), "1 unchanged"]
    assert await _everything(operator) == before
    assert (await vpt("import", path)).out.splitlines() == [*changes, "3 changes, 1 unchanged"]
    versions = {
        case["name"]: case["version"] for case in (await got(operator, "/api/testcases"))["items"]
    }
    assert versions == {"New": 1, "Plain": 1, "é: full": 2}
    assert (await vpt("import", path)).out == "nothing to do: 4 unchanged\n"


async def test_several_device_models_are_a_list_and_one_is_a_text(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    await made(operator, "/api/testcases", test_case(name="Both", device_model=["tv", "pixel"]))
    await made(operator, "/api/testcases", test_case(name="One", device_model=["tv"]))
    path = tmp_path / "lab.yaml"
    await vpt("export", path)
    whole: Any = yaml.safe_load(path.read_text())
    assert [case["device_model"] for case in whole["test_cases"]] == [["tv", "pixel"], "tv"]
    assert (await vpt("import", path)).out == "nothing to do: 2 unchanged\n"
    whole["test_cases"][0]["device_model"] = ["tv", "tv"]
    whole["test_cases"][1]["device_model"] = ["tv"]
    path.write_text(json.dumps(whole))
    assert (await vpt("import", path)).out.splitlines() == [
        "update test case 'Both' (device_model)",
        "1 changes, 1 unchanged",
    ]
    assert (await vpt("ls", "testcases", "--model", "pixel")).out == ""
    await operator.put(
        f"/api/testcases/{(await got(operator, '/api/testcases', q='one'))['items'][0]['id']}",
        json=test_case(name="One", device_model=["tv", "box"]),
    )
    assert (await vpt("ls", "testcases", "--model", "box")).out.split("\t")[2] == "tv, box"


async def test_prune_deletes_what_is_in_no_file_after_it_was_confirmed(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    await _fill(operator)
    path = tmp_path / "lab.yaml"
    path.touch()
    ended = await vpt("import", path, "--prune", "--yes")
    assert (ended.code, "--prune would delete everything" in ended.err) == (4, True)
    path.write_text("test_cases: [{name: Plain, device_model: pixel, steps: [{command: a}]}]")
    ended = await vpt("import", path, "--prune")
    assert (ended.code, "--yes" in ended.err) == (4, True)
    with Terminal(vpt, "import", str(path), "--prune") as terminal:
        await terminal.shows("Delete 2, and make the other changes? [y/N]")
        terminal.types("n\n")
        assert await terminal.ended() == 4
    assert len(await _everything(operator)) == 3
    assert (await vpt("import", path, "--prune", "--yes")).out.splitlines() == [
        "update test case 'Plain' (steps)",
        "delete campaign 'Nightly'",
        "delete test case 'é: full'",
        "3 changes, 0 unchanged",
    ]
    assert list(await _everything(operator)) == ["Plain"]
    folder = tmp_path / "lab"
    (folder / "campaigns").mkdir(parents=True)
    old = folder / "campaigns" / "nightly.yaml"
    old.write_text("campaigns: []")
    assert f"not on the server: {old}" in (await vpt("export", folder)).err
    await vpt("export", folder, "--prune")
    assert [path.name for path in folder.rglob("*.yaml")] == ["plain.yaml"]


def _bomb() -> str:
    """Return a thousand bytes of YAML whose references unfold to a hundred million values."""
    lists = "".join(
        f"  - &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")
    )
    return f"test_cases:\n  - &a [x, x, x, x, x, x, x, x, x]\n{lists}"


CASE = "{name: A, device_model: tv, steps: [{command: a}]}"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"a.yaml": f"test_cases: [{CASE}]", "b.yml": f"test_cases: [{CASE}]"},
            "is already defined in",
        ),
        ({"a.yaml": "test_cases: [{name: A, device_model: tv}]"}, "`steps` - at `$.test_cases[0]`"),
        ({"a.yaml": "test_cases: [{name: A, name: B}]"}, "'name' appears twice"),
        ({"a.json": '{"campaigns": [], "campaigns": []}'}, "'campaigns' appears twice"),
        ({"a.yaml": "testcases: []"}, "unknown field `testcases`"),
        ({"a.yaml": "test_cases:\n\n  - {"}, "a.yaml, line 3: expected the node content"),
        ({"a.yaml": "test_cases:\n  - name: A\n    steps: 3"}, "a.yaml, line 3: Expected `array`"),
        ({"a.yaml": f"test_cases:\n- {CASE}\n- {{name: B}}"}, "a.yaml, line 3: Object missing"),
        ({"a.json": '{"test_cases": [\n{"name":\n1}]}'}, "a.json, line 3: Expected `str`"),
        (
            {"a.yaml": f"test_cases: [{CASE.replace('a}', 'a, timeout_s: -1}')}]"},
            "a.yaml, line 1: Expected `float` > 0.0 - at `$.test_cases[0].steps[0].timeout_s`",
        ),
        ({"a.yaml": "test_cases: &a [*a]"}, "a.yaml: it is nested too deeply, or contains itself"),
        ({"a.json": "[" * 100_000}, "a.json: it is nested too deeply"),
        ({"a.yaml": _bomb()}, "a.yaml: it has more than 1000000 values"),
        ({f"{number}.yaml": "x: y" for number in range(22)}, "\nand 2 more"),
        ({"a.yaml": 'test_cases: [{name: "\\ud83d"}]'}, "(half a character) - at `$.test_cases[0]"),
        (
            {"a.yaml": "test_cases: [{name: A, device_model: t, steps: [{1: 2}]}]"},
            "key 1 is not a text",
        ),
    ],
)
def test_what_is_wrong_with_files_is_told(
    files: dict[str, str], words: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(MisuseError, match=re.escape(words)):
        read_files([tmp_path])


def test_files_of_any_editor_and_steps_with_parameters_are_read(tmp_path: Path) -> None:
    for name in ("a.json", "a.yaml"):
        text = (
            '{"test_cases": [{"name": "A", "device_model": "tv", "steps": [{"retries": "${n}"}]}]}'
        )
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert [*read_files([tmp_path / name]).test_cases] == ["A"]


def test_links_are_followed_and_one_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    far, lab = tmp_path / "far", tmp_path / "lab"
    for folder in (far, lab):
        folder.mkdir()
    (far / "a.yaml").write_text(f"test_cases: [{CASE}]")
    (lab / "linked").symlink_to(far)
    (far / "round").symlink_to(lab)
    assert [*read_files([lab]).test_cases] == ["A"]
    (lab / "gone.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(MisuseError, match=r"gone\.yaml is a link to a file that does not exist"):
        read_files([lab])


async def test_every_name_has_a_file_that_others_do_not_move(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    for name in ("日本語" * 33, "テスト", "..", "a/../b", "A B", "a-b"):
        await made(operator, "/api/testcases", test_case(name=name))
    assert (await vpt("export", tmp_path)).code == 0
    assert sorted(path.name for path in (tmp_path / "test_cases").iterdir()) == [
        "a-b-2.yaml",
        "a-b-3.yaml",
        "a-b.yaml",
        "unnamed.yaml",
        "テスト.yaml",
        f"{'日本語' * 22}.yaml",
    ]
    assert (await vpt("import", tmp_path)).out == "nothing to do: 6 unchanged\n"


async def test_wrong_files_and_names_that_lead_nowhere_are_told_before_the_first_change(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "lab.yaml"
    for campaign, words in (
        (
            "{name: C, test_cases: [{test_case: X}]}",
            "names the test case 'X', which is neither in a file nor on the server",
        ),
        ("{name: C}", "lab.yaml, line 2: Object missing required field `test_cases`"),
    ):
        path.write_text(f"test_cases: [{CASE}]\ncampaigns: [{campaign}]")
        ended = await vpt("import", path)
        assert (ended.code, words in ended.err) == (4, True), ended
    assert await _everything(operator) == {}


async def test_what_somebody_changed_meanwhile_is_not_overwritten(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    case = await made(operator, "/api/testcases", test_case(name="A"))
    path = tmp_path / "lab.yaml"
    path.write_text(f"test_cases: [{CASE}]")
    async with Api(vpt.url, vpt.token) as api:
        work = ImportPlan(api, await read_server(api), read_files([path]))
        [change] = work.planned(prune=False)
        async with operator.put(f"/api/testcases/{case['id']}", json=test_case(name="A")) as answer:
            assert answer.status == 200
        with pytest.raises(RefusedError) as refused:
            await work.apply(change)
    assert (refused.value.status, refused.value.exit_code) == (412, 2)


async def test_a_failure_in_the_middle_says_what_was_done_and_the_same_command_does_the_rest(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(
        f"test_cases: [{CASE}]\n"
        "campaigns: [{name: C, test_cases: [{test_case: A, device_id: gone}]}]"
    )
    ended = await vpt("import", path)
    assert ended.code == 4 and "There is no device gone" in ended.err
    assert ended.out == "create test case 'A'\n"
    assert "could not create campaign 'C'; 1 of 2 changes were made" in ended.err
    path.write_text(path.read_text().replace(", device_id: gone", ""))
    assert (await vpt("import", path)).out == "create campaign 'C'\n1 changes, 1 unchanged\n"
    ended = await vpt("export", tmp_path / "no folder" / "lab.yaml")
    assert (ended.code, "No such file" in ended.err) == (2, True)
    viewer = Cli(vpt.url, token(Role.VIEWER))
    assert (await viewer("export", "--format", "json")).code == 0
    await made(operator, "/api/testcases", test_case(name="A"))
    for command in (("import", path), ("export",)):
        ended = await vpt(*command)
        assert (ended.code, "are named 'A'" in ended.err) == (4, True)


async def test_completion_completes_the_names_of_commands_and_options(vpt: Cli) -> None:
    ended = await vpt("completion", "bash")
    assert ended.code == 0 and "_VPT_COMPLETE=bash_complete" in ended.out
    for words, wanted in (("vpt run ", "plain,testcase"), ("vpt ls hosts --st", "plain,--status")):
        asked = {"_VPT_COMPLETE": "bash_complete", "COMP_WORDS": words.strip()}
        count = len(words.split(" ")) - 1
        completing = Cli(vpt.url, vpt.token, asked | {"COMP_CWORD": str(count)})
        assert wanted in (await completing()).out.splitlines()


async def test_a_hosts_own_name_of_a_device_is_no_change(
    operator: Client, vpt: Cli, tmp_path: Path
) -> None:
    """The server stores the id of the device for it."""
    server = await FakeHost().join(operator)
    path = tmp_path / "lab.yaml"
    path.write_text(
        f"test_cases: [{CASE}]\n"
        "campaigns: [{name: C, test_cases: [{test_case: A, device_id: tv-1}]}]"
    )
    assert (await vpt("import", path)).code == 0
    assert (await vpt("import", path)).out == "nothing to do: 2 unchanged\n"
    assert "device_id: host-1:tv-1" in (await vpt("export")).out
    await server.close()
