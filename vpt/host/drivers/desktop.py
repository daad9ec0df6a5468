"""The desktop driver: shell commands, HTTP requests and waits on the host itself."""

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import hdrs
from yarl import URL

from vpt.host.drivers.base import (
    ActionFailed,
    BadAction,
    Driver,
    DriverError,
    DriverHealth,
    Job,
    Outcome,
    OutputTail,
    Params,
    describe,
    param,
)
from vpt.host.drivers.shell import Shell
from vpt.host.drivers.work_folder import WorkFolder

SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}
MOST_UNPACKED = 64 * 2**20
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


_LIMIT = param("number", "Seconds within which it must end.", min=0)
SHELL = describe(
    "execute_bash_command",
    "Run a shell command",
    "Run a command with bash on the host.",
    {
        "command": param("string", "The command.", required=True, placeholder="uname -a"),
        "cwd": param("string", "A folder below the working folder."),
        "expected_exit_code": param("integer", "The exit code of a success.", default=0),
        "expected_output": param("string", "A text that it must print."),
        "timeout": _LIMIT,
    },
)
ACTIONS = (
    describe(
        "http_request",
        "Send an HTTP request",
        "Send a request from the host and check its response.",
        {
            "url": param("string", "The URL.", required=True, placeholder="http://127.0.0.1:80/"),
            "method": param("string", "The method.", default="GET", options=list(METHODS)),
            "headers": param("object", "The headers, as a JSON object."),
            "body": param("string", "The body."),
            "expected_status": param("integer", "The status of a success.", default=200),
            "expected_text": param("string", "A text that the response must contain."),
            "timeout": _LIMIT,
        },
    ),
    describe(
        "wait",
        "Wait",
        "Do nothing for a while.",
        {"seconds": param("number", "Seconds.", required=True, default=1, min=0)},
    ),
)
#: Exit codes by which bash says that it could not run a program; no test has judged anything.
NOT_RUN = {126: "a program could not be executed", 127: "a program was not found"}


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """A checked shell command, and the exit codes and the output by which it is judged."""

    text: str
    folder: str
    exit_code: int
    infrastructure: frozenset[int]
    wanted: str | None

    def judge(self, code: int, tail: OutputTail) -> Outcome:
        """Return the outcome of a good end; raise DriverError or ActionFailed for others."""
        if code != self.exit_code:
            if code in NOT_RUN:
                raise DriverError(f"exit code {code}: {NOT_RUN[code]}", tail.text())
            if code in self.infrastructure:
                raise DriverError(f"exit code {code}, one of infra_exit_codes", tail.text())
            raise ActionFailed(f"exit code: expected {self.exit_code}, got {code}", tail.text())
        if not tail.found:
            raise ActionFailed(f"output: does not contain {self.wanted!r}", tail.text())
        return Outcome(tail.text())


class DesktopDriver(Driver):
    """Executes actions on the machine it runs on."""

    def __init__(
        self, *, allow_shell: bool, environment: Mapping[str, str], work_folder: Path
    ) -> None:
        """Start nothing yet; shell commands need `allow_shell`, and get `environment`.

        They work in `work_folder`, which is emptied for each attempt.
        """
        self._allow_shell = allow_shell
        self._environment = environment
        self._work = WorkFolder(work_folder)
        self._shell = Shell({**environment, "TMPDIR": str(self._work.temporary)})
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @property
    def capabilities(self) -> tuple[str, ...]:
        """`desktop`, the operating system, and what is allowed."""
        system = SYSTEMS.get(sys.platform, sys.platform)
        shell = ("shell",) if self._allow_shell else ()
        return ("desktop", f"desktop_{system}", "http", *shell)

    @property
    def commands(self) -> Mapping[str, Callable[[Params], Job]]:
        """The commands by the names that test cases use."""
        return {
            "execute_bash_command": self._bash,
            "http_request": self._http,
            "wait": wait,
        }

    @property
    def descriptions(self) -> tuple[Mapping[str, Any], ...]:
        """Descriptions of the commands, of shell commands only where they are allowed."""
        return (SHELL, *ACTIONS) if self._allow_shell else ACTIONS

    async def health(self) -> DriverHealth:
        """Return whether shell commands, if they are allowed, have a bash and a place to work."""
        properties = {"system": platform.platform(), "machine": platform.machine()}
        if self._allow_shell:
            path = self._environment.get("PATH", os.defpath)
            missing = None if shutil.which("bash", path=path) else "there is no bash in PATH"
            if reason := missing or await self._work.fault():
                return DriverHealth(False, reason, properties)
        return DriverHealth(properties=properties)

    async def fresh(self) -> None:
        """Remove the files of earlier commands; nothing else of them is left."""
        if self._allow_shell:
            await self._work.clear()

    async def stop(self) -> None:
        """End the shell command; requests and waits ended with their job."""
        await self._shell.stop()

    async def close(self) -> None:
        """End the supervisor of shell commands and close the connections."""
        self._closed = True
        await self._shell.close()
        if self._session is not None:
            await self._session.close()

    def _bash(self, params: Params) -> Job:
        if not self._allow_shell:
            message = "shell commands are disabled; start the host with --allow-shell to allow them"
            raise BadAction(message, "shell_disabled")
        command = ShellCommand(
            _without_nul("command", params.text("command")),
            str(self._work.files / _without_nul("cwd", params.text("cwd", ""))),
            params.whole("expected_exit_code", 0),
            params.whole_numbers("infra_exit_codes"),
            params.optional_text("expected_output"),
        )
        tail = OutputTail(command.wanted)
        return Job(partial(self._run_bash, command, tail), params.limit(), tail.text)

    async def _run_bash(self, command: ShellCommand, tail: OutputTail) -> Outcome:
        return command.judge(await self._shell.run(command.text, command.folder, tail), tail)

    def _http(self, params: Params) -> Job:
        method = params.text("method", "GET").upper()
        if method not in METHODS:
            raise BadAction(f"method: must be one of {', '.join(METHODS)}")
        url = _web_address(params.text("url"))
        options = {"headers": params.mapping("headers"), **_payload(params)}
        status = params.whole("expected_status", 200)
        tail = OutputTail(params.optional_text("expected_text"))
        run = partial(self._run_http, method, url, options, status, tail)
        return Job(run, params.limit(), tail.text)

    async def _run_http(
        self, method: str, url: str, options: dict[str, object], status: int, tail: OutputTail
    ) -> Outcome:
        if self._closed:  # the action had just begun: nobody would close what it opens
            raise DriverError("the host is stopping")
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None)  # the job has a time limit
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout
            )
        try:
            async with self._session.request(method, url, **options) as response:  # type: ignore[arg-type]
                await _read(response, tail)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ActionFailed(f"{method} {url}: {error or type(error).__name__}") from error
        return _judge(response, status, tail)


def wait(params: Params) -> Job:
    """Build a job that waits `seconds`, or `wait_time` milliseconds."""
    if "wait_time" in params:
        pause = params.seconds("wait_time", 0, per_second=1000)
    elif "seconds" in params:
        pause = params.seconds("seconds", 0)
    else:
        raise BadAction("seconds: missing; it is the number of seconds to wait")
    return Job(partial(_pause, pause))


async def _pause(seconds: float) -> Outcome:
    await asyncio.sleep(seconds)
    return Outcome(f"waited {seconds:g} s")


def _web_address(text: str) -> str:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadAction("url: must be an http or https URL")
    return text


def _payload(params: Params) -> dict[str, object]:
    if "json" in params:
        return {"json": params.get("json")}
    return {"data": params.text("body").encode()} if "body" in params else {}


async def _read(response: aiohttp.ClientResponse, tail: OutputTail) -> None:
    """Read a response; one that is compressed may be a thousand times as long as what was sent."""
    packed, size = hdrs.CONTENT_ENCODING in response.headers, 0
    async for chunk in response.content.iter_chunked(64 * 1024):
        tail.feed(chunk)
        size += len(chunk)
        if packed and size > MOST_UNPACKED:
            raise ActionFailed(
                f"the response is compressed and over {MOST_UNPACKED // 2**20} MiB", tail.text()
            )
        await asyncio.sleep(0)  # what is unpacked already is read without a wait


def _judge(response: aiohttp.ClientResponse, status: int, tail: OutputTail) -> Outcome:
    text = f"HTTP {response.status} {response.reason or ''}\n{tail.text()}"
    if response.status != status:
        raise ActionFailed(f"status: expected {status}, got {response.status}", text)
    if not tail.found:
        raise ActionFailed(f"text: the response does not contain {tail.wanted!r}", text)
    return Outcome(text)


def _without_nul(name: str, text: str) -> str:
    if "\0" in text:
        raise BadAction(f"{name}: must not contain a NUL character")
    return text
