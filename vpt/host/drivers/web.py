"""The web driver: controls a real Chromium by Playwright."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from vpt.host.drivers.base import (
    ActionFailed,
    BadAction,
    Driver,
    DriverError,
    DriverHealth,
    Job,
    Outcome,
    Params,
    describe,
    param,
)

try:
    from playwright.async_api import Browser, Error, Locator, Page, Playwright, async_playwright
except ImportError as error:
    raise ValueError("a web device needs Playwright: pip install 'vpt[web]'") from error

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCHEMES = ("http://", "https://", "about:blank", "data:")
WAIT_S = 30
LAUNCH_S = 60
CLOSE_S = 5
SPARE_S = 15
SHOTS = 4
RETRY_S = 1
HEALTH_S = 10
SHOT_PAUSE_S = 0.1

_LIMIT = {"timeout": param("number", "Seconds that it may take.", default=WAIT_S, min=0)}
_ELEMENT = {
    "selector": param("string", "The CSS selector of the element."),
    "element_id": param("string", "Or its id."),
    "text": param("string", "Or a text that it shows."),
}
_URL = param("string", "The URL.", required=True, placeholder="https://example.org/")
_KEY = param("string", "Its name for Playwright.", required=True, placeholder="Enter")
_SIDES = {
    "x": param("integer", "Pixels from the left.", required=True, min=0),
    "y": param("integer", "Pixels from the top.", required=True, min=0),
}
ACTIONS = (
    describe("open_browser", "Open the browser", "Start the browser with an empty page."),
    describe("close_browser", "Close the browser", "End the browser."),
    describe("take_screenshot", "Take a screenshot", "Return a picture of the page."),
    describe("navigate_to_url", "Open a page", "Open a URL.", {"url": _URL, **_LIMIT}),
    describe("click_element", "Click", "Click on an element.", {**_ELEMENT, **_LIMIT}),
    describe(
        "fill",
        "Fill in",
        "Fill in a field of the page.",
        {**_ELEMENT, "value": param("string", "What to fill in."), **_LIMIT},
    ),
    describe("press_key", "Press a key", "Press a key on the page.", {"key": _KEY}),
    describe(
        "wait_for_text",
        "Wait for a text",
        "Wait until the page shows a text.",
        {"text": param("string", "The text.", required=True), **_LIMIT},
    ),
    describe("tap_coordinates", "Click at a point", "Click at a point of the page.", _SIDES),
    describe("dump_elements", "List elements", "List what one can click on and fill in."),
)
#: What one can click on or fill in, as far as it is in sight; one page may have thousands.
_LISTED = """() => [...document.querySelectorAll(
    "a, button, input, select, textarea, label, h1, h2, h3, [role], [onclick]")]
  .map((one) => [one, one.getBoundingClientRect()])
  .filter(([, box]) => box.width && box.height && box.bottom > 0 && box.top < innerHeight)
  .slice(0, 1000)
  .map(([one, box]) => ({
    id: one.id,
    text: (one.innerText || one.value || "").slice(0, 200),
    className: one.tagName.toLowerCase(),
    contentDesc: one.getAttribute("aria-label") || one.title || "",
    bounds: { left: box.left, top: box.top, right: box.right, bottom: box.bottom },
    clickable: one.matches("a, button, input, select, textarea, [role=button], [onclick]"),
  }))"""
Act = Callable[[Page], Awaitable[str | None]]


class WebDriver(Driver):
    """Controls one browser with one page, each page in a context (a profile) of its own."""

    def __init__(self) -> None:
        """Find the browser, which `open_browser` starts; raise ValueError when there is none."""
        found = [path for name in BROWSERS if (path := shutil.which(name))]
        if not found:
            raise ValueError(f"a web device needs a browser: install one of {', '.join(BROWSERS)}")
        self._path = found[0]
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._page: Page | None = None
        self._doing: asyncio.Task[Outcome] | None = None
        self._starting = asyncio.Lock()
        self._fault: str | None = None
        self._failed_at = 0.0
        self._retrying: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> tuple[str, ...]:
        """`web`, the kind of the browser, and that its page can be looked at."""
        return ("web", "web_chromium", "screenshot")

    @property
    def descriptions(self) -> tuple[Mapping[str, Any], ...]:
        """Descriptions of all commands."""
        return ACTIONS

    @property
    def commands(self) -> Mapping[str, Callable[[Params], Job]]:
        """The commands by the names that test cases use."""
        return {
            "open_browser": lambda _: self._job(self._open, LAUNCH_S),
            "close_browser": lambda _: self._job(self._close, LAUNCH_S),
            "take_screenshot": lambda _: self._job(self._picture, WAIT_S),
            "navigate_to_url": self._navigate,
            "click_element": self._click,
            "fill": self._fill,
            "press_key": self._press,
            "wait_for_text": self._wait_for_text,
            "tap_coordinates": self._tap,
            "dump_elements": lambda _: self._job(self._elements, WAIT_S),
        }

    async def health(self) -> DriverHealth:
        """Return whether the browser is there and started when it was last needed.

        One that did not start is tried again here, since a device that is away gets no action.
        """
        if shutil.which(self._path) is None:
            return DriverHealth(False, f"the browser is missing: {self._path}")
        due = time.monotonic() - self._failed_at > RETRY_S
        if self._fault is not None and due and self._retrying is None:
            self._retrying = asyncio.create_task(self._retry(), name="web-retry")
        if self._retrying is not None:
            await asyncio.wait({self._retrying}, timeout=HEALTH_S)
        if self._fault is not None:
            return DriverHealth(False, self._fault)
        version = self._browser.version if self._browser is not None else ""
        return DriverHealth(properties={"browser": f"{self._path} {version}".strip()})

    async def _retry(self) -> None:
        """Start the browser to see whether it does, and end it."""
        try:
            with suppress(DriverError):
                await self._start()
                await self._shut()
        finally:
            self._retrying = None

    async def fresh(self) -> None:
        """Close all pages with their contexts: cookies, logins and storage are gone with them."""
        await self._in_own_task(self._forget, LAUNCH_S)

    async def stop(self) -> None:
        """Close the page, and the browser when that fails."""
        await self._close_page()
        if self._doing is not None:
            await asyncio.wait({self._doing}, timeout=LAUNCH_S)
            await self._close_page()  # a pending open_browser may have opened another one
        if self._doing is not None and not self._doing.done():
            await self._shut()
            await asyncio.wait({self._doing})

    async def evidence(self) -> bytes | None:
        """Return a PNG of the current page, or None when none is open."""
        page = self._page
        if page is None or page.is_closed():
            return None
        try:
            return await _screenshot(page)
        except Error:
            return None

    async def screenshot(self) -> bytes | None:
        """Return a PNG of the open page, or None."""
        return await self.evidence()

    async def close(self) -> None:
        """Close the browser."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.wait({self._retrying})
        await self._shut()

    def _job(self, run: Callable[[], Awaitable[Outcome]], limit_s: float) -> Job:
        return Job(partial(self._in_own_task, run, limit_s + SPARE_S))

    def _on_page(self, params: Params, act: Callable[[Page, float], Awaitable[str | None]]) -> Job:
        """Build a job on the open page; `act` gets the page and the time limit in milliseconds."""
        limit_s = params.seconds("timeout", WAIT_S)

        async def run() -> Outcome:
            # 0 means "no limit" to Playwright
            return Outcome(await act(self._open_page(), max(1, limit_s * 1000)))

        return self._job(run, limit_s)

    async def _in_own_task(self, run: Callable[[], Awaitable[Outcome]], limit_s: float) -> Outcome:
        """Run it in its own task, which a cancel does not reach: `stop` ends it by the page."""
        self._doing = asyncio.create_task(self._with_plain_errors(run), name="web-action")
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(self._doing)
        except TimeoutError:
            raise DriverError(f"the browser did not react within {limit_s:g} s") from None

    async def _with_plain_errors(self, run: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Run it; of Playwright's errors, only those of a living browser are the page's."""
        try:
            return await run()
        except Error as error:
            message = error.message.partition("Call log:")[0].strip()
            if self._browser is not None and not self._connected():
                raise DriverError(f"the browser has ended: {message}") from error
            raise ActionFailed(message) from error

    async def _forget(self) -> Outcome:
        await self._close_page()
        for context in self._browser.contexts if self._browser is not None else ():
            try:
                async with asyncio.timeout(CLOSE_S):
                    await context.close()
            except (Error, TimeoutError):
                await self._shut()
                break
        return Outcome()

    async def _open(self) -> Outcome:
        if self._page is not None and not self._page.is_closed() and self._connected():
            return Outcome("the browser is open")
        browser = await self._start()
        self._page = await browser.new_page()
        self._page.on("crash", self._crashed)
        return Outcome(f"Chromium {browser.version}")

    async def _start(self) -> Browser:
        """Start the browser if it does not run; raise DriverError when it does not start."""
        async with self._starting:
            try:
                if not self._connected():
                    await self._shut()
                    await self._launch()
            except (Error, OSError) as error:
                reason = error.message if isinstance(error, Error) else str(error)
                self._fault = f"the browser did not start: {_why(reason)}"
                self._failed_at = time.monotonic()
            else:
                self._fault = None
            if self._browser is None:
                raise DriverError(self._fault or "the browser was closed while it started")
            return self._browser

    async def _launch(self) -> None:
        self._playwright = await async_playwright().start()
        self._browser = await self._playwright.chromium.launch(
            executable_path=self._path,
            headless=True,
            chromium_sandbox=os.geteuid() != 0,  # Chromium refuses its sandbox to root
            args=list(FLAGS),
            timeout=LAUNCH_S * 1000,
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
        )

    async def _close(self) -> Outcome:
        await self._shut()
        return Outcome("the browser is closed")

    async def _picture(self) -> Outcome:
        page = self._open_page()
        return Outcome(page.url, await _screenshot(page))

    def _navigate(self, params: Params) -> Job:
        url = params.text("url")
        if not url.lower().startswith(SCHEMES):
            raise BadAction("url: must be an http, https or data URL, or about:blank")

        async def act(page: Page, limit_ms: float) -> str:
            response = await page.goto(url, timeout=limit_ms)
            status = f"HTTP {response.status} " if response else ""
            return f"{status}{page.url} {await page.title()}".strip()

        return self._on_page(params, act)

    def _click(self, params: Params) -> Job:
        find = _finder(params)

        async def act(page: Page, limit_ms: float) -> None:
            await find(page).click(timeout=limit_ms)

        return self._on_page(params, act)

    def _fill(self, params: Params) -> Job:
        find, value = _finder(params), params.text("value", "")

        async def act(page: Page, limit_ms: float) -> None:
            await find(page).fill(value, timeout=limit_ms)

        return self._on_page(params, act)

    def _press(self, params: Params) -> Job:
        key = params.text("key")

        async def act(page: Page, _limit_ms: float) -> None:
            await page.keyboard.press(key)

        return self._on_page(params, act)

    def _tap(self, params: Params) -> Job:
        x, y = params.whole("x", -1), params.whole("y", -1)
        if x < 0 or y < 0:
            raise BadAction("x and y: must be pixels from the left and from the top")

        async def act(page: Page, _limit_ms: float) -> None:
            await page.mouse.click(x, y)

        return self._on_page(params, act)

    async def _elements(self) -> Outcome:
        return Outcome(json.dumps(await self._open_page().evaluate(_LISTED)))

    def _wait_for_text(self, params: Params) -> Job:
        text = params.text("text")

        async def act(page: Page, limit_ms: float) -> None:
            await page.get_by_text(text).first.wait_for(state="visible", timeout=limit_ms)

        return self._on_page(params, act)

    def _connected(self) -> bool:
        return self._browser is not None and self._browser.is_connected()

    def _open_page(self) -> Page:
        if self._page is None or self._page.is_closed():
            raise ActionFailed("no browser is open: use open_browser first")
        return self._page

    def _crashed(self, page: Page) -> None:
        if page is self._page:
            self._page = None

    async def _close_page(self) -> None:
        page, self._page = self._page, None
        if page is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await page.close()
        except (Error, TimeoutError):
            await self._shut()

    async def _shut(self) -> None:
        """Close the browser and Playwright, whatever state they are in."""
        browser, self._browser = self._browser, None
        playwright, self._playwright = self._playwright, None
        self._page = None
        if browser is not None:
            await _close_quietly(browser.close())
        if playwright is not None:
            await _close_quietly(playwright.stop())


async def _close_quietly(ending: Coroutine[Any, Any, None]) -> None:
    """Wait `CLOSE_S` seconds at most for a close, and ignore its errors."""
    with suppress(Error, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await ending


async def _screenshot(page: Page) -> bytes:
    """Return a PNG of the page, with retries: Chromium fails while it changes pages."""
    for _ in range(SHOTS - 1):
        with suppress(Error):
            return await page.screenshot(timeout=CLOSE_S * 1000)
        await asyncio.sleep(SHOT_PAUSE_S)
    return await page.screenshot(timeout=CLOSE_S * 1000)


def _why(text: str) -> str:
    """Return the first line of an error, and the first one that the browser printed."""
    lines = text.strip().splitlines() or ["no reason given"]
    printed = (line.partition("[err]")[2].strip() for line in lines[1:] if "[err]" in line)
    return "; ".join(filter(None, (lines[0], next(printed, None))))


def _finder(params: Params) -> Callable[[Page], Locator]:
    """Return how to find the element: by `selector`, `element_id`, or the `text` it shows."""
    if "selector" in params:
        selector = params.text("selector")
        return lambda page: page.locator(selector).first
    if "element_id" in params:
        quoted = params.text("element_id").replace("\\", "\\\\").replace('"', '\\"')
        return lambda page: page.locator(f'[id="{quoted}"]').first
    if "text" in params:
        text = params.text("text")
        return lambda page: page.get_by_text(text).first
    raise BadAction("selector, element_id or text: set one of them to find the element")
