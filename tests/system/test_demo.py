"""The demo as a person sees it at a terminal, and as CI does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.kit import Cli, Terminal
from tests.system.kit import LIMIT, open_folder, process


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Provide one data folder for all demos: to make a database takes the longest."""
    with open_folder() as folder:
        yield folder


@pytest.mark.parametrize(
    ("shown", "lines", "code"),
    [
        ('/api/executions?limit=5"\r\n', ["vpt demo is stopping; its data is kept."], 0),
        ("of 5 finished", ["interrupted: cancelling the run on the server"], 2),
        ("data and log in", ["Error: Interrupted; nothing was started."], 2),
    ],
)
async def test_ctrl_c_ends_it_in_one_line(
    folder: Path, shown: str, lines: list[str], code: int
) -> None:
    demo = Cli("", "", {"VPT_DATA_DIR": str(folder), "SERVER_PORT": "0"})
    with Terminal(demo, "demo") as terminal:
        await terminal.shows(shown, LIMIT)
        terminal.types("\x03")
        assert await terminal.ended(LIMIT) == code
        after = terminal.drawn.rpartition("^C")[2]
    table = ("┏", "┃", "┡", "│", "└", "Demo campaign")  # it may be drawn once more
    words = [line.strip() for line in after.replace("\r", "\n").splitlines()]
    assert [line for line in words if line and not line.startswith(table)] == lines
    log = (folder / "demo.log").read_text()
    assert log.count("embedded_postgres_started") == log.count("embedded_postgres_stopped") > 0
    assert "Traceback" not in log


async def test_once_ends_with_the_verdict_of_the_campaign(folder: Path) -> None:
    settings = {"VPT_DATA_DIR": folder, "SERVER_PORT": 0}
    async with process(folder, "-m", "vpt", "demo", "--once", **settings) as demo:
        assert await demo.ended() == 0, demo.said()
    assert "5 tests: 5 passed in" in demo.said()
    assert "#token=" not in demo.said()
