"""What the log looks like, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, structlog
from vpt.logs import setup
from aiohttp.http_exceptions import BadHttpMessage
setup({format!r}, "info")
log = structlog.get_logger("x")
structlog.contextvars.bind_contextvars(request_id="r1")
log.debug("unseen")
log.info("seen", path="a\\udc00b", number=2**80, **{{"odd": object}})
try:
    secret_variable = 1 / 0
except ZeroDivisionError:
    log.exception("broke")
logging.getLogger("lib").warning("from %s", "a library")
logging.getLogger("lib").info("unseen")
try:
    raise BadHttpMessage("no HTTP")
except BadHttpMessage:
    logging.getLogger("aiohttp.server").exception("Error handling request")
"""


def logged(log_format: str) -> list[str]:
    program = PROGRAM.format(format=log_format)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == ""
    return run.stderr.splitlines()


def test_a_line_of_json_for_each_event() -> None:
    seen, broke, library = map(json.loads, logged("json"))
    assert (seen["event"], seen["request_id"], seen["level"]) == ("'seen'", "'r1'", "'info'")
    assert broke["event"] == "broke"
    assert "ZeroDivisionError" in broke["exception"]
    assert (library["event"], library["logger"]) == ("from a library", "lib")


def test_words_for_a_terminal() -> None:
    text = "\n".join(logged("console"))
    assert "seen" in text
    assert "ZeroDivisionError" in text
    assert "from a library" in text
    assert "unseen" not in text


AGAIN = """
import structlog
from vpt import logs
logs.setup("json", "warning")
log = structlog.get_logger("x")
for level in ("warning", "debug", "error", "info"):
    logs.set_level(level)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(f"{level} {name}")
"""


def test_loggers_in_use_hear_of_another_level() -> None:
    run = subprocess.run(
        [sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True, timeout=60
    )
    said = [json.loads(line) for line in run.stderr.splitlines()]
    names = ("debug", "info", "warning", "error")
    assert [line["event"] for line in said] == [
        f"{level} {name}"
        for level in ("warning", "debug", "error", "info")
        for name in names[names.index(level) :]
    ]
    assert all(line["event"].endswith(line["level"]) for line in said)
