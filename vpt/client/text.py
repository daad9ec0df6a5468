"""Formatting for terminals and CI logs: on one line, without control sequences."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from vpt.model import Json, WaitReason
from vpt.printable import sanitized

LONGEST = 500

_WAITS = {
    WaitReason.ALL_BUSY: "all matching devices are busy",
    WaitReason.LANE_BUSY: "the host runs one thing at a time",
    WaitReason.NO_ONLINE_HOST: "no matching host is online",
    WaitReason.HOST_SUSPECT: "the matching host fails its probes",
    WaitReason.LEASED: "all matching devices are leased",
    WaitReason.DRAINING: "the matching host is draining",
    WaitReason.NOTHING_FITS: "no registered device fits any more",
    WaitReason.DEVICE_AWAY: "the matching device is not available, says its host",
    WaitReason.PAUSED: "the matching host is paused because its connection is unstable",
    WaitReason.HELD_BACK: "all matching devices are held back after too many errors",
    WaitReason.BACKOFF: "it just failed on the matching device and is tried there again soon",
}
_NAMED = 3
_COMMANDS, _BRIEF = ("command", "action_type"), 200


def one_line(text: object, longest: int = LONGEST) -> str:
    """Return a text on one line, cut to `longest` characters."""
    line = " ".join(sanitized(str(text)).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def print_line(line: str) -> None:
    """Print a line. When the reader ended, as `head` does, later output is discarded.

    The exit code must not depend on who reads the output.
    """
    try:
        click.echo(line)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def format_seconds(value: float | None) -> str:
    """Return a duration in seconds as text; "" when it is not known."""
    return "" if value is None else f"{value:.1f} s"


def format_wait(waiting: Json) -> str:
    """Return one line for a queue_changed event or a response of GET …/queue."""
    try:
        words = _WAITS[WaitReason(waiting["reason"])]
    except ValueError:
        words = one_line(waiting["reason"])
    names = [one_line(name) for name in waiting["names"]]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        words += f" ({', '.join(names[:_NAMED])}{more})"
    place = f", position {waiting['position']}" if waiting.get("position") else ""
    eta = f", about {waiting['eta_s']:.0f} s" if waiting.get("eta_s") is not None else ""
    return f"waiting: {words}{place}{eta}"


def format_step_params(step: Json) -> str:
    """Return the parameters of a step as short text; "" when it has only a command."""
    more = {name: value for name, value in step.items() if name not in _COMMANDS}
    params = more.get("params")
    shown = params if isinstance(params, dict) else more
    pairs = (
        f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in shown.items()
    )
    return one_line(", ".join(pairs), _BRIEF)


def failure_reason(execution: Json) -> str:
    """Return why a finished execution did not pass: the error of its failed step, if any."""
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


def format_field_errors(errors: Mapping[str, Any], at: str = "") -> str:
    """Return the `errors` of a refusal, nested by field, as one sentence."""
    parts = []
    for name, what in errors.items():
        where = f"{at}.{name}" if at else str(name)
        if isinstance(what, Mapping):
            parts.append(format_field_errors(what, where))
        else:
            listed = what if isinstance(what, list) else [what]
            parts.append(f"{where}: {' '.join(map(str, listed))}")
    return "; ".join(parts)


def format_summary(counts: Json) -> str:
    """Return the numbers of a campaign's tests by result, and its duration."""
    kinds = ("completed", "passed"), ("failed",), ("error",), ("cancelled",), ("skipped",)
    parts = [f"{counts[kind[0]]} {kind[-1]}" for kind in kinds if counts[kind[0]]]
    return f"{counts['total']} tests: {', '.join(parts)} in {format_seconds(counts['duration_s'])}"
