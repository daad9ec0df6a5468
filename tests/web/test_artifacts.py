"""Screenshots on the disk."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.web.kit import PNG
from vpt.errors import NotFoundError
from vpt.store.artifacts import MAX_BYTES, Artifacts, PictureError

JPEG = base64.b64encode(b"\xff\xd8\xff\xe0\x00\x10JFIF").decode()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def test_a_picture_is_kept_under_its_kind(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    assert await store.save("e1", 1, 1, PNG) == "png"
    assert await store.save("e1", 1, 2, f"data:image/jpeg;base64,{JPEG}") == "jpeg"
    assert await store.save("e1", 1, 3, "\n".join(PNG)) == "png"
    assert (await store.find("e1", "1", "1")).path.read_bytes() == base64.b64decode(PNG)
    assert (await store.find("e1", "1", "2")).kind == "jpeg"
    assert names(tmp_path) == ["1-1.png", "1-2.jpeg", "1-3.png"]


BIG = base64.b64encode(base64.b64decode(PNG) + b"x" * MAX_BYTES).decode()


@pytest.mark.parametrize(
    "data",
    ["", "x", "é", 7, None, ["x"], base64.b64encode(b"<svg/>").decode(), PNG[:8], BIG, BIG * 2],
    ids=range(10),
)
async def test_what_is_no_picture_is_refused_and_leaves_nothing(tmp_path: Path, data: Any) -> None:
    with pytest.raises(PictureError):
        await Artifacts(tmp_path).save("e1", 1, 1, data)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "place",
    [
        ("../e1", "1", "1"),
        ("e1/..", "1", "1"),
        ("", "1", "1"),
        ("e1", "../1", "1"),
        ("e1", "1", "0"),
    ],
)
async def test_a_place_of_another_form_is_nowhere(
    tmp_path: Path, place: tuple[str, str, str]
) -> None:
    with pytest.raises(NotFoundError):
        await Artifacts(tmp_path).find(*place)
