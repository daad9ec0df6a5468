"""What all requests together hold of long bodies, from the first byte until they are answered.

So what is made of the bodies, parsed and not stored yet, is bounded, too.
"""

from __future__ import annotations

from aiohttp import web

from vpt.errors import UnavailableError

#: Bytes of long bodies that all requests together may hold; more is refused with 503.
MOST_HELD = 256 * 2**20

_HELD = web.RequestKey("held", int)


class Held:
    """Counts the bytes of all requests."""

    size = 0


held = Held()


def hold(request: web.Request, size: int) -> None:
    """Note that a request holds `size` bytes by now; UnavailableError when all hold too many."""
    held.size += size - request.get(_HELD, 0)
    request[_HELD] = size
    if held.size > MOST_HELD:
        raise UnavailableError(
            "Too many long bodies are being received at once: try again in a moment.",
            retry_after=5,
        )


def release(request: web.Request) -> None:
    """Note that a request is answered and holds nothing any more."""
    if _HELD in request:
        held.size -= request.pop(_HELD)
