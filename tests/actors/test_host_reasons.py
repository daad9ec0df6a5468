"""Why a host cannot be reached: each failure of a real connection has its kind and its words."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import ClientConnectorDNSError, ClientConnectorError
from aiohttp.client_reqrep import ConnectionKey

from tests.actors.fake_host import BlackHole, FakeHost, hangs, replies
from tests.client.test_network import certified
from vpt.dialects.base import Dialect, HostTroubleError, Identity, Trouble
from vpt.dialects.document import DocumentDialect
from vpt.dialects.reasons import reason_of
from vpt.dialects.virtualpytest import VirtualPyTestDialect
from vpt.model import Host, HostTrouble, TroubleKind

OF_DIALECT: dict[str, Callable[[], Dialect]] = {
    "document": DocumentDialect,
    "virtualpytest": lambda: VirtualPyTestDialect("team"),
}


@pytest.fixture(params=OF_DIALECT)
async def dialect(request: pytest.FixtureRequest) -> AsyncIterator[Dialect]:
    made = OF_DIALECT[request.param]()
    made.name = request.param  # type: ignore[attr-defined]
    yield made
    await made.close()


@pytest.fixture
async def host() -> AsyncIterator[FakeHost]:
    made = FakeHost("h")
    yield made
    await made.close()


async def why(dialect: Dialect, url: str, limit: float = 5.0) -> tuple[TroubleKind | None, str]:
    name = dialect.name  # type: ignore[attr-defined]
    with pytest.raises(HostTroubleError) as raised:
        await dialect.probe(Host("h", url, dialect=name), limit)
    reason = raised.value.reason
    assert reason is not None
    assert "127.0.0.1" not in reason.text
    return reason.kind, reason.text


async def test_a_port_where_nobody_listens(dialect: Dialect, host: FakeHost) -> None:
    assert await why(dialect, host.url) == (TroubleKind.REFUSED, "connection refused")


async def test_a_name_that_is_not_known(dialect: Dialect) -> None:
    kind, words = await why(dialect, "http://nobody.invalid:5110")
    assert (kind, words.partition(":")[0]) == (TroubleKind.NAME, "its name is not known")


async def test_a_machine_that_does_not_answer(dialect: Dialect) -> None:
    hole = BlackHole()
    kind, words = await why(dialect, f"http://127.0.0.1:{hole.port}", 0.3)
    hole.close()
    if dialect.name == "document":  # type: ignore[attr-defined]
        assert (kind, words) == (TroubleKind.TIMEOUT, "no connection in time")
    else:  # its limit is of the wait behind other requests, too
        assert kind in (TroubleKind.TIMEOUT, TroubleKind.TOO_SLOW)


async def test_a_certificate_that_nobody_vouches_for(dialect: Dialect, tmp_path: Path) -> None:
    host = FakeHost("h", tls=certified(tmp_path))
    await host.appear()
    kind, words = await why(dialect, host.url)
    await host.close()
    assert kind is TroubleKind.CERTIFICATE
    assert words.startswith("certificate not trusted: ")


async def test_tls_where_there_is_none(dialect: Dialect, host: FakeHost) -> None:
    await host.appear()
    kind, words = await why(dialect, host.url.replace("http:", "https:"))
    assert kind is TroubleKind.CERTIFICATE
    assert words.startswith("no TLS connection: ")


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (b"", TroubleKind.REFUSED, "the connection was closed without an answer"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            TroubleKind.REFUSED,
            "the connection was closed within the answer",
        ),
        (b"220 mail at your service\r\n\r\n", TroubleKind.STATUS, "the answer is not valid HTTP"),
    ],
)
async def test_what_breaks_off_or_is_no_http(
    dialect: Dialect, said: bytes, kind: TroubleKind, words: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await why(dialect, f"http://127.0.0.1:{port}") == (kind, words)


KEY = ConnectionKey("h", 80, False, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "")),
            TroubleKind.TIMEOUT,
            "no route to the host",
        ),
        (
            ClientConnectorError(KEY, OSError(errno.ETIMEDOUT, "")),
            TroubleKind.TIMEOUT,
            "no connection in time",
        ),
        (
            ClientConnectorError(KEY, OSError(errno.EACCES, "Permission denied")),
            TroubleKind.REFUSED,
            "Permission denied",
        ),
        (
            ClientConnectorDNSError(KEY, OSError(None, "h leads to 10.0.0.1")),
            TroubleKind.NAME,
            "its name leads to addresses where no host may be",
        ),
    ],
)
def test_what_no_network_of_a_test_does(error: OSError, kind: TroubleKind, words: str) -> None:
    assert reason_of(error) == HostTrouble(kind, words)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (301, TroubleKind.REDIRECT, "answers 301: a redirect, which vpt does not follow"),
        (401, TroubleKind.CREDENTIAL, "answers 401: it does not accept"),
        (403, TroubleKind.CREDENTIAL, "answers 403: it does not accept"),
        (404, TroubleKind.STATUS, "answers 404"),
        (421, TroubleKind.SOMEBODY_ELSE, "answers 421: another host"),
        (500, TroubleKind.STATUS, "answers 500"),
    ],
)
async def test_a_status(host: FakeHost, status: int, kind: TroubleKind, words: str) -> None:
    host.health = replies(status, headers={"Location": "http://elsewhere.invalid/"})
    await host.appear()
    dialect = DocumentDialect()
    dialect.name = "document"  # type: ignore[attr-defined]
    told, said = await why(dialect, host.url)
    await dialect.close()
    assert told is kind
    assert said.startswith(words)


async def test_a_host_that_is_too_slow(host: FakeHost) -> None:
    host.health = hangs()
    await host.appear()
    dialect = DocumentDialect()
    dialect.name = "document"  # type: ignore[attr-defined]
    assert (await why(dialect, host.url, 0.3))[0] is TroubleKind.TOO_SLOW
    await dialect.close()


@pytest.mark.parametrize(
    "health", [{}, {"host_name": 5}, {"host_name": ""}, {"host_name": ["h"]}, {"status": "ok"}]
)
async def test_who_does_not_say_its_name_may_be_any(
    host: FakeHost, health: dict[str, object]
) -> None:
    host.health = replies(**health)  # type: ignore[arg-type]
    await host.appear()
    dialect = DocumentDialect()
    assert await dialect.probe(Host("h", host.url), 5) == Identity()
    with pytest.raises(HostTroubleError) as raised:  # not so one that said it before
        await dialect.probe(Host("h", host.url, named=True), 5)
    assert raised.value.trouble is Trouble.SOMEBODY_ELSE
    await dialect.close()
