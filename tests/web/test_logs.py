"""What the log looks like, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tests.system.kit import ROOT

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


#: What steers terminals, hides or reorders text, breaks lines, or is a command of a CI system.
HOSTILE = (
    "\x1b]0;owned\x07\x9b2J\x7f\x00\r\u202e\u2066\u200b\ufeff\u2028\u2029\U000e0041"
    "\n::stop-commands::x\n  ::error::y ##[error]z ##vso[a]"
)
ATTACK = """
import logging, structlog
from vpt.logs import setup
setup({format!r}, "info")
log = structlog.get_logger("x")
hostile = {hostile!r}
log.info("asked", path=hostile, items=[hostile], number=7)
log.info(hostile)
log.info("long", path=hostile + "\\x01" * 30_000, more="m" * 10_000, items=[hostile] * 1000)
log.info("many", **{{f"field_{{number}}": "v" * 3000 for number in range(300)}})
log.info("surrogate", path="\\udc9b" + hostile * 500)
logging.getLogger("lib").warning("from %s", hostile * 200)
try:
    raise RuntimeError(hostile * 1000 + "the end")
except RuntimeError:
    log.exception("broke", path=hostile)
"""


def attacked(log_format: str) -> bytes:
    program = ATTACK.format(format=log_format, hostile=HOSTILE)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=60
    ).stderr


def unsafe(text: str) -> list[str]:
    """Return what a terminal or a CI system would act on, beside colours."""
    plain = re.sub(r"\x1b\[\d*m", "", text)
    found = [char for char in plain if not char.isprintable() and char != "\n"]
    return found + re.findall(r"##\w*\[|^\s*::.*", plain, re.MULTILINE)


def test_what_strangers_chose_is_escaped_in_json_and_means_the_same() -> None:
    lines = attacked("json").splitlines()
    asked, named, *_, broke = map(json.loads, lines)
    assert unsafe(b"\n".join(lines).decode()) == []
    assert (asked["path"], asked["items"], asked["number"]) == (HOSTILE, [HOSTILE], 7)
    assert named["event"] == HOSTILE
    assert broke["exception"].startswith("Traceback") and broke["exception"].endswith("the end")


def test_what_strangers_chose_is_escaped_for_a_terminal() -> None:
    text = attacked("console").decode()
    assert unsafe(text) == []
    assert r"\x1b]0;owned" in text and "the end" in text


def test_no_line_is_longer_than_4_kib_and_the_cuts_are_marked() -> None:
    lines = attacked("json").splitlines(keepends=True)
    assert len(lines) == 7 and all(len(line) <= 4096 for line in lines)
    assert "characters left out" in json.loads(lines[2])["path"]
    assert json.loads(lines[3])["event"] == "many"
    assert all(len(line) <= 4096 for line in attacked("console").splitlines(keepends=True))


def test_there_is_one_place_that_configures_logging() -> None:
    """Else a part would log without the rules above."""
    found = [
        path for path in (ROOT / "vpt").rglob("*.py") if "structlog.configure(" in path.read_text()
    ]
    assert found == [ROOT / "vpt/logs.py"]
