"""The numbers of the migrations are their order, and each is there once."""

from __future__ import annotations

import re

from vpt.store.db import migrations

LEFT_OUT = {9, 15, 16, 17, 18}  # sql/migrations/README.md says so


def test_numbers_are_ascending_and_only_the_known_one_is_left_out() -> None:
    names = [path.stem for path in migrations()]
    assert all(re.fullmatch(r"\d{4}_[a-z_]+", name) for name in names), names
    numbers = [int(name[:4]) for name in names]
    assert numbers == [n for n in range(1, max(numbers) + 1) if n not in LEFT_OUT]
