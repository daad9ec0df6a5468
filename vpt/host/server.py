"""The host's HTTP server and its life: start, work, clean stop."""

import asyncio
import hmac
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog
from aiohttp import web
from yarl import URL

from vpt.host.bench import Bench, attempt_of
from vpt.host.drivers import DesktopDriver, Driver
from vpt.host.folder import host_secret, kept_token, own_folder
from vpt.host.journal import Journal
from vpt.host.lane import Lane
from vpt.host.membership import Membership
from vpt.host.replies import Refusal, Reply, refused
from vpt.host.settings import DeviceSpec, HostSettings
from vpt.host.stats import hardware

MAX_BODY = 16 * 1024 * 1024
LONGEST_KEY = 1000
DRAIN_S = 2

BENCH = web.AppKey("bench", Bench)
SECRET = web.AppKey("secret", bytes)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


async def run_host(settings: HostSettings, *, ready: asyncio.Event | None = None) -> None:
    """Hold the devices and serve their actions until cancelled; then stop cleanly.

    `ready` is set when the host listens (it may not be registered yet). OSError when the folder
    is in use or the address cannot be had; ValueError when a device cannot work here.
    """
    with own_folder(settings.folder) as folder:
        secret = host_secret(folder)
        settings = _with_token(settings, folder)
        journal = Journal(folder / "journal")
        lanes = [Lane(spec, make_driver(spec, settings), journal) for spec in settings.specs]
        await journal.open()
        bench = Bench(lanes, journal)
        try:
            await _serve(settings, bench, secret, ready)
        finally:
            await bench.close()
            await journal.close()


def _with_token(settings: HostSettings, folder: Path) -> HostSettings:
    token = kept_token(folder, settings.server, settings.join_token)
    return replace(settings, join_token=token)


async def _serve(
    settings: HostSettings, bench: Bench, secret: str, ready: asyncio.Event | None
) -> None:
    bench.start()
    runner = web.AppRunner(make_app(bench, secret), access_log=None, shutdown_timeout=DRAIN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.listen, settings.port).start()
        port = runner.addresses[0][1]
        log.info("host_listening", address=settings.listen, port=port)
        if ready is not None:
            ready.set()
        card = registration(settings, bench, secret, port)
        timeout = aiohttp.ClientTimeout(total=None)  # each call brings its own limit
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await _belong(settings, bench, session, card)
    finally:
        await runner.cleanup()
        log.info("host_stopped", host_id=settings.name)


async def _belong(
    settings: HostSettings, bench: Bench, session: aiohttp.ClientSession, card: Mapping[str, Any]
) -> None:
    """Be registered until cancelled, then take nothing more and say farewell."""
    membership = Membership(
        session,
        settings.server,
        settings.join_token,
        card,
        folder=settings.folder,
        heartbeat_s=settings.heartbeat_s,
    )
    try:
        await membership.keep()
    finally:
        bench.refuse()
        await membership.leave()
        await bench.close()


def make_driver(spec: DeviceSpec, settings: HostSettings) -> Driver:
    """The driver of a device; ValueError when it cannot work on this machine."""
    if spec.kind == "desktop":
        return DesktopDriver(allow_shell=settings.allow_shell)
    from vpt.host.drivers.web import WebDriver  # noqa: PLC0415 (an extra: may be missing)

    return WebDriver()


def make_app(bench: Bench, secret: str) -> web.Application:
    """The routes; all of them need the secret."""
    app = web.Application(middlewares=[_answer_in_json, _check_secret], client_max_size=MAX_BODY)
    app[BENCH] = bench
    app[SECRET] = f"Bearer {secret}".encode()
    app.router.add_get("/host/health", health)
    app.router.add_post("/host/remote/executeAction", execute_action)
    app.router.add_post("/host/cancel", cancel)
    return app


def registration(settings: HostSettings, bench: Bench, secret: str, port: int) -> Mapping[str, Any]:
    """What the host says of itself when it registers."""
    lanes = bench.lanes.values()
    devices = [
        {
            "device_id": lane.spec.local_id,
            "name": f"{settings.name} {lane.spec.local_id}",
            "model": lane.spec.model,
            "capabilities": list(lane.driver.capabilities),
        }
        for lane in lanes
    ]
    return {
        "host_name": settings.name,
        "host_url": settings.advertise or own_url(settings, port),
        "status": "available",
        "capabilities": sorted({word for lane in lanes for word in lane.driver.capabilities}),
        "hardware": hardware(),
        "devices": devices,
        "protocol": {"idempotency": True, "cancel": True},
        "host_secret": secret,
    }


def own_url(settings: HostSettings, port: int) -> str:
    """The URL under which the server reaches this host."""
    address = settings.listen
    if address in {"", "0.0.0.0", "::"}:  # noqa: S104 (it is asked for, not chosen)
        address = _address_towards(URL(settings.server))
    return str(URL.build(scheme="http", host=address, port=port))


def _address_towards(server: URL) -> str:
    """The address of the interface by which the server is reached; nothing is sent."""
    with suppress(OSError):
        family, kind, protocol, _, target = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    return socket.gethostname()


async def health(request: web.Request) -> web.Response:
    """Say that the host is alive, and what its devices do."""
    devices = [
        {"device_id": name, "actions": len(lane.tickets)}
        for name, lane in request.app[BENCH].lanes.items()
    ]
    return _respond(Reply(200, orjson.dumps({"status": "ok", "devices": devices})))


async def execute_action(request: web.Request) -> web.Response:
    """Do one action and answer when it is done."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isprintable()):
        raise Refusal(400, "bad_request", f"Idempotency-Key: 1 to {LONGEST_KEY} printable letters")
    return _respond(await request.app[BENCH].act(await _object(request), key))


async def cancel(request: web.Request) -> web.Response:
    """Stop an attempt; answers when it is really stopped."""
    pair = attempt_of(await _object(request))
    if pair is None:
        raise Refusal(400, "bad_request", "execution_id and attempt are needed")
    count = await request.app[BENCH].cancel(pair)
    return _respond(Reply(200, orjson.dumps({"success": True, "cancelled": count})))


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, "bad_request", "the body must be a JSON object")
    return body


def _respond(reply: Reply) -> web.Response:
    return web.Response(
        status=reply.status, body=reply.body, content_type="application/json", charset="utf-8"
    )


@web.middleware
async def _answer_in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn refusals and errors into JSON; an unexpected error is logged, not told."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _respond(refusal.reply())
    except web.HTTPException as error:
        code = error.reason.lower().replace(" ", "_")
        return _respond(refused(error.status, code, error.reason))
    except Exception:
        log.exception("host_request_broke", path=request.path)
        return _respond(refused(500, "internal", "the host broke; see its log"))


@web.middleware
async def _check_secret(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let only callers in that know the host's secret."""
    shown = request.headers.get("Authorization", "").encode(errors="surrogateescape")
    if not hmac.compare_digest(shown, request.app[SECRET]):
        raise Refusal(401, "unauthorized", "the host's secret is needed")
    return await handler(request)
