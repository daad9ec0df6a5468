"""What a VirtualPyTest host says when it is the lab that fails, and not the product.

Such a host answers a verification that could not look at the screen, a command that it does not
have and a missing reference like a product that failed: `success: false` and a sentence. Each row
of the table below is a sentence by which it is known, and what it means. A sentence counts only
where the host begins with it, so that what a product or a test says of itself is no such sentence.

docs/virtualpytest.md has the same table for people, and a test has each row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vpt.dialects.base import Trouble

_ARGPARSE = 2  # the exit code with which Python's argparse refuses a command line


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a sentence of a host means: `trouble`, and in words what to do."""

    trouble: Trouble
    words: str


def _host(words: str) -> Meaning:
    return Meaning(Trouble.HOST_ERROR, f"The host could not judge it: {words}")


def _refused(words: str) -> Meaning:
    return Meaning(Trouble.HOST_REFUSED, f"The host cannot run it: {words}")


_NO_PICTURE = _host("it gets no picture of the device; is its stream running?")
_NOT_CONNECTED = _host("its connection to the device is broken")
_NO_CONTROLLER = _host("it has no controller for this on the device")
_NO_COMMAND = _refused("it does not know the command; the device's schemas name those that it has")
_NO_SCRIPT = _refused("it has no script of that name in its test_scripts folder")
_NO_REFERENCE = _refused("the reference is not among those of the user interface; save it first")
_NO_INTERFACE = _refused("it finds no such user interface or navigation tree for the team")
_NO_OCR = _host("tesseract, which reads texts in pictures, is not installed there")
_USAGE = _refused("the script does not take these parameters")

_TABLE: tuple[tuple[str, Meaning], ...] = (
    (r"failed to (capture|take)( a| temporary)? screenshot", _NO_PICTURE),
    (r"(no|provided) source image (not found|available)", _NO_PICTURE),
    (r"no (recent )?(captures?|frames?|video segments?)( files?)? (found|available)", _NO_PICTURE),
    (r"failed to connect to (android )?device", _NOT_CONNECTED),
    (
        r"(android )?device [\w.:-]* ?(is )?(offline|not connected|not found|unauthorized)",
        _NOT_CONNECTED,
    ),
    (
        r"(adb: |error: )?(device (offline|unauthorized|'.*' not found)|no devices/emulators)",
        _NOT_CONNECTED,
    ),
    (r"(not connected to|no connection to) (the )?(device|android)", _NOT_CONNECTED),
    (r"no [\w ]*controller (found|available|for)", _NO_CONTROLLER),
    (r"[\w ]*controller not (found|available|initialized)", _NO_CONTROLLER),
    (r"(unknown|unsupported|unrecognized)( \w+)? (command|verification|action)\b", _NO_COMMAND),
    (
        r"(command|action|verification)( type)? ['\"]?[\w-]+['\"]? (is )?(not supported|unknown)",
        _NO_COMMAND,
    ),
    (r"script not found", _NO_SCRIPT),
    (r"reference( image)?( file)? ?['\"\w./-]* ?(is )?not found", _NO_REFERENCE),
    (r"failed to (download|load|resolve) (the )?reference", _NO_REFERENCE),
    (r"no reference (image )?(specified|found)", _NO_REFERENCE),
    (r"(failed to load navigation tree|user ?interface ['\"].*['\"] not found)", _NO_INTERFACE),
    (r"(pytesseract\S*: )?(tesseract( is)? not (installed|found)|tesseractnotfounderror)", _NO_OCR),
)
_MEANINGS = tuple((re.compile(pattern, re.I), meaning) for pattern, meaning in _TABLE)
#: It stands in the log of a verification of texts that ends as "Text pattern not found".
_NO_OCR_IN_LOG = re.compile(r"tesseract is not installed|TesseractNotFoundError", re.I)
_USAGE_LINE = re.compile(r"^usage: ", re.M)


def meaning_of(reason: str | None) -> Meaning | None:
    """Return what a host's reason for a failure means, None when it is the product's."""
    text = (reason or "").strip().lstrip("❌⚠️ ")
    return next((meaning for known, meaning in _MEANINGS if known.match(text)), None)


def meaning_of_log(log: object) -> Meaning | None:
    """Return what a host's log of a failed verification says of the host itself."""
    return _NO_OCR if isinstance(log, str) and _NO_OCR_IN_LOG.search(log) else None


def meaning_of_script(code: object, reason: str | None, output: str) -> Meaning | None:
    """Return what the end of a script says of the lab: that it is not there, or never began."""
    for line in (reason or "").splitlines():
        meaning = meaning_of(line)
        if meaning is _NO_SCRIPT:
            return meaning
    if type(code) is int and code == _ARGPARSE and _USAGE_LINE.search(output):
        return _USAGE
    return None
