"""What a run looks like: a line for each thing that happens, or a table on a terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from vpt.client.words import one_line, seconds, tell, why_it_waits
from vpt.model import ExecutionStatus, Json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_MARKS = {
    "completed": ("✔ passed", "green"),
    "failed": ("✘ failed", "red"),
    "error": ("! error", "magenta"),
    "cancelled": ("- cancelled", "yellow"),
    "skipped": ("- skipped", "dim"),
    "running": ("running", "cyan"),
    "queued": ("waits", "dim"),
}


@dataclass
class Test:
    """One test of the run, as it is now."""

    __test__ = False

    name: str
    status: str = "queued"
    attempt: int = 0
    step: int = 0
    total: int = 0
    where: str = ""
    waits: str = ""
    took_s: float | None = None
    untold: list[str] = field(default_factory=list)  # until its name is known

    def say(self) -> list[str]:
        """Return what was not printed yet."""
        words, self.untold = self.untold, []
        return [f"{self.name}: {word}" for word in words]


@dataclass
class RunView:
    """All tests of a run, by the ids of their executions."""

    title: str
    tests: dict[str, Test] = field(default_factory=dict)
    total: int = 1

    def test(self, execution_id: str) -> Test:
        """Return a test, which may have events before its name is known."""
        return self.tests.setdefault(execution_id, Test(""))

    def hear(self, name: str, event: Json) -> list[str]:
        """Apply an event; return the lines to print now."""
        if name == "campaign_progress":
            self.total = event["total"]
            return []
        test = self.test(event["execution_id"])
        words = self._waits(test, event) if name == "queue_changed" else self._goes_on(test, event)
        test.untold += [words] if words else []
        return test.say() if test.name else []

    def _waits(self, test: Test, event: Json) -> str | None:
        words = why_it_waits(event)
        if test.status != ExecutionStatus.QUEUED or test.waits == words:
            return None
        test.waits = words
        return words

    def _goes_on(self, test: Test, event: Json) -> str:
        test.status, test.step, test.total = event["status"], event["step"], event["total_steps"]
        test.where = event["device_id"] or ""
        test.waits = ""
        at = f" ({test.where})" if test.where else ""
        if ExecutionStatus(test.status).final:
            return f"{_MARKS[test.status][0][2:]}{at}"
        if test.step:
            return f"step {test.step}/{test.total} {event['step_status']}{at}"
        test.attempt = event["attempt"]
        steps = "1 step" if test.total == 1 else f"{test.total} steps"
        return f"attempt {test.attempt} begins, {steps}{at}"

    def learn(self, execution: Json) -> list[str]:
        """Apply the API's view of an execution, or of a result; return the lines to print now."""
        test = self.test(execution["execution_id"])
        test.name = one_line(execution["test_case_name"], 60)
        if not _over(test):
            test.status = execution["status"]
        test.where = execution["device_id"] or test.where
        test.took_s = execution["duration_s"]
        return test.say()

    def table(self, width: int, height: int) -> RenderableType:
        """Draw it for a terminal of so many columns and lines."""
        from rich.cells import cell_len  # noqa: PLC0415 (for terminals only)
        from rich.padding import Padding  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        shown = self._shown(max(1, height - _FRAME))
        many, wide = len(shown) > _FEW, width >= _WIDE
        where = max((cell_len(test.where) for test in shown), default=0)
        room = max(_SHORTEST, width - where - (_OTHERS if wide else _OTHERS_NARROW))
        table = Table(title=Text(self._heading()), title_justify="left")
        table.add_column("test case")
        for title in ("device", *(("steps",) if wide else ()), "", "verdict", "time"):
            table.add_column(title, no_wrap=many)
        for test in shown:
            name = Text(test.name)
            if many:
                name.truncate(room, overflow="ellipsis")
            words, style = _MARKS[test.status]
            bar = (ProgressBar(test.total or 1, test.step, width=12),) if wide else ()
            table.add_row(
                name,
                Text(test.where),
                *bar,
                f"{test.step}/{test.total}" if test.total else "",
                Text(words if many else test.waits or words, style),
                seconds(test.took_s),
            )
        return Padding(table, (0, _ECHO, 0, 0), expand=False)

    def _heading(self) -> str:
        if self.total == 1:
            return self.title
        over = sum(map(_over, self.tests.values()))
        return f"{self.title}: {over} of {self.total} are over"

    def _shown(self, room: int) -> list[Test]:
        """Return those that there is room for, in the order in which they became known."""
        tests = list(self.tests.values())
        telling = sorted(range(len(tests)), key=lambda number: _rank(number, tests[number]))
        return [tests[number] for number in sorted(telling[:room])]


#: Columns from which on there is room for bars, and those that a terminal's `^C` takes.
_WIDE, _ECHO = 100, 3
#: Lines that are not tests': title, heading, borders, and what is said above.
_FRAME = 9
#: So many tests may take several lines each.
_FEW = 3
#: Columns of all but names and devices, with and without bars; and those that a name keeps.
_OTHERS, _OTHERS_NARROW, _SHORTEST = 57, 42, 12


def _rank(number: int, test: Test) -> tuple[int, int]:
    """Order what runs before what waits, before what is over, the last ones first."""
    if _over(test):
        return 2, -number
    return int(test.status == ExecutionStatus.QUEUED), number


def _over(test: Test) -> bool:
    return test.status == "skipped" or ExecutionStatus(test.status).final


class Screen(Protocol):
    """Where a run is shown while it goes on."""

    terminal: bool

    def say(self, words: str) -> None:
        """Print a line."""

    def event(self, lines: list[str]) -> None:
        """Print what happened, where no table shows it."""

    def pause(self) -> None:
        """Leave the terminal free for a question."""

    def resume(self) -> None:
        """Go on."""


class Lines:
    """Plain lines with the time: for CI."""

    terminal = False

    def say(self, words: str) -> None:
        """Print a line with the time."""
        tell(f"{datetime.now().astimezone():%H:%M:%S} {words}")

    def event(self, lines: list[str]) -> None:
        """Print each line with the time."""
        for line in lines:
            self.say(line)

    def pause(self) -> None:
        """Nothing is in the way."""

    resume = pause


class Terminal:
    """A table that is drawn anew as things happen."""

    terminal = True

    def __init__(self, board: RunView) -> None:
        """Draw this run."""
        from rich.console import Console  # noqa: PLC0415 (for terminals only)

        self._board = board
        self._console = Console(highlight=False, markup=False)
        self._live = self._drawing()

    def _drawing(self) -> Live:
        from rich.live import Live  # noqa: PLC0415

        return Live(
            console=self._console,
            refresh_per_second=8,
            get_renderable=lambda: self._board.table(*self._console.size),
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def say(self, words: str) -> None:
        """Print a line above the table; a long link stays one."""
        self._console.print(words, soft_wrap=True)

    def event(self, lines: list[str]) -> None:
        """Leave it to the table."""

    def pause(self) -> None:
        """Leave the table as it is now."""
        self._live.stop()

    def resume(self) -> None:
        """Draw it again below; one that was stopped would draw over what was said since."""
        self._live = self._drawing()
        self._live.start()


def screen_for(board: RunView) -> Screen:
    """Return a table for a terminal, lines for anything else."""
    from rich.console import Console  # noqa: PLC0415

    watched = sys.stdin.isatty() and sys.stdout.isatty() and not Console().is_dumb_terminal
    return Terminal(board) if watched else Lines()
