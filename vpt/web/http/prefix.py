"""The same routes below a prefix, for a proxy that passes paths on as they are.

Most proxies can remove the prefix, and then there is nothing to do. For the others a resource that
is asked when no route matches looks up the rest of the path. No two routes can be meant, since a
prefix that begins like one of our own paths is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from aiohttp import web
from yarl import URL

from vpt.config import Config
from vpt.web.http.auth import public
from vpt.web.http.caller import ROUTED_PATH, caller_of


@public
async def _to_page(request: web.Request) -> NoReturn:
    """Redirect from the prefix to the page: its relative URLs need the slash at the end."""
    raise web.HTTPPermanentRedirect(f"{request.rel_url.raw_path}/")


class PrefixResource(web.AbstractResource):
    """Finds a route by the path behind the prefix of the request; has none of its own."""

    def __init__(self, router: web.UrlDispatcher, config: Config) -> None:
        """Look paths up in `router`, in which this is registered, too."""
        super().__init__()
        self._router, self._config = router, config
        self._redirect = web.ResourceRoute("*", _to_page, self)

    @property
    def canonical(self) -> str:
        """The path under which the router keeps it: it is tried after all longer ones."""
        return "/"

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        """Return the route behind the prefix, or nothing for a path without it."""
        if ROUTED_PATH in request:  # one prefix is removed, and not each of many
            return None, set()
        prefix, path = caller_of(request, self._config).prefix, request.rel_url.raw_path
        if prefix and path == prefix:
            return web.UrlMappingMatchInfo({}, self._redirect), set()
        if not prefix or not path.startswith(f"{prefix}/"):
            return None, set()
        rest = request.rel_url.with_path(path[len(prefix) :], encoded=True, keep_query=True)
        request[ROUTED_PATH] = rest.path
        return await self._router.resolve(request.clone(rel_url=rest)), set()

    def raw_match(self, path: str) -> bool:  # noqa: ARG002
        """Return False: it has no path of its own."""
        return False

    def url_for(self, **_: str) -> URL:
        """Return the URL of the page."""
        return URL("/")

    def add_prefix(self, prefix: str) -> NoReturn:
        """Raise RuntimeError: this application is no part of another one."""
        raise RuntimeError(prefix)

    def get_info(self) -> Any:
        """Return nothing about it."""
        return {}

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(())
