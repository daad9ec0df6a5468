"""Text of strangers made harmless for terminals, logs and CI: it steers nothing that reads it."""

from __future__ import annotations

import re

#: What steers a terminal (C0 and C1 but tab and newline, DEL), reorders or hides text (marks of
#: direction, zero-width and other invisible characters), breaks lines elsewhere than \n does, or
#: cannot be written (surrogates).
_CHARACTERS = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
#: ##[error], ##vso[...] and ##teamcity[...] are commands of CI systems anywhere in a line; the
#: second # is replaced.
_COMMAND = r"(?<=#)#(?=\w*\[)"

_CONTROL = re.compile(f"[{_CHARACTERS}]")
_CI_COMMAND = re.compile(_COMMAND)
_UNSAFE = re.compile(f"[{_CHARACTERS}]|{_COMMAND}")
_UNSAFE_IN_LINE = re.compile(f"[\\t\\n{_CHARACTERS}]|{_COMMAND}")


def sanitized(text: str) -> str:
    """Return text of a device or server without control characters (tabs and newlines stay).

    It also breaks ##[error] and ##vso[...], which CI systems would execute anywhere in a line.
    """
    return _CI_COMMAND.sub(" #", _CONTROL.sub("\ufffd", text.replace("\r\n", "\n")))


def is_safe(line: bytes) -> bool:
    """Return True for plain ASCII without any command: for most lines, in a microsecond."""
    return line.isascii() and b"\x7f" not in line and b"##" not in line


def escape(text: str) -> str:
    """Return `text` on one line, with everything unsafe in it as Python writes it: `\\x1b`."""
    return _UNSAFE_IN_LINE.sub(_as_python, text)


def escape_lines(text: str) -> str:
    """Do as `escape`, but keep tabs and newlines; no line of the result begins a CI command.

    GitHub takes a line that begins with :: for a command, blanks before it or not.
    """
    return "\n".join(f"| {line}" for line in _UNSAFE.sub(_as_python, text).split("\n"))


def escape_json(line: str) -> str:
    """Return a JSON text with its unsafe characters as `\\u` escapes: it means the same."""
    return _UNSAFE.sub(_as_json, line)


def _as_python(match: re.Match[str]) -> str:
    return "\\x23" if match[0] == "#" else ascii(match[0])[1:-1]


def _as_json(match: re.Match[str]) -> str:
    pairs = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{pairs[at : at + 4]}" for at in range(0, len(pairs), 4))
