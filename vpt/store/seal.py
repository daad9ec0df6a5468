"""Sealing: hosts' secrets are stored encrypted, so that the database alone cannot read them."""

from __future__ import annotations

import base64
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PURPOSE = b"vpt host secrets"
_KEY_BYTES = 32
_KNOWN = 10_000


class Sealer:
    """Encrypts strings with a key derived from SECRET_KEY."""

    def __init__(self, secret_key: str) -> None:
        derive = HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=_PURPOSE)
        self._fernet = Fernet(base64.urlsafe_b64encode(derive.derive(secret_key.encode())))
        #: Each heartbeat asks this of the same bytes.
        self.can_open = lru_cache(_KNOWN)(self._can_open)

    def seal(self, secret: str) -> bytes:
        """Return `secret` encrypted and authenticated; each call returns other bytes."""
        return self._fernet.encrypt(secret.encode())

    def open(self, sealed: bytes) -> str | None:
        """Return the secret, or None when SECRET_KEY was changed or the bytes are damaged."""
        try:
            return self._fernet.decrypt(bytes(sealed)).decode()
        except InvalidToken:
            return None

    def _can_open(self, sealed: bytes) -> bool:
        """Return whether SECRET_KEY is still the one with which these bytes were sealed."""
        return self.open(sealed) is not None
