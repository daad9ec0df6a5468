"""What hosts tell us in confidence."""

from __future__ import annotations

from vpt.store.seal import Sealer


def test_what_was_sealed_can_be_opened_under_the_same_key() -> None:
    sealed = Sealer("k" * 32).seal("s\u00e9cret")
    assert b"cret" not in sealed
    assert Sealer("k" * 32).open(sealed) == "s\u00e9cret"


def test_another_key_or_a_broken_seal_opens_nothing() -> None:
    sealer = Sealer("k" * 32)
    sealed = sealer.seal("secret")
    assert Sealer("l" * 32).open(sealed) is None
    assert sealer.open(sealed[:-1]) is None
    assert sealer.open(b"") is None
