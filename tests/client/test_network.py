"""What lies between a command and its server: proxies of the environment, private CAs, CDNs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.client.kit import Cli

NOBODY = "http://127.0.0.1:9"


class Listener:
    """Answers as a server without hosts, or as a proxy that passes requests on."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.statuses: list[int] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(str(request.url))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), text="<html>")
        if request.url.port != int(self.url.rpartition(":")[2]):
            async with (
                ClientSession() as session,
                session.get(request.url, headers=request.headers) as response,
            ):
                return web.Response(body=await response.read(), content_type="application/json")
        return web.json_response({"items": [], "next_cursor": None})


@asynccontextmanager
async def listening(context: ssl.SSLContext | None = None) -> AsyncIterator[Listener]:
    one = Listener()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        scheme = "https" if context else "http"
        one.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        yield one
    finally:
        await runner.cleanup()


def ls(url: str, **settings: Any) -> Cli:
    """Return a command line in that environment."""
    return Cli(url, "a-token", settings)


async def test_a_proxy_of_the_environment_is_used_as_curl_does() -> None:
    async with listening() as server, listening() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            ended = await ls(server.url, **{name: proxy.url})("ls", "hosts")
            assert ended.code == 0, ended
            assert len(proxy.asked) == 1
            assert proxy.asked.pop().startswith(server.url)
        bare = proxy.url.removeprefix("http://")
        assert (await ls(server.url, http_proxy=bare)("ls", "hosts")).code == 0
        assert proxy.asked.pop()
        for direct in ("127.0.0.1", "*", "example.com, 127.0.0.1"):
            ended = await ls(server.url, http_proxy=proxy.url, no_proxy=direct)("ls", "hosts")
            assert (ended.code, proxy.asked) == (0, [])
        refused = await ls(server.url, http_proxy="socks5://127.0.0.1:1")("ls", "hosts")
        assert refused.code == 4
        assert "http_proxy: expected an http:// proxy" in refused.err


async def test_errors_of_a_cdn_are_waited_for() -> None:
    async with listening() as server:
        server.statuses = [520, 522, 524, 530]
        ended = await ls(server.url)("ls", "hosts")
        assert ended.code == 2
        assert "does not answer: 520" in ended.err


@pytest.mark.parametrize("known", [True, False])
async def test_a_private_ca_is_known_by_ssl_cert_file(tmp_path: Path, known: bool) -> None:
    context = certified(tmp_path)
    settings = {"SSL_CERT_FILE": tmp_path / "ca.pem"} if known else {}
    async with listening(context) as server:
        ended = await ls(server.url, **settings)("ls", "hosts")
    assert ended.code == (0 if known else 2)
    assert known or "certificate" in ended.err.lower()


def certified(folder: Path) -> ssl.SSLContext:
    """Make a CA, in ca.pem, and a certificate of 127.0.0.1; return the context of a server."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("a private CA", "a private CA", ca_key, ca_key, is_ca=True)
    own = _certificate("127.0.0.1", "a private CA", key, ca_key, is_ca=False)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "own.pem").write_bytes(secret + own.public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "own.pem")
    return context


def _certificate(
    name: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(address, critical=False)
        .sign(signer, hashes.SHA256())
    )
