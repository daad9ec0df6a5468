"""The progress of a run: one line per event, or a live table on a terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from vpt.client.text import format_seconds, format_wait, one_line, print_line
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
    "queued": ("waiting", "dim"),
}


@dataclass
class TestState:
    """The current state of one test of the run."""

    __test__ = False

    name: str
    status: str = "queued"
    attempt: int = 0
    step: int = 0
    total: int = 0
    device: str = ""
    wait_reason: str = ""
    duration_s: float | None = None
    pending: list[str] = field(default_factory=list)  # lines to print once its name is known

    def take_lines(self) -> list[str]:
        """Return the lines that were not printed yet."""
        lines, self.pending = self.pending, []
        return [f"{self.name}: {line}" for line in lines]


@dataclass
class RunProgress:
    """The tests of a run, by the ids of their executions."""

    title: str
    tests: dict[str, TestState] = field(default_factory=dict)
    total: int = 1

    def test(self, execution_id: str) -> TestState:
        """Return a test, adding it without a name: its events may come before the API names it."""
        return self.tests.setdefault(execution_id, TestState(""))

    def on_event(self, name: str, event: Json) -> list[str]:
        """Update a test by a live event and return the lines to print now."""
        if name == "campaign_progress":
            self.total = event["total"]
            return []
        test = self.test(event["execution_id"])
        words = (
            self._on_queue_changed(test, event)
            if name == "queue_changed"
            else self._on_test_progress(test, event)
        )
        test.pending += [words] if words else []
        return test.take_lines() if test.name else []

    def _on_queue_changed(self, test: TestState, event: Json) -> str | None:
        words = format_wait(event)
        if test.status != ExecutionStatus.QUEUED or test.wait_reason == words:
            return None
        test.wait_reason = words
        return words

    def _on_test_progress(self, test: TestState, event: Json) -> str:
        test.status, test.step, test.total = event["status"], event["step"], event["total_steps"]
        test.device = event["device_id"] or ""
        test.wait_reason = ""
        at = f" ({test.device})" if test.device else ""
        if ExecutionStatus(test.status).final:
            return f"{_MARKS[test.status][0][2:]}{at}"
        if test.step:
            return f"step {test.step}/{test.total} {event['step_status']}{at}"
        test.attempt = event["attempt"]
        steps = "1 step" if test.total == 1 else f"{test.total} steps"
        return f"attempt {test.attempt} begins, {steps}{at}"

    def update(self, execution: Json) -> list[str]:
        """Update a test by an execution or result of the API; return the lines to print."""
        test = self.test(execution["execution_id"])
        test.name = one_line(execution["test_case_name"], 60)
        if not _is_over(test):
            test.status = execution["status"]
        test.device = execution["device_id"] or test.device
        test.duration_s = execution["duration_s"]
        return test.take_lines()

    def table(self, width: int, height: int) -> RenderableType:
        """Return the table for a terminal of so many columns and lines."""
        from rich.cells import cell_len  # noqa: PLC0415 (for terminals only)
        from rich.padding import Padding  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        shown = self._shown(max(1, height - _FRAME))
        many, wide = len(shown) > _FEW, width >= _WIDE
        where = max((cell_len(test.device) for test in shown), default=0)
        room = max(_SHORTEST, width - where - (_OTHERS if wide else _OTHERS_NARROW))
        table = Table(title=Text(self._heading()), title_justify="left")
        table.add_column("test case")
        for title in ("device", *(("steps",) if wide else ()), "", "result", "time"):
            table.add_column(title, no_wrap=many)
        for test in shown:
            name = Text(test.name)
            if many:
                name.truncate(room, overflow="ellipsis")
            words, style = _MARKS[test.status]
            bar = (ProgressBar(test.total or 1, test.step, width=12),) if wide else ()
            table.add_row(
                name,
                Text(test.device),
                *bar,
                f"{test.step}/{test.total}" if test.total else "",
                Text(words if many else test.wait_reason or words, style),
                format_seconds(test.duration_s),
            )
        return Padding(table, (0, _ECHO, 0, 0), expand=False)

    def _heading(self) -> str:
        if self.total == 1:
            return self.title
        over = sum(map(_is_over, self.tests.values()))
        return f"{self.title}: {over} of {self.total} finished"

    def _shown(self, room: int) -> list[TestState]:
        """Return the most relevant tests that fit, in the order in which they became known."""
        tests = list(self.tests.values())
        ranked = sorted(range(len(tests)), key=lambda number: _rank(number, tests[number]))
        return [tests[number] for number in sorted(ranked[:room])]


#: Columns from which on there is room for progress bars; the columns that an echoed `^C` needs.
_WIDE, _ECHO = 100, 3
#: Lines that show no test: title, heading, borders, and lines printed above the table.
_FRAME = 9
#: Up to so many tests may use several lines each.
_FEW = 3
#: Columns of all but name and device, with and without bars; the fewest columns of a name.
_OTHERS, _OTHERS_NARROW, _SHORTEST = 57, 42, 12


def _rank(number: int, test: TestState) -> tuple[int, int]:
    """Return the sort key: running tests, then queued ones, then finished ones, latest first."""
    if _is_over(test):
        return 2, -number
    return int(test.status == ExecutionStatus.QUEUED), number


def _is_over(test: TestState) -> bool:
    return test.status == "skipped" or ExecutionStatus(test.status).final


class Display(Protocol):
    """The output of a run in progress; `interactive` when a person can answer questions."""

    interactive: bool

    def print(self, line: str) -> None:
        """Print a message of one line."""

    def print_events(self, lines: list[str]) -> None:
        """Print what happened, unless a table shows it."""

    def pause(self) -> None:
        """Stop drawing: a question or the result follows."""

    def resume(self) -> None:
        """Draw again."""


class LineDisplay:
    """Prints plain lines with the time: for CI."""

    interactive = False

    def print(self, line: str) -> None:
        """Print a message with the time."""
        print_line(f"{datetime.now().astimezone():%H:%M:%S} {line}")

    def print_events(self, lines: list[str]) -> None:
        """Print each line with the time."""
        for line in lines:
            self.print(line)

    def pause(self) -> None:
        """Do nothing: lines need no redrawing."""

    resume = pause


class TableDisplay:
    """Draws a table of the tests, several times a second."""

    interactive = True

    def __init__(self, progress: RunProgress) -> None:
        """Prepare to draw `progress`; `resume` starts it."""
        from rich.console import Console  # noqa: PLC0415 (for terminals only)

        self._progress = progress
        self._console = Console(highlight=False, markup=False)
        self._live = self._drawing()

    def _drawing(self) -> Live:
        from rich.live import Live  # noqa: PLC0415

        return Live(
            console=self._console,
            refresh_per_second=8,
            get_renderable=lambda: self._progress.table(*self._console.size),
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def print(self, line: str) -> None:
        """Print a message above the table, unwrapped so that a long link can be clicked."""
        self._console.print(line, soft_wrap=True)

    def print_events(self, lines: list[str]) -> None:
        """Do nothing: the table shows it."""

    def pause(self) -> None:
        """Stop drawing; the table stays as it is."""
        self._live.stop()

    def resume(self) -> None:
        """Draw a new table below: a stopped one would overwrite what was printed since."""
        self._live = self._drawing()
        self._live.start()


def display_for(progress: RunProgress) -> Display:
    """Return a table where a person watches a terminal, else lines."""
    from rich.console import Console  # noqa: PLC0415

    watched = sys.stdin.isatty() and sys.stdout.isatty() and not Console().is_dumb_terminal
    return TableDisplay(progress) if watched else LineDisplay()
