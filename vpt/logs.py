"""Logging with structlog, as JSON or for a terminal; libraries' records get the same form.

Strangers choose paths, names and texts of errors: what they chose is escaped in every line, and no
line is longer than `LONGEST_LINE`, so that they neither steer a terminal nor fill the disk.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO, TypeVar

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import EventDict, Processor, WrappedLogger

from vpt.printable import escape, escape_json, escape_lines, is_safe

#: Bytes of a line, its end included.
LONGEST_LINE = 4096

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
#: Characters that the values of a line which is too long are cut to: the first that fits is used.
_CUTS = (2000, 1000, 400, 100, 30)
#: Values that are short and ours, and those that may have more lines than one.
_OURS, _TEXTS = ("timestamp", "level"), ("exception", "stack")

Line = TypeVar("Line", str, bytes)


class _Logger(structlog.BoundLoggerBase):
    """The class of all loggers; `set_level` replaces its methods, so that it works at once."""


def setup(log_format: str, log_level: str, stream: TextIO | None = None) -> None:
    """Log to `stream` (stderr by default) from now on.

    `log_format` is console or json, `log_level` debug, info, warning or error.
    """
    out = stream or sys.stderr
    as_json = log_format == "json"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_time if as_json else structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, *_renderers(as_json=as_json)],
        wrapper_class=_Logger,
        logger_factory=(
            structlog.BytesLoggerFactory(out.buffer)
            if as_json
            else structlog.WriteLoggerFactory(out)
        ),
        cache_logger_on_first_use=True,
    )
    _take_over(shared, out, as_json=as_json)
    set_level(log_level)


def set_level(log_level: str) -> None:
    """Log from `log_level` on, with loggers that are in use already, too.

    Libraries log from warnings on, whatever the level.
    """
    level = _LEVELS[log_level]
    for name, method in vars(structlog.make_filtering_bound_logger(level)).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)
    logging.getLogger().setLevel(max(level, logging.WARNING))


def _renderers(*, as_json: bool) -> list[Processor]:
    # Rich tracebacks block the loop for about 100 ms and print local variables (secrets).
    if as_json:
        return [structlog.processors.format_exc_info, _as_line]
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

    def as_words(logger: WrappedLogger, name: str, event: EventDict) -> str:
        return _bounded(lambda some: str(console(logger, name, _escaped(some))), event)

    return [structlog.processors.format_exc_info, as_words]


def _bounded(render: Callable[[EventDict], Line], event: EventDict) -> Line:
    """Return the line of an event, with its values cut as far as `LONGEST_LINE` demands."""
    line = render(dict(event))
    for longest in _CUTS:
        if _size(line) < LONGEST_LINE:
            return line
        line = render({key: _cut(key, item, longest) for key, item in event.items()})
    if _size(line) < LONGEST_LINE:
        return line
    few = (*_OURS, "event")  # there are too many fields
    return render({key: _cut(key, event[key], _CUTS[-1]) for key in few if key in event})


def _size(line: str | bytes) -> int:
    return len(line if isinstance(line, bytes) else line.encode(errors="replace"))


def _cut(key: str, item: Any, longest: int) -> Any:
    """Return a value with a mark in its middle when it is too long: an exception ends with why."""
    if key in _OURS or item is None or isinstance(item, (bool, float)):
        return item
    text = item if isinstance(item, str) else repr(item)
    if len(text) <= longest:
        return item
    half = longest // 2
    return f"{text[:half]}… {len(text) - 2 * half} characters left out …{text[-half:]}"


def _escaped(event: EventDict) -> EventDict:
    """Return the event as a terminal may show it; ConsoleRenderer shows other types by repr."""
    for key, item in event.items():
        if key in _TEXTS:
            event[key] = escape_lines(str(item))
        elif isinstance(item, str):
            event[key] = escape(item)
        elif not isinstance(item, (bool, int, float, type(None))):
            event[key] = escape(repr(item))
    return event


def _add_time(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the time as a datetime: orjson formats it five times faster than Python."""
    event["timestamp"] = datetime.now(UTC)
    return event


def _as_line(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    return _bounded(_as_json, event)


def _as_json(event: EventDict) -> bytes:
    line = _dumped(event)
    return line if is_safe(line) else escape_json(line.decode()).encode()


def _dumped(event: EventDict) -> bytes:
    try:
        return orjson.dumps(event, default=repr, option=_OPTIONS)
    except orjson.JSONEncodeError:  # lone surrogates, numbers beyond 64 bits
        plain = {key: repr(item) for key, item in event.items() if key != "timestamp"}
        return orjson.dumps(plain | {"timestamp": event["timestamp"]}, option=_OPTIONS)


def _take_over(shared: list[Processor], out: TextIO, *, as_json: bool) -> None:
    """Format what libraries log by `logging` in the same way."""
    renderers = _renderers(as_json=as_json)
    if as_json:
        renderers[-1] = lambda *event: _as_line(*event).decode()
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    handler.addFilter(_no_client_errors)
    root = logging.getLogger()
    root.handlers[:] = [handler]


def _no_client_errors(record: logging.LogRecord) -> bool:
    """Drop errors about requests that are not HTTP or not decodable: clients cause them at will."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError))
