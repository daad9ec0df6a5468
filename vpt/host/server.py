"""The host's HTTP server: its start, its routes, and its clean stop."""

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog
from aiohttp import hdrs, web

from vpt import bodies
from vpt.allocator import return_large_blocks
from vpt.bounds import LONGEST_BODY
from vpt.config import proxy_of
from vpt.connections import Connections, raise_descriptor_limit
from vpt.host.description import HostDescription
from vpt.host.device_worker import DeviceWorker
from vpt.host.devices import HostDevices, attempt_of
from vpt.host.drivers import DesktopDriver, Driver
from vpt.host.environment import child_environment
from vpt.host.folder import host_secret, instance_id, kept_token, own_folder
from vpt.host.journal import Journal
from vpt.host.membership import HostReplacedError, Membership
from vpt.host.responses import JsonResponse, Refusal, refusal_response
from vpt.host.settings import DeviceSpec, HostSettings
from vpt.http_server import UnreadAnswers, answer_expectations, hide_versions
from vpt.listener import LimitedSite

#: An action of the longest body of the server, with what the server adds to it.
MAX_BODY = LONGEST_BODY + 2**20
BODY_S = 60
LONGEST_KEY = 1000
DRAIN_S = 2

DEVICES = web.AppKey("devices", HostDevices)
DESCRIPTION = web.AppKey("description", HostDescription)
SECRET = web.AppKey("secret", bytes)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


async def run_host(settings: HostSettings, *, ready: asyncio.Event | None = None) -> None:
    """Run the host until cancelled; then stop it cleanly.

    `ready` is set when the host listens (it may not be registered yet). Raises OSError when the
    folder or the address is in use, ValueError when a device cannot work on this machine,
    HostReplacedError when the server has another host of this name now.
    """
    with own_folder(settings.folder) as folder:
        secret = host_secret(folder)
        settings = _with_token(settings, folder)
        journal = Journal(folder / "journal")
        drivers = [(spec, make_driver(spec, settings)) for spec in settings.specs]
        await journal.open()
        workers = [DeviceWorker(spec, driver, journal) for spec, driver in drivers]
        devices = HostDevices(workers, journal)
        description = HostDescription(settings, devices, secret, instance_id(folder))
        try:
            await _serve(settings, devices, description, secret, ready)
        finally:
            await devices.close()
            await journal.close()


def _with_token(settings: HostSettings, folder: Path) -> HostSettings:
    token = settings.join_token or kept_token(folder, settings.server)
    return replace(settings, join_token=token)


async def _serve(
    settings: HostSettings,
    devices: HostDevices,
    description: HostDescription,
    secret: str,
    ready: asyncio.Event | None,
) -> None:
    devices.start()
    return_large_blocks()
    raise_descriptor_limit()
    runner = web.AppRunner(make_app(devices, description, secret), shutdown_timeout=DRAIN_S)
    await runner.setup()
    unread = asyncio.create_task(UnreadAnswers().watch(runner), name="unread answers")
    try:
        await LimitedSite(
            runner,
            settings.listen,
            settings.port,
            Connections(),
            access_log=None,
            auto_decompress=False,  # a small packed body could keep the loop busy for long
        ).start()
        description.port = runner.addresses[0][1]
        log.info("host_listening", address=settings.listen, port=description.port)
        if ready is not None:
            ready.set()
        timeout = aiohttp.ClientTimeout(total=None)  # each request sets its own
        proxy = proxy_of(settings.server)
        async with aiohttp.ClientSession(timeout=timeout, proxy=proxy) as session:
            await _stay_registered(settings, devices, session, description)
    finally:
        unread.cancel()
        await runner.cleanup()
        log.info("host_stopped", host_id=settings.name)


async def _stay_registered(
    settings: HostSettings,
    devices: HostDevices,
    session: aiohttp.ClientSession,
    description: HostDescription,
) -> None:
    """Stay registered until cancelled, then refuse further actions and unregister."""
    membership = Membership(
        session,
        settings.server,
        settings.join_token,
        description,
        folder=settings.folder,
        heartbeat_s=settings.heartbeat_s,
    )
    try:
        await membership.keep()
        raise HostReplacedError(settings.name)
    finally:
        devices.refuse()
        await membership.leave()
        await devices.close()


def make_driver(spec: DeviceSpec, settings: HostSettings) -> Driver:
    """Build the driver of a device; raise ValueError when it cannot work on this machine."""
    if spec.kind == "desktop":
        environment = child_environment(os.environ, settings.pass_env)
        return DesktopDriver(
            allow_shell=settings.allow_shell,
            environment=environment,
            work_folder=settings.folder / "work" / spec.local_id,
        )
    from vpt.host.drivers.web import WebDriver  # noqa: PLC0415 (an extra: may be missing)

    return WebDriver()


def make_app(devices: HostDevices, description: HostDescription, secret: str) -> web.Application:
    """Build the application; all of its routes need the secret."""
    hide_versions()
    app = web.Application(middlewares=[_respond_in_json, _check_secret], client_max_size=MAX_BODY)
    answer_expectations(app, _expectation_refused)
    app[DEVICES] = devices
    app[DESCRIPTION] = description
    app[SECRET] = f"Bearer {secret}".encode()
    app.router.add_get("/host/health", health)
    app.router.add_post("/host/remote/executeAction", execute_action)
    app.router.add_post("/host/cancel", cancel)
    app.router.add_get("/host/devices/{device_id}/screenshot", screenshot)
    return app


async def health(request: web.Request) -> web.Response:
    """Return that the host is alive, who it is, and the number of actions of each device."""
    devices = [
        {"device_id": name, "actions": len(worker.actions)}
        for name, worker in request.app[DEVICES].workers.items()
    ]
    description = request.app[DESCRIPTION]
    body = {
        "status": "ok",
        "host_name": description.name,
        "instance_id": description.instance_id,
        "devices": devices,
    }
    return _respond(JsonResponse(200, orjson.dumps(body)))


async def execute_action(request: web.Request) -> web.Response:
    """Execute one action and respond when it has ended."""
    _check_meant(request)
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isprintable()):
        raise Refusal(
            400, "bad_request", f"Idempotency-Key: 1 to {LONGEST_KEY} printable characters"
        )
    return _respond(await request.app[DEVICES].execute(await _object(request), key))


async def cancel(request: web.Request) -> web.Response:
    """Stop an attempt and respond when its actions have ended."""
    _check_meant(request)
    attempt = attempt_of(await _object(request))
    if attempt is None:
        raise Refusal(400, "bad_request", "execution_id and attempt are needed")
    count = await request.app[DEVICES].cancel(attempt)
    return _respond(JsonResponse(200, orjson.dumps({"success": True, "cancelled": count})))


async def screenshot(request: web.Request) -> web.Response:
    """Return a PNG of what a device shows; 409 while it is at work, which a picture would delay."""
    _check_meant(request)
    picture = await request.app[DEVICES].screenshot(request.match_info["device_id"])
    return web.Response(body=picture, content_type="image/png")


def _check_meant(request: web.Request) -> None:
    """Refuse a call that is meant for another host, which had this address before."""
    name = request.app[DESCRIPTION].name
    meant = request.headers.get("Vpt-Host", name)
    if meant != name:
        raise Refusal(421, "another_host", f"this is the host {name}, and not {meant}")


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        async with asyncio.timeout(BODY_S):
            text = await request.read()
    except TimeoutError:
        raise Refusal(408, "slow_body", "the body did not arrive in time") from None
    try:
        body = await bodies.beside_loop(text, lambda: _parsed(text))
    except bodies.TooMuchError as error:
        raise Refusal(413, "too_large", f"the body has more than {error}") from error
    if not isinstance(body, dict):
        raise Refusal(400, "bad_request", "the body must be a JSON object")
    return body


def _parsed(text: bytes) -> Any:
    bodies.check(text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _respond(response: JsonResponse) -> web.Response:
    return web.Response(
        status=response.status, body=response.body, content_type="application/json", charset="utf-8"
    )


def _expectation_refused(_: web.Request) -> web.Response:
    return _respond(
        refusal_response(417, "expectation_failed", "only Expect: 100-continue is supported")
    )


@web.middleware
async def _respond_in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn refusals and errors into JSON; the details of an unexpected error are only logged."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _respond(refusal.response())
    except web.HTTPException as error:
        code = error.reason.lower().replace(" ", "_")
        return _respond(refusal_response(error.status, code, error.reason))
    except Exception:
        log.exception("host_request_broke", path=request.path)
        return _respond(
            refusal_response(500, "internal", "internal error; see the log of the host")
        )


@web.middleware
async def _check_secret(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse callers that do not send the host's secret."""
    shown = request.headers.get("Authorization", "").encode(errors="surrogateescape")
    if not hmac.compare_digest(shown, request.app[SECRET]):
        raise Refusal(401, "unauthorized", "Authorization: the host's secret is missing or wrong")
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Refusal(415, "unsupported_media_type", "the body is compressed: send it uncompressed")
    return await handler(request)
