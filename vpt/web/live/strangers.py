"""Connections that have not presented a valid token yet."""

from __future__ import annotations


class Strangers:
    """Since when each connection without a token exists, and from which address it comes.

    When there are too many, the oldest one of the address that has the most is closed. So whoever
    floods the server closes their own connections, and not those of clients elsewhere, whose token
    is on its way.
    """

    def __init__(self) -> None:
        self._address_of: dict[str, str] = {}
        self._by_address: dict[str, dict[str, float]] = {}  # the oldest of each first

    def __len__(self) -> int:
        return len(self._address_of)

    def __contains__(self, sid: object) -> bool:
        return sid in self._address_of

    def add(self, sid: str, address: str, since: float) -> None:
        """Add a new connection."""
        self._address_of[sid] = address
        self._by_address.setdefault(address, {})[sid] = since

    def remove(self, sid: str) -> bool:
        """Remove a connection; return False when it is not one of them."""
        address = self._address_of.pop(sid, None)
        if address is None:
            return False
        self._by_address[address].pop(sid)
        if not self._by_address[address]:
            del self._by_address[address]
        return True

    def one_too_many(self) -> str:
        """Return the connection to close: the oldest of the address that has the most."""
        most = max(self._by_address, key=lambda address: len(self._by_address[address]))
        return next(iter(self._by_address[most]))

    def late(self, until: float) -> list[str]:
        """Return the connections that exist since `until` or longer."""
        return [
            sid
            for connections in self._by_address.values()
            for sid, since in connections.items()
            if since <= until
        ]
