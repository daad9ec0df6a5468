"""How such a host runs a script: a program of its own, which the host tells nothing but its line.

A script finds its device by `--device`, else it takes the first one, whatever it was asked for.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from .body import Json
from .work import Behaviour, BrokenError, Execution, Work, ms_since

FIRST_DEVICE = "device1"  # what a script acts on that is not told a device
FOLDER = "/home/lab/virtualpytest/test_scripts"
_TRUE = ("yes", "true", "t", "y", "1", "on")
_FALSE = ("no", "false", "f", "n", "0", "off")


class UsageError(Exception):
    """A script does not take these parameters: argparse ends it with exit code 2."""


@dataclass
class Scripts:
    """The scripts on a host's disk, and what they see there.

    `known` are their names, None when any will do; `options` are what a script declares, each with
    its type (`str`, `int` or `bool`) and its default.
    """

    environment: Mapping[str, str]
    known: set[str] | None = None
    options: dict[str, dict[str, tuple[str, Any]]] = field(default_factory=dict)

    def parse(self, name: str, line: str) -> argparse.Namespace:
        """Return what a script reads from its command line; raise UsageError."""
        parser = _Parser(prog=f"{name}.py")
        for option in ("--host", "--device", "--userinterface"):
            parser.add_argument(option)
        for option, (kind, default) in self.options.get(name, {}).items():
            kinds: Mapping[str, Any] = {"bool": _boolean, "int": int}
            parser.add_argument(option, type=kinds.get(kind, str), default=default)
        return parser.parse_known_args(shlex.split(line))[0]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.format_usage()}{self.prog}: error: {message}\n")


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError("Boolean value expected.")


@dataclass
class Script:
    """One run of a script; its state is at the end what the callback tells."""

    work: Work
    scripts: Scripts
    name: str
    parameters: str
    when_done: Callable[[Json], Awaitable[None]]

    async def run(self, execution: Execution) -> None:
        """Run it, and tell."""
        begun = time.monotonic()
        try:
            result = await self._result(execution)
        except BrokenError as broken:
            execution.state |= {"error": str(broken)}
        else:
            execution.state |= {"result": result | {"execution_time_ms": ms_since(begun)}}
        execution.acts = False  # before anybody hears of it
        await self.when_done(execution.state)

    async def _result(self, execution: Execution) -> Json:
        if self.scripts.known is not None and self.name not in self.scripts.known:
            missing = f"Script not found: {FOLDER}/{self.name}.py"
            return _ended(1, stderr=missing) | {"success": False}
        try:
            read = self.scripts.parse(self.name, self.parameters)
        except UsageError as error:
            return _ended(2, stdout=str(error))
        self.work.act_on(execution, read.device or FIRST_DEVICE)
        asked = {"parameters": self.parameters, "read": vars(read)}
        return self._told(await self.work.act(execution, self.name, asked))

    def _told(self, how: Behaviour) -> Json:
        """Return what it printed, and how it ended: by its exit code, or by what it says itself."""
        lines = [f"{key}={value}" for key, value in self._environment(how)] + [how.message]
        if how.marker:
            lines += [f"SCRIPT_SUCCESS:{'true' if how.success else 'false'}"]
            verdict = {"script_success": how.success}
            return _ended(0, stdout="\n".join(lines)) | verdict | how.result
        ended = _ended(0 if how.success else 1, stdout="\n".join(lines))
        return ended | {"script_success": how.success} | how.result

    def _environment(self, how: Behaviour) -> Sequence[tuple[str, str]]:
        return list(self.scripts.environment.items()) if how.environment else []


def _ended(exit_code: int, stdout: str = "", stderr: str = "") -> Json:
    """Return the end of a script's process; what it wrote to stderr is within its stdout."""
    told = {"stdout": stdout, "stderr": stderr, "exit_code": exit_code, "script_success": None}
    return told | {"report_url": None, "logs_url": None}
