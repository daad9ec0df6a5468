"""What can be run: test cases and campaigns, found by id or name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vpt.client.api import Api, RefusedError, path_segment
from vpt.client.exits import MisuseError
from vpt.client.text import one_line
from vpt.model import Json

_ID = re.compile(r"[A-Za-z0-9_~:-][A-Za-z0-9_.~:-]{0,199}")
_SHOWN = 5
NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Runnable:
    """Test cases or campaigns: their label for people, and the paths of the API and of the page."""

    label: str
    path: str
    executions_path: str
    id_field: str
    page_path: str

    def execution_path(self, execution_id: str) -> str:
        """Return the API path of an execution."""
        return f"{self.executions_path}/{path_segment(execution_id)}"


TEST_CASE = Runnable(
    "test case", "/api/testcases", "/api/executions", "execution_id", "/#/executions/"
)
CAMPAIGN = Runnable(
    "campaign",
    "/api/campaigns",
    "/api/campaign-executions",
    "campaign_execution_id",
    "/#/campaign-executions/",
)


async def find_by_id_or_name(api: Api, kind: Runnable, name: str) -> Json:
    """Return the test case or campaign with this id, else the only one with this name.

    Raises MisuseError when there is none, or when several have the name.
    """
    if _ID.fullmatch(name):
        try:
            item: Json = await api.get(f"{kind.path}/{path_segment(name)}")
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
        raise MisuseError(f"Several {kind.label}s are named {name!r}: use one of the ids {ids}.")
    raise MisuseError(f"There is no {kind.label} {one_line(name)!r}.{_suggestion(near)}")


def _suggestion(near: list[Json]) -> str:
    if not near:
        return ""
    return " Similar: " + ", ".join(repr(one_line(item["name"])) for item in near[:_SHOWN]) + "."
