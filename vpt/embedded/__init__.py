"""The embedded PostgreSQL: started, stopped, and found again after a crash.

PostgreSQL is a child of the process that owns it and dies with that process (Linux sends it a
signal when the owner is killed). A lock on the data folder, held by the owner for life, decides
which process owns it; other processes attach.
"""

from vpt.embedded.home import EmbeddedError
from vpt.embedded.server import EmbeddedPostgres, start

__all__ = ["EmbeddedError", "EmbeddedPostgres", "start"]
