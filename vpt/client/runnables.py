"""What can be run, and how it is found by its id or its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vpt.client.api import Api, RefusedError, segment
from vpt.client.exits import MisuseError
from vpt.client.text import one_line
from vpt.model import Json

_ID = re.compile(r"[A-Za-z0-9_~:-][A-Za-z0-9_.~:-]{0,199}")
_SHOWN = 5
NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Kind:
    """Test cases or campaigns: their word, where they and their executions are."""

    word: str
    path: str
    runs: str
    run_id: str
    page: str

    def run_path(self, execution_id: str) -> str:
        """Give where an execution is."""
        return f"{self.runs}/{segment(execution_id)}"


TEST_CASE = Kind("test case", "/api/testcases", "/api/executions", "execution_id", "/#/executions/")
CAMPAIGN = Kind(
    "campaign",
    "/api/campaigns",
    "/api/campaign-executions",
    "campaign_execution_id",
    "/#/campaign-executions/",
)


async def find(api: Api, kind: Kind, name: str) -> Json:
    """Give the one with this id, else the only one with this name. Raises MisuseError."""
    if _ID.fullmatch(name):
        try:
            item: Json = await api.get(f"{kind.path}/{segment(name)}")
            return item
        except RefusedError as error:
            if error.status != NOT_FOUND:
                raise
    near = [item async for item in api.items(kind.path, q=name)] if name.isprintable() else []
    same = [item for item in near if item["name"] == name]
    if len(same) == 1:
        return same[0]
    if same:
        ids = ", ".join(item["id"] for item in same)
        raise MisuseError(f"Several {kind.word}s are named {name!r}: name one of {ids}.")
    raise MisuseError(f"There is no {kind.word} {one_line(name)!r}.{_maybe(near)}")


def _maybe(near: list[Json]) -> str:
    if not near:
        return ""
    return " There is: " + ", ".join(repr(one_line(item["name"])) for item in near[:_SHOWN]) + "."
