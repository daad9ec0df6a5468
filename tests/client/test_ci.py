"""What docs/ci.md promises to CI: its script with every exit code, and its examples."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xmlschema
import yaml

from tests.actors.fake_host import until
from tests.client.kit import Cli
from tests.conftest import Client
from tests.system.kit import ROOT
from tests.web.kit import FakeHost, got, made, test_case
from vpt.client.files import read_files
from vpt.model import Json

XSD = ROOT / "tests" / "data" / "junit-10.xsd"
SCRIPT = ROOT / "docs" / "ci" / "run-campaign.sh"
DOCUMENT = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


async def _campaign(operator: Client, name: str, step: Json, **more: object) -> None:
    case = await made(operator, "/api/testcases", test_case(name=name, steps=[step], **more))
    body = {"name": name, "test_cases": [{"test_case_id": case["id"]}]}
    await made(operator, "/api/campaigns", body)


class CiJob:
    """A step of CI: the script, in its own folder, with `vpt` on the path."""

    def __init__(self, vpt: Cli, folder: Path) -> None:
        self.report, self.summary = folder / "report.xml", folder / "summary.md"
        self._folder = folder
        tool = folder / "bin" / "vpt"
        tool.parent.mkdir()
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vpt "$@"\n')
        tool.chmod(0o755)
        own = vpt.environment()
        self._env = own | {"PATH": f"{tool.parent}:{own['PATH']}"}

    async def begin(self, *args: str, wait: float = 20) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("bash", str(SCRIPT), *args),
            cwd=self._folder,
            env=self._env | {"VPT_WAIT": str(wait), "GITHUB_STEP_SUMMARY": str(self.summary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    async def run(self, *args: str, wait: float = 20) -> tuple[int | None, str]:
        """Return its exit code and its output."""
        job = await self.begin(*args, wait=wait)
        said, _ = await job.communicate()
        return job.returncode, said.decode()


@pytest.fixture
def job(vpt: Cli, tmp_path: Path) -> CiJob:
    return CiJob(vpt, tmp_path)


async def test_the_script_exits_with_0_1_2_3_and_4_and_publishes_the_report(
    operator: Client, host: FakeHost, job: CiJob
) -> None:
    await _campaign(operator, "Good", {"command": "a"})
    await _campaign(operator, "Bad", {"command": "a", "success": False})
    await _campaign(operator, "Toast", {"command": "a"}, device_model="toaster")
    for name, wanted, words in (
        ("Good", 0, "Campaign Good passed."),
        ("Bad", 1, "FAILED    Bad"),
        ("Toast", 2, "toaster"),
        ("Unknown", 4, "There is no campaign 'Unknown'"),
    ):
        job.report.unlink(missing_ok=True)
        code, said = await job.run(name, "report.xml")
        assert (code, words in said) == (wanted, True), said
        assert job.report.exists() == (wanted < 2)
        if wanted < 2:
            xmlschema.validate(job.report, XSD)
    host.gate.clear()
    code, said = await job.run("Good", "report.xml", wait=3)
    assert (code, "vpt logs" in said) == (3, True), said
    assert "It is not over" in job.report.read_text()
    assert (await job.run())[0] == 4
    headings = re.findall("(?m)^### (.*)", job.summary.read_text())
    assert headings[0::4] == ["Good passed", "Good has not ended yet"]


async def test_a_job_that_is_cancelled_cancels_the_run(
    operator: Client, host: FakeHost, job: CiJob
) -> None:
    await _campaign(operator, "Long", {"command": "a"})
    host.gate.clear()
    step = await job.begin("Long")
    await until(lambda: host.seen)
    assert step.stdout is not None
    while b"attempt 1 begins" not in await step.stdout.readline():
        pass
    step.send_signal(signal.SIGTERM)
    said, _ = await step.communicate()
    assert (step.returncode, b"cancelling the run" in said) == (2, True), said

    async def cancelled() -> bool:
        [run] = (await got(operator, "/api/campaign-executions"))["items"]
        return bool(run["status"] == "cancelled")

    await until(cancelled)


def test_every_yaml_of_the_document_is_yaml_and_its_test_cases_can_be_imported(
    tmp_path: Path,
) -> None:
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```", DOCUMENT)
    assert len(blocks) == 3
    for block in blocks:
        assert yaml.safe_load(block)
    path = tmp_path / "lab.yaml"
    path.write_text(blocks[-1])
    assert [*read_files([path]).campaigns] == ["Nightly"]
