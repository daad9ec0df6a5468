"""What a host answers: read leniently, and what cannot be understood is not asked for again."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.actors.conftest import Kit, StartLab
from tests.actors.fake_host import HUGE, Behaviour, Reply, passes, replies, says

_TEXT = '{"success": true, "output": "Grüße"}'


def _packed(text: bytes, encoding: str) -> Behaviour:
    return says(Reply(body=text, headers={"Content-Encoding": encoding}))


def _raw_deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(text) + packer.flush()


_ANSWERS = {
    "a BOM": says(Reply(body=_TEXT.encode("utf-8-sig"))),
    "UTF-16": says(Reply(body=_TEXT.encode("utf-16"))),
    "UTF-16 without BOM": says(Reply(body=_TEXT.encode("utf-16-le"))),
    "UTF-32": says(Reply(body=_TEXT.encode("utf-32"))),
    "gzip": _packed(gzip.compress(_TEXT.encode()), "gzip"),
    "x-gzip in capitals": _packed(gzip.compress(_TEXT.encode()), "X-GZIP"),
    "deflate": _packed(zlib.compress(_TEXT.encode()), "deflate"),
    "raw deflate": _packed(_raw_deflate(_TEXT.encode()), "deflate"),
    "gzip in name only": _packed(_TEXT.encode(), "gzip"),
    "identity": _packed(_TEXT.encode(), "identity"),
    "no JSON by its name": says(
        Reply(body=_TEXT.encode(), headers={"Content-Type": "text/html; charset=koi8-r"})
    ),
    "a long head": says(Reply(body=_TEXT.encode(), headers={"X-Log": "x" * 20_000})),
}


async def test_an_answer_is_read_whatever_its_form(lab: Kit) -> None:
    host = await lab.host()
    for name, behaviour in _ANSWERS.items():
        host.on(name, behaviour)
    row = await lab.done(*_ANSWERS)
    steps = await lab.steps(row["id"])
    assert {step["action"]: step["output"] for step in steps} == dict.fromkeys(_ANSWERS, "Grüße")
    assert (row["status"], row["attempt"]) == ("completed", 1)


@pytest.mark.parametrize("size", [0, 100_000], ids=["short", "long"])
async def test_what_is_not_of_its_encoding_is_replaced(lab: Kit, size: int) -> None:
    host = await lab.host()
    text = _TEXT.replace("Gr", "x" * size + "Gr").encode("latin-1")
    host.on("a", says(Reply(body=text)))
    row = await lab.done("a")
    assert (await lab.steps(row["id"]))[0]["output"] == "x" * size + "Gr\ufffd\ufffde"
    assert row["status"] == "completed"


_BOMB = gzip.compress(b'{"success": true, "output": "' + b"x" * HUGE + b'"}')
_WRONG = {
    "text": (replies(success="yes"), "answered success as text, not as true or false"),
    "number": (replies(success=1), "answered success as a number, not as true or false"),
    "none": (replies(output="yes"), "answered without success: true or false must be in it"),
    "empty": (says(Reply(204, b"")), "answered nothing, not a JSON object"),
    "array": (says(Reply(body=b"[true]")), "answered an array, not a JSON object"),
    "page": (says(Reply(body=b"<html>")), "answered HTML or XML, not a JSON object"),
    "prose": (says(Reply(body=b"OK")), "answered text that is not JSON, not a JSON object"),
    "large": (
        says(Reply(body=b'{"success": true, "output": "' + b"x" * 17_000_000 + b'"}')),
        "answered 17.0 MB, more than 16 MiB",
    ),
    "bomb": (_packed(_BOMB, "gzip"), "answered more than 16 MiB when it is unpacked"),
    "brotli": (
        _packed(b"\x0b\x02\x80{}\x03", "br"),
        "answered in the Content-Encoding br, which is not unpacked",
    ),
    "head": (
        replies(success=True, headers={"X-Log": "x" * 70_000}),
        "answered with a head that is not HTTP: Got more than 65536 bytes when reading",
    ),
}


@pytest.mark.parametrize("name", _WRONG)
async def test_what_cannot_be_understood_says_what_it_was_and_is_not_repeated(
    start_lab: StartLab, name: str
) -> None:
    lab = await start_lab(infra_retries=2)
    host = await lab.host()
    behaviour, words = _WRONG[name]
    host.on("a", behaviour)
    row = await lab.done("a", queue_timeout_s=60)
    assert host.commands() == ["a"], "the same device would answer the same again"
    assert (row["status"], row["error_kind"]) == ("error", "host_error")
    assert row["error"].removeprefix("h:d1").lstrip() == words
    assert (await lab.steps(row["id"]))[0]["error"] == row["error"]


async def test_only_other_devices_may_try_what_one_answered_wrongly(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=5)
    hosts = [await lab.host(name, "d1", "d2") for name in ("one", "two")]
    for host in hosts:
        host.on("a", replies(output="no success"))
    row = await lab.done("a", queue_timeout_s=60)
    assert row["error_kind"] == "host_error"
    devices = [attempt["device_id"] for attempt in await lab.attempts(row["id"])]
    assert len(devices) == len(set(devices)) == 4
    assert row["error"].startswith(f"{devices[0]} answered without success")


async def test_a_good_device_makes_good_for_one_that_cannot_be_understood(lab: Kit) -> None:
    bad, good = await lab.host("bad"), await lab.host("good")
    bad.on("a", says(Reply(body=b"<html>")))
    good.on("a", passes())
    rows = [await lab.done("a") for _ in range(3)]
    assert [row["status"] for row in rows] == ["completed"] * 3
    assert bad.actions


@asynccontextmanager
async def _cuts_its_answers() -> AsyncIterator[tuple[int, list[str]]]:
    """A host whose answers to actions end before they said they would; yield port and requests."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head.split()[1])
        size = 100 if "executeAction" in head else 2
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{}" % size)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


async def test_an_answer_that_breaks_off_each_time_is_an_error_of_the_host(lab: Kit) -> None:
    async with _cuts_its_answers() as (port, asked):
        host = await lab.stranger()
        await host.vanish()
        host.port = port
        await lab.join(host)
        row = await lab.done("a", queue_timeout_s=60)
    assert asked.count("/host/remote/executeAction") == 2, "once more, as the network may have"
    assert (row["error_kind"], row["attempt"]) == ("host_error", 1)
    assert row["error"] == "h:d1 broke off its answer before the end"


async def test_a_refusal_is_told_in_the_words_of_the_host(lab: Kit) -> None:
    host = await lab.host("pi-1", "desktop")
    host.on("a", says(Reply(403, json.dumps({"error": "who are you"}).encode())))
    host.on("b", replies(422, error="shell commands are off; start the host with --allow-shell"))
    errors = [(await lab.done(name))["error"] for name in ("a", "b")]
    assert errors == [
        "pi-1:desktop answered 403: who are you",
        "pi-1:desktop refused it: shell commands are off; start the host with --allow-shell",
    ]


# ---------------------------------------------------------------- pictures

_PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR").decode()
_LARGE = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(9_000_000)).decode()
_PICTURES = {
    "good": (_PNG, None),
    "large": (_LARGE, "9.0 MB, more than 8 MiB"),
    "very large": ("A" * 13 * 2**20, "more than 8 MiB"),
    "no picture": (base64.b64encode(b"GIF89a").decode(), "it is neither PNG nor JPEG"),
    "no base64": ("//shots/1.png", "it is not base64"),
    "no text": ({"url": "http://10.0.0.1/1.png"}, "it is not base64"),
}


async def test_a_picture_that_is_left_out_says_so_on_the_step(lab: Kit) -> None:
    host = await lab.host()
    for name, (data, _) in _PICTURES.items():
        host.on(name, replies(success=True, screenshot=data))
    row = await lab.done(*_PICTURES)
    assert row["status"] == "completed"
    noted = {step["action"]: step["notes"] for step in await lab.steps(row["id"])}
    assert noted == {
        name: why and f"The screenshot was left out: {why}." for name, (_, why) in _PICTURES.items()
    }


# ---------------------------------------------------------------- the true reason


async def test_an_error_is_the_first_cause_and_then_what_ended_it(lab: Kit) -> None:
    one, two = await lab.host("one"), await lab.host("two")
    one.on("a", replies(500, error="disk full"))
    two.on("a", replies(422, error="never"))
    row = await lab.done("a", queue_timeout_s=60)
    assert row["error_kind"] == "host_refused"
    causes = {"one:d1 answered 500: disk full", "two:d1 refused it: never"}
    attempts = [attempt["error"] for attempt in await lab.attempts(row["id"])]
    assert set(attempts) == causes
    assert row["error"] == "; then: ".join(attempts)


async def test_what_waited_too_long_after_a_failure_says_why_it_waited(lab: Kit) -> None:
    one = await lab.host("one")
    one.on("a", replies(422, error="never"))
    await lab.host("two")
    await lab.lab.registry.drain("two", on=True)
    row = await lab.done("a", queue_timeout_s=0.5)
    assert row["error_kind"] == "queue_timeout"
    waited = "It waited too long for a device."
    assert row["error"] == f"one:d1 refused it: never; then: {waited}"
