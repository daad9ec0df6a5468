"""Pictures of such a host: by its own route, for each action and block, and on a failure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from tests.actors.fake_host import until
from vpt.dialects import pictures
from vpt.dialects.pictures import url_of_picture
from vpt.model import Host, Json

from .conftest import KEY, StartLab, VKit
from .stand_in import PNG, STREAMS
from .test_dialect import act, check, graph, screenshot_of

IMAGES = "/host/av/images"
HOST = Host("pi", "http://10.0.0.5:6151")


async def shown(lab: VKit, execution_id: str) -> Json:
    """Return the first step as the API shows it."""
    sql = "SELECT screenshot, pictures, notes FROM execution_steps WHERE execution_id = $1"
    (row,) = await lab.fetch(sql, execution_id)
    return {**row, "pictures": json.loads(row["pictures"] or "[]")}


def files_of(lab: VKit, execution_id: str) -> list[str]:
    folder = lab.config.vpt_data_dir / "screenshots" / execution_id
    return sorted(path.name for path in folder.glob("*"))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (f"{STREAMS}capture1/captures/x.jpg", f"{STREAMS}capture1/captures/x.jpg"),
        ("http://pi/host/stream/capture1/x.jpg", f"{STREAMS}capture1/x.jpg"),
        ("https://elsewhere/host/stream/capture1/x.jpg", f"{STREAMS}capture1/x.jpg"),
        ("/host/stream/capture1/x.jpg", f"{STREAMS}capture1/x.jpg"),
        ("/tmp/results/x.png", "/tmp/results/x.png"),
    ],
)
def test_a_file_of_the_host_is_asked_of_its_own_route(name: str, url: str) -> None:
    found = url_of_picture(HOST, name)
    assert found is not None
    assert (str(found.origin()), found.path, dict(found.query)) == (HOST.url, IMAGES, {"path": url})


@pytest.mark.parametrize("name", ["https://r2.example/x.png", "http://[", "http://pi/x.png"])
def test_what_is_elsewhere_is_not_fetched(name: str) -> None:
    assert url_of_picture(HOST, name) is None


async def test_a_file_is_fetched_with_the_key(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", screenshot=True)
    row = await lab.done(act("a"))
    assert await screenshot_of(lab, row["id"]) == PNG
    (asked,) = host.asked(IMAGES)
    assert asked.key == KEY and asked.query["path"].startswith(STREAMS)


async def test_each_action_of_a_batch_has_its_picture(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", screenshot=True)
    host.on("b", screenshot=True)
    row = await lab.done({"actions": [{"command": "a"}, {"command": "b"}, {"command": "a"}]})
    step = await shown(lab, row["id"])
    assert [(one["number"], one["caption"][:2]) for one in step["pictures"]] == [
        (1, "1."),
        (2, "2."),
    ]
    assert files_of(lab, row["id"]) == ["1-1-1.png", "1-1-2.png", "1-1.png"]
    assert len(host.asked(IMAGES)) == 3, "each is fetched once"


async def test_each_block_of_a_graph_has_its_picture(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", screenshot=True)
    one = graph("a")["graph"]
    again = {"id": "again", "type": "action", "data": {"command": "a", "action_type": "remote"}}
    edges = [
        {"source": a, "target": b, "sourceHandle": "success"}
        for a, b in (("start", "do"), ("do", "again"), ("again", "good"))
    ]
    row = await lab.done({"graph": {"nodes": [*one["nodes"], again], "edges": edges}})
    assert row["status"] == "completed"
    (other,) = (await shown(lab, row["id"]))["pictures"]
    assert other["caption"] == "1. do"


@pytest.mark.parametrize("success", [True, False])
async def test_what_a_verification_compared_is_kept(lab: VKit, success: bool) -> None:
    host = await lab.pi()
    names = {
        "sourceImageUrl": f"{STREAMS}capture1/captures/source.jpg",
        "referenceImageUrl": f"{STREAMS}capture1/captures/reference.jpg",
        "resultOverlayUrl": "http://127.0.0.1/host/stream/capture1/captures/overlay.jpg",
    }
    for what in ("source", "reference", "overlay"):
        host.files[f"{STREAMS}capture1/captures/{what}.jpg"] = PNG
    host.on("a", success=success, result=names)
    row = await lab.done(check("a"))
    assert row["status"] == ("completed" if success else "failed")
    assert await screenshot_of(lab, row["id"]) == PNG
    captions = [one["caption"] for one in (await shown(lab, row["id"]))["pictures"]]
    assert captions == ["1. a: reference", "1. a: overlay"], "the source is the screenshot"


async def test_of_pictures_that_cannot_be_had_there_is_one_word(lab: VKit) -> None:
    host = await lab.pi()
    host.on("a", screenshot=f"{STREAMS}gone.jpg", times=1)
    host.on("b", screenshot=True)
    for number in range(6):
        host.on(f"g{number}", screenshot=f"{STREAMS}gone{number}.jpg")
    actions = [{"command": f"g{number}"} for number in range(6)] + [{"command": "b"}]
    row = await lab.done({"actions": actions})
    step = await shown(lab, row["id"])
    assert (row["status"], step["screenshot"], step["pictures"]) == ("completed", "png", [])
    assert step["notes"] == "6 pictures were left out: The host answered 404."
    assert len(host.asked(IMAGES)) == 3, "after two that are gone the others are not tried"


async def test_a_step_keeps_so_many_pictures(lab: VKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST", 2)
    host = await lab.pi()
    host.on("a", screenshot=True)
    row = await lab.done({"actions": [{"command": "a"}] * 5})
    step = await shown(lab, row["id"])
    assert len(step["pictures"]) == 2
    assert step["notes"] == "2 pictures were left out: A step keeps 2 beside its screenshot."


async def test_what_is_no_picture_is_left_out_and_the_others_are_kept(lab: VKit) -> None:
    host = await lab.pi()
    host.files[f"{STREAMS}x.jpg"] = b"<html>"
    host.on("a", screenshot=f"{STREAMS}x.jpg")
    host.on("b", screenshot=True)
    row = await lab.done({"actions": [{"command": "a"}, {"command": "b"}]})
    step = await shown(lab, row["id"])
    assert (step["screenshot"], step["pictures"]) == ("png", [])
    assert step["notes"] == "A picture was left out: it is neither PNG nor JPEG."


# ---------------------------------------------------------------- on a failure


async def failed(lab: VKit, host: Any, **step: Any) -> Json:
    host.on("a", success=False, message="no")
    row = await lab.done(act("a", **step))
    assert row["status"] == "failed"
    return await shown(lab, row["id"])


@pytest.mark.parametrize(
    ("declares", "wanted", "is_taken"),
    [
        ({"av"}, None, True),
        ({"av"}, False, False),
        ({"remote"}, None, False),
        ({"remote"}, True, True),
    ],
)
async def test_a_failed_step_without_a_picture_gets_one(
    lab: VKit, declares: set[str], wanted: bool | None, is_taken: bool
) -> None:
    host = await lab.pi(model="stb", capabilities=declares)
    more = {} if wanted is None else {"screenshot_on_failure": wanted}
    host.on("a", success=False, message="no")
    row = await lab.done(act("a", **more), device_model="stb")
    step = await shown(lab, row["id"])
    assert (step["screenshot"], step["notes"]) == ("png" if is_taken else None, None)
    assert len(host.asked("/host/av/takeScreenshot")) == is_taken
    (batch,) = host.asked("/host/action/executeBatch")
    assert "screenshot_on_failure" not in batch.body["actions"][0]


async def test_a_step_that_passed_or_has_a_picture_needs_none(lab: VKit) -> None:
    host = await lab.pi(model="stb", capabilities={"av"})
    host.on("a", success=False, screenshot=True)
    assert (await lab.done(act("b"), device_model="stb"))["status"] == "completed"
    assert (await lab.done(act("a"), device_model="stb"))["status"] == "failed"
    assert host.asked("/host/av/takeScreenshot") == []


async def test_one_that_cannot_be_taken_is_a_word_on_the_step(start_lab: StartLab) -> None:
    lab = await start_lab()
    host = await lab.pi()
    host.break_controller("d1", "av")
    step = await failed(lab, host, screenshot_on_failure=True)
    assert step["screenshot"] is None
    assert step["notes"] == (
        "The screenshot was left out: The host could not take one: Failed to take temporary"
        " screenshot - controller returned None."
    )


async def test_a_verdict_does_not_wait_for_pictures_beyond_its_limit(start_lab: StartLab) -> None:
    lab = await start_lab(step_timeout=2.0)
    host = await lab.pi()
    host.on("a", screenshot=True)
    gate = host.work.release

    async def slow(request: Any, body: Any) -> Any:
        await gate.wait()
        return web.Response(status=404)

    host._file = slow  # type: ignore[method-assign]
    row = await lab.done(act("a"))
    assert row["status"] == "completed"
    assert "did not send it within" in (await shown(lab, row["id"]))["notes"]
    gate.set()
    await until(lambda: not host._here)
