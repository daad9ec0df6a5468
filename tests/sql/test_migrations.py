"""The numbers of the migrations are their order, and each is there once."""

from __future__ import annotations

import re

import pytest

from tests.sql.conftest import Seeded
from tests.sql.kit import undone
from vpt.store.migrations import migrations

LEFT_OUT = {9, 23, 25}  # sql/migrations/README.md says so


def test_numbers_are_ascending_and_only_the_known_one_is_left_out() -> None:
    names = [path.stem for path in migrations()]
    assert all(re.fullmatch(r"\d{4}_[a-z_]+", name) for name in names), names
    numbers = [int(name[:4]) for name in names]
    assert numbers == [n for n in range(1, max(numbers) + 1) if n not in LEFT_OUT]


_OLD_CAMPAIGN = """
    UPDATE devices SET local_id = 'tv' WHERE id IN ('free', 'of_other_host');
    UPDATE devices SET local_id = 'one' WHERE id = 'busy';
    UPDATE devices SET local_id = 'withdrawn' WHERE id = 'held';
    DELETE FROM campaign_entries;
    INSERT INTO campaign_entries (campaign_id, position, test_case_id, device_id, host_id)
    VALUES ('campaign', 0, 'case', 'one', NULL), ('campaign', 1, 'case', 'tv', NULL),
        ('campaign', 2, 'case', 'tv', 'host'), ('campaign', 3, 'case', 'busy', NULL),
        ('campaign', 4, 'case', 'gone', NULL), ('campaign', 5, 'case', 'withdrawn', NULL),
        ('campaign', 6, 'case', NULL, 'host');
"""


@pytest.mark.asyncio(loop_scope="module")
async def test_campaigns_of_before_keep_ids_where_a_name_is_clear(seeded: Seeded) -> None:
    text = next(path for path in migrations() if path.stem == "0015_identity").read_text()
    resolve = text[text.index("UPDATE campaign_entries") :]
    async with undone(seeded.connection):
        await seeded.connection.execute(_OLD_CAMPAIGN)
        for _ in range(2):
            await seeded.connection.execute(resolve)
            rows = await seeded.connection.fetch("SELECT * FROM campaign_entries ORDER BY position")
            devices = [row["device_id"] for row in rows]
            assert devices == ["busy", "tv", "free", "busy", "gone", "withdrawn", None]
