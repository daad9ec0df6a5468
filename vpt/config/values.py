"""The types of values that settings have: how a text is parsed and checked."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from vpt.config.origins import origin_of, path_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MIN_SECRET = 32
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|MB|GB)?")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_FINITE = sys.float_info.max
#: A path that means the same to every proxy, router and browser: no escapes, no "..".
_PLAIN_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")
#: First parts of the server's own paths: below a prefix of such a name nobody could tell whether a
#: proxy has removed the prefix.
_OWN_PATHS = frozenset(("api", "console", "metrics", "screenshots", "server", "socket.io"))


class UnreadableError(Exception):
    """The text is not a value of its type; the message says what is expected."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type of values: `parse` reads the text, then msgspec checks it against `bounds`."""

    expected: str = ""
    bounds: Any = Any
    parse: Callable[[str], Any] = str.strip
    show: Callable[[Any], str] = str

    def read(self, text: str) -> Any:
        """Return the value; UnreadableError says what is expected."""
        try:
            return msgspec.convert(self.parse(text), self.bounds, strict=False)
        except ValueError as error:  # msgspec's own are some of these
            raise UnreadableError(f"expected {self.expected}") from error


def whole(lowest: int, highest: int | None = None) -> ValueType:
    """Return the type of whole numbers within these bounds."""
    words = f"a whole number from {lowest}" + (f" to {highest}" if highest else "")
    return ValueType(words, Annotated[int, Meta(ge=lowest, le=highest)], parse=int)


def url(*schemes: str) -> ValueType:
    """Return the type of URLs with one of these schemes."""
    return ValueType(parse=lambda text: _url(text, schemes))


def one_of(*choices: str) -> ValueType:
    """Return the type of these words, in lower or upper case."""
    *most, last = choices
    return ValueType(f"{', '.join(most)} or {last}", Literal[choices], parse=str.lower)


def secret(shortest: int) -> ValueType:
    """Return the type of secrets of at least so many bytes."""
    return ValueType(f"at least {shortest} bytes", parse=lambda text: _long(text, shortest))


def number(words: str, bounds: Meta) -> ValueType:
    """Return the type of numbers within these bounds."""
    return ValueType(words, Annotated[float, bounds], show=lambda value: f"{value:.15g}")


def _url(text: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (raises when it is no number)
    except ValueError as error:  # its words may hold a part of a password
        words = "expected a URL (in a password, / is %2F and : is %3A)"
        raise UnreadableError(words) from error
    if parts.scheme not in schemes:
        raise UnreadableError(f"expected a URL that starts with {' or '.join(schemes)}://")
    return text


def _long(text: str, shortest: int) -> str:
    if len(text.encode()) < shortest:
        raise ValueError
    return text


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in _parts(text))
    except ValueError as error:
        words = f"expected networks, such as 10.0.0.0/8,192.168.1.0/24 ({error})"
        raise UnreadableError(words) from error


def _origin(text: str) -> str:
    """Return an origin in the form of a browser; a path is refused, since an origin has none."""
    if text in ("*", "null"):
        return text
    try:
        if path_of(text) or "?" in text or "#" in text or "@" in text:
            raise ValueError(text)  # noqa: TRY301
        return origin_of(text)
    except ValueError as error:
        words = "expected origins without a path, such as https://pages.example, comma separated"
        raise UnreadableError(f"{words} (not {text!r})") from error


def is_prefix(path: str) -> bool:
    """Return whether the server can be reached below this path: "" or "/vpt", without escapes."""
    first = path.lstrip("/").partition("/")[0]
    return bool(_PLAIN_PATH.fullmatch(path)) and first not in _OWN_PATHS


def _public_url(text: str) -> str:
    """Return the URL under which people reach the server; its path is a prefix of all routes."""
    text = _url(text, ("http", "https"))
    try:
        origin_of(text)
        sound = is_prefix(path_of(text)) and "?" not in text and "#" not in text
    except ValueError:
        sound = False
    if not sound:
        own = ", ".join(f"/{name}" for name in sorted(_OWN_PATHS))
        raise UnreadableError(
            "expected a URL such as https://vpt.example or https://example.com/vpt; a path has"
            f" letters, digits, '.', '_', '~', '-' only, and does not begin with {own}"
        )
    return text


def _folder(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no home for ~, or no working folder any more
        raise UnreadableError(f"expected a folder that can be found ({error})") from error


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError
    return int(match[1]) * _UNITS[match[2] or "B"]


def _as_size(value: int) -> str:
    return f"{value // 2**20}MiB" if value % 2**20 == 0 else str(value)


TEXT = ValueType(parse=str)
NAMES = ValueType(parse=_parts, show=",".join)
ORIGINS = ValueType(parse=lambda text: tuple(map(_origin, _parts(text))), show=",".join)
NETWORKS = ValueType(parse=_networks, show=lambda value: ",".join(map(str, value)))
FOLDER = ValueType("a folder", parse=_folder)
SIZE = ValueType("a size, such as 1048576 or 16MiB", Annotated[int, Meta(gt=0)], _size, _as_size)
VISIBLE = ValueType(
    "visible ASCII characters", Annotated[str, Meta(pattern=r"^[!-~]{1,4096}\Z")], parse=str
)
TOKEN = ValueType("at least 16 characters", Annotated[str, Meta(min_length=16)], parse=str)
WEB = url("http", "https")
PUBLIC_URL = ValueType(parse=_public_url)
SECONDS = number("a number of seconds above 0", Meta(gt=0, le=_FINITE))
SECONDS_OR_0 = number("a number of seconds (0 or more)", Meta(ge=0, le=_FINITE))
DAYS = number("a number of days, 1 to 36500", Meta(ge=1, le=36500))
PERCENT = number("a percentage, 0 to 100", Meta(ge=0, le=100))
