"""URLs of web pages: their origin and path in the one form in which they can be compared."""

from __future__ import annotations

from yarl import URL

_SCHEMES = ("http", "https")


def origin_of(text: str) -> str:
    """Return scheme, host and port of a URL, as a browser sends them in `Origin`.

    In lower case, international names in ASCII, without the scheme's default port. Raises
    ValueError when the text is no http or https URL with a host.
    """
    url = URL(text)
    place = url.host_port_subcomponent
    if url.scheme not in _SCHEMES or not place:
        raise ValueError(text)
    return f"{url.scheme}://{place}"


def path_of(text: str) -> str:
    """Return the path of a URL without a slash at its end: "" or "/a/b"."""
    return URL(text).raw_path.rstrip("/")
