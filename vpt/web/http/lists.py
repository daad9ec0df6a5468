"""Pages of items that may be long: they are read a few at a time, until the page is full."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from vpt import bodies
from vpt.store.db import Database
from vpt.web.http.params import MOST_OF_PAGE, Page
from vpt.web.http.requests import bytes_of, list_response

#: Items of one statement, which builds that many however few of them fit into the page.
_AT_ONCE = 100
#: Characters of a page above which it is made in a thread: it is copied twice.
_LONG = 256 * 1024


async def long_items(db: Database, statement: str, page: Page, **filters: Any) -> web.Response:
    """Answer with a page of a statement that takes `bytes` and leaves out items beyond so many.

    So neither server nor database has much more than one page in memory, whatever `limit` is.
    """
    rows: list[Any] = []
    rest, room = page, MOST_OF_PAGE
    while room > 0 and len(rows) <= page.limit:
        part = Page(min(rest.limit, _AT_ONCE), rest.before_at, rest.before_id)
        found = await db.rows(statement, **part.args(), bytes=room, **filters)
        rows += found
        whole = [row["item"] for row in found if row["item"] is not None]
        if len(found) <= part.limit or len(whole) < len(found):
            break
        room -= sum(map(bytes_of, whole))
        rest = rest.after(found[-1], page.limit - len(rows))
    if sum(len(row["item"] or "") for row in rows) <= _LONG:
        return list_response(rows, page)
    return await bodies.in_thread(lambda: list_response(rows, page))
