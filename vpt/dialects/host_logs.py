"""What stands in the logs and the printed text of a VirtualPyTest host: why something failed.

The result of an action names the action and no reason: the host logs the reason, and what the
controller answered, while it runs the action. A script's reason is what it printed last.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_FAILURES = 100  # of a log that are read
_LONGEST_ANSWER = 64 * 1024  # characters of a controller's answer that are parsed

_FAILED = re.compile(r"❌ (?P<command>.+?)(?: iteration \d+/\d+)?: FAILED\b")
_ERROR = re.compile(r"^\[@lib:action_executor\]\s+Error: ?(?P<text>.*)")
_ANSWER = re.compile(r"^\[@lib:action_executor\]\s+Full response: (?P<text>.*)")
_PREFIX = "Actions failed: "
#: Says that something failed, and nothing of the reason.
_EMPTY = re.compile(
    r"failed|failure|error|unknown error|none|failed after \d+ iteration\(s\)", re.I
)
_COUNT = re.compile(r" \(\d+/\d+ iterations\)")

_VERDICT = "SCRIPT_SUCCESS:"
_MARKER = re.compile(r"SCRIPT_[A-Z_]+:")
_RULE = re.compile(r"[\W_]*")  # a line of dashes
_FAILS = re.compile(r"\b(fail(ed|s|ure)?|error|exception|timed? ?out)\b|❌", re.I)
_LAST_LINES = 20  # of a script, among which the reason is looked for
_LONGEST_TAIL = 32 * 1024  # characters that they may have


@dataclass(frozen=True, slots=True)
class LoggedFailure:
    """One action that failed, as the host logged it; `output` is what the action printed."""

    command: str
    error: str
    output: str


def failures_in(logs: Any) -> list[LoggedFailure]:
    """Return the actions that failed by a host's log, in their order."""
    if not isinstance(logs, str) or "FAILED" not in logs:
        return []
    lines, found = logs.splitlines(), []
    for number, line in enumerate(lines):
        failed = _FAILED.search(line)
        if failed is not None:
            found.append(_failure(failed["command"], lines[number + 1 :]))
        if len(found) == MOST_FAILURES:
            break
    return found


def _failure(command: str, lines: Sequence[str]) -> LoggedFailure:
    """Read the lines that follow the one which says that an action failed."""
    answer = _controller_answer(_block(lines, _ANSWER, most=1))
    error = _block(lines, _ERROR) or _text(answer, "error") or _text(answer, "message")
    code = answer.get("exit_code")
    if not error or _EMPTY.fullmatch(error):
        error = f"exit code {code}" if isinstance(code, int) else ""
    return LoggedFailure(command, error, _text(answer, "output"))


def _block(lines: Sequence[str], begin: re.Pattern[str], most: int = MOST_FAILURES) -> str:
    """Return the text of an entry of the log, which may have several lines."""
    for number, line in enumerate(lines):
        begun = begin.match(line)
        if begun is not None:
            rest = _until_next(lines[number + 1 : number + most])
            return "\n".join((begun["text"], *rest)).strip()
        if _FAILED.search(line):
            break
    return ""


def _until_next(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("[@"):
            return
        yield line


def _controller_answer(text: str) -> Mapping[str, Any]:
    """Return what the controller answered, which the host logs as a Python dictionary."""
    if not text or len(text) > _LONGEST_ANSWER:
        return {}
    try:
        answer = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _text(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    return value.strip() if isinstance(value, str) else ""


def reason(said: str | None, names: Sequence[str], failures: Sequence[LoggedFailure]) -> str:
    """Return why something failed: what the host says of it, or else what it logged.

    `names` are those of what failed: a text that only names it is no reason.
    """
    text = (said or "").removeprefix(_PREFIX).strip()
    known = {*names, *(failure.command for failure in failures)}
    if text and not all(_is_empty(part, known) for part in text.split("; ")):
        return text
    logged = (failure.error for failure in reversed(failures))
    return next((error for error in logged if error), "")


def _is_empty(text: str, names: set[str]) -> bool:
    """Return whether a text is only a name, or says no more than that it failed."""
    text = _COUNT.sub("", text).strip()
    if text in names or _EMPTY.fullmatch(text):
        return True
    name, _, rest = text.partition(": ")
    return name in names and (not rest or _EMPTY.fullmatch(rest) is not None)


def last_part(text: str, most: int) -> str:
    """Return the last whole lines of a text, of at most `most` characters together."""
    # Not the end of a line: it may begin within a secret, which would not be found and masked then.
    return text if len(text) <= most else text[-most:].partition("\n")[2]


def last_words(stdout: str) -> str:
    """Return the line in which a script said why it failed, before it said that it did; or ""."""
    before, verdict, _ = stdout.rpartition(_VERDICT)
    text = before if verdict else stdout
    lines = [*_lines(last_part(text, _LONGEST_TAIL))][-_LAST_LINES:]
    if not lines:
        return ""
    return next((line for line in reversed(lines) if _FAILS.search(line)), lines[-1])


def _lines(text: str) -> Iterator[str]:
    """Return the lines that say something."""
    for line in text.splitlines():
        said = line.strip()
        if said and not _MARKER.match(said) and not _RULE.fullmatch(said):
            yield said
