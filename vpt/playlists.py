"""HLS playlists of hosts, rewritten so that they name files below one folder, and no server.

So a browser fetches them all from the address from which it has the playlist.
"""

from __future__ import annotations

import re

from yarl import URL

from vpt.urls import is_same_server

_ATTRIBUTE = re.compile(r'URI="([^"]*)"')
_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_NAME = re.compile(rf"(?:{_PART}/){{0,3}}{_PART}")

_HEAD = "#EXTM3U"


class PlaylistError(Exception):
    """The text is no playlist, or names something outside its folder; the message says which."""


def is_name(name: str) -> bool:
    """Return whether a text can be the name of a stream's file, below the playlist's folder."""
    return _NAME.fullmatch(name) is not None


def rewritten(playlist: bytes, folder: URL, url: URL) -> bytes:
    """Return the playlist that `url` has, with names below `folder` in place of URLs."""
    text = playlist.decode(errors="replace")
    if not text.startswith(_HEAD):
        raise PlaylistError("The host answered something else than a playlist.")
    lines = (_line(line.strip(), folder, url) for line in text.splitlines())
    return ("\n".join(lines) + "\n").encode()


def _line(line: str, folder: URL, url: URL) -> str:
    if line.startswith("#"):
        return _ATTRIBUTE.sub(lambda found: f'URI="{_name(found[1], folder, url)}"', line)
    return _name(line, folder, url) if line else ""


def _name(named: str, folder: URL, url: URL) -> str:
    """Return a file's name relative to the playlist that names it."""
    try:
        found = url.join(URL(named))
        below = is_same_server(found, folder) and found.path.startswith(folder.path)
    except ValueError:
        below = False
    name = found.path[len(folder.path) :] if below else ""
    if not is_name(name):
        raise PlaylistError("The playlist names a file that is not beside it.")
    return "../" * url.path[len(folder.path) :].count("/") + name
