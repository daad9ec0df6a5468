"""docs/api.md: its example does what it says."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Client, token
from tests.web.kit import FakeHost
from vpt.model import Role

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_example_runs_as_it_stands(operator: Client, host: FakeHost) -> None:
    example = PAGE.read_text(encoding="utf-8").split("```sh\n")[1].split("```")[0]
    assert host.devices  # a pixel, which the example does not know
    example = example.replace('"desktop"', '"pixel"')
    settings = (
        f"set -eu; VPT_TOKEN={token(Role.OPERATOR)}"
        f" VPT_SERVER={str(operator.make_url('/')).rstrip('/')}\n"
    )
    child = await asyncio.create_subprocess_exec(
        *("sh", "-c", settings + example), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 0, said
    decoder = json.JSONDecoder()
    run, end = decoder.raw_decode(said.decode())
    assert run["status"] == "completed"
    assert host.seen[0]["params"] == {"url": "http://127.0.0.1:5109/"}
    page, end = decoder.raw_decode(said.decode(), end)
    assert page == {"items": [], "next_cursor": None}
    assert said.decode()[end:].startswith("<testsuites")
