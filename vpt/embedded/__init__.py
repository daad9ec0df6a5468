"""The embedded PostgreSQL: starts it, stops it and finds it again after a crash.

The server is a direct child that dies with its owner (Linux tells it to stop when the owner is
killed); a lock on the data folder, held for life, decides who owns it; the others attach.
"""

from vpt.embedded.home import EmbeddedError
from vpt.embedded.server import EmbeddedPostgres, start

__all__ = ["EmbeddedError", "EmbeddedPostgres", "start"]
