"""How things are said: on one line, without what would steer a terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import click

from vpt.model import Json, WaitReason

LONGEST = 500

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_COMMAND = re.compile(r"##(?=\w*\[)")
_WAITS = {
    WaitReason.ALL_BUSY: "all that fit are busy",
    WaitReason.LANE_BUSY: "its host works one thing at a time",
    WaitReason.NO_ONLINE_HOST: "no host that fits is online",
    WaitReason.HOST_SUSPECT: "the host that fits does not answer well",
    WaitReason.LEASED: "all that fit are leased",
    WaitReason.DRAINING: "the host that fits is draining",
    WaitReason.PAUSED: "the host that fits is held back, since it came and went",
}
_NAMED = 3
_COMMANDS, _BRIEF = ("command", "action_type"), 200


def harmless(text: str) -> str:
    """Give text of the outside without control characters, except tabs and line ends, and without
    what CI systems take for their own wherever it stands in a line: ##[error], ##vso[...].
    """
    return _COMMAND.sub("# #", _CONTROL.sub("\ufffd", text.replace("\r\n", "\n")))


def one_line(text: object, longest: int = LONGEST) -> str:
    """Give it on one line, cut where it is longer than `longest`."""
    line = " ".join(harmless(str(text)).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def tell(words: str) -> None:
    """Print it. When nobody reads any more, as after `head`, what is told goes nowhere from now on:
    a verdict does not depend on its readers.
    """
    try:
        click.echo(words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def seconds(value: float | None) -> str:
    """Say a duration."""
    return "" if value is None else f"{value:.1f} s"


def why_it_waits(told: Json) -> str:
    """Say what a queue_changed event or GET …/queue tells."""
    try:
        words = _WAITS[WaitReason(told["reason"])]
    except ValueError:
        words = one_line(told["reason"])
    names = [one_line(name) for name in told["names"]]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        words += f" ({', '.join(names[:_NAMED])}{more})"
    place = f", place {told['position']} in line" if told.get("position") else ""
    eta = f", about {told['eta_s']:.0f} s" if told.get("eta_s") is not None else ""
    return f"waits: {words}{place}{eta}"


def what_it_asks(step: Json) -> str:
    """Say in a few words what a step asks for, its command aside; nothing when that is all."""
    more = {name: value for name, value in step.items() if name not in _COMMANDS}
    params = more.get("params")
    wanted = params if isinstance(params, dict) else more
    told = (
        f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in wanted.items()
    )
    return one_line(", ".join(told), _BRIEF)


def why_not_passed(execution: Json) -> str:
    """Say why an execution that is over did not pass, in the failing step's words."""
    if execution["status"] == "failed":
        for step in execution["steps"]:
            if step["status"] == "failed":
                words = step["error"] or step["output"] or "no reason given"
                return one_line(f"step {step['index']}, {step['action']}: {words}")
        return "it failed"
    if execution["status"] == "error":
        words = execution["error"] or "no reason given"
        return one_line(f"{execution['error_kind']}: {words}")
    return ""


def what_is_invalid(errors: Mapping[str, Any], at: str = "") -> str:
    """Say marshmallow's messages as one sentence."""
    told = []
    for name, what in errors.items():
        where = f"{at}.{name}" if at else str(name)
        if isinstance(what, Mapping):
            told.append(what_is_invalid(what, where))
        else:
            listed = what if isinstance(what, list) else [what]
            told.append(f"{where}: {' '.join(map(str, listed))}")
    return "; ".join(told)


def summary(counts: Json) -> str:
    """Say how the tests of a campaign ended."""
    kinds = ("completed", "passed"), ("failed",), ("error",), ("cancelled",), ("skipped",)
    told = [f"{counts[kind[0]]} {kind[-1]}" for kind in kinds if counts[kind[0]]]
    return f"{counts['total']} tests: {', '.join(told)} in {seconds(counts['duration_s'])}"
