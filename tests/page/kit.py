"""A real Chromium that looks at the page, and what must never happen while it does."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.system.kit import SECRET, Process
from vpt.model import Role
from vpt.store.tokens import issue_token

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
real_browser = pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")

#: Milliseconds until something must be visible.
SEEN = 10_000
expect.set_options(timeout=SEEN)

_AXE = AXE_FILE_PATH.read_text(encoding="utf-8")
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) longTasks.push([entry.startTime, entry.duration]);
}).observe({ type: "longtask", buffered: true });
"""


#: Links of which each line holds a few letters only.
_SQUEEZED = """() => [...document.querySelectorAll("main a")]
    .filter((one) => one.getClientRects().length > 2)
    .filter((one) => one.textContent.length / one.getClientRects().length < 6)
    .map((one) => one.textContent)"""


@dataclass
class Seen:
    """A page and what it complained of."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    #: What the test itself brings about, in a part of the complaint.
    expected: tuple[str, ...] = ()

    async def go(self, fragment: str) -> None:
        """Go to a view."""
        await self.page.goto(f"{self.url}/#{fragment}")

    async def check(self) -> None:
        """See that nothing was complained of, and that no policy was violated."""
        heard = [one for one in self.complaints if not any(part in one for part in self.expected)]
        assert heard == []
        assert await self.page.evaluate("window.violations") == []


def token(role: Role = Role.OPERATOR, user: str = "ann") -> str:
    """Sign a token of the servers that `tests.system.kit` starts."""
    return issue_token(SECRET, user, role, 1)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()


@asynccontextmanager
async def visit(
    browser: Browser, server: Process, role: Role | None = Role.OPERATOR, /, **options: Any
) -> AsyncIterator[Seen]:
    """Open the page in a context of its own, signed in by the address; check it at the end."""
    options = {"viewport": {"width": 1280, "height": 900}, **options}
    context = await browser.new_context(**options)
    await context.add_init_script(_WATCH)
    page = await context.new_page()
    page.set_default_timeout(SEEN)
    seen = Seen(page, server.url)
    page.on("console", lambda said: _note(seen, said.type, said.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    await page.goto(server.url if role is None else f"{server.url}/#token={token(role)}")
    yield seen
    await seen.check()
    await context.close()


def _note(seen: Seen, kind: str, text: str) -> None:
    if kind in {"error", "warning"}:
        seen.complaints.append(text)


async def faults_of(page: Page) -> list[str]:
    """Return serious and critical findings of axe, light and dark, and overflows on a phone."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(_AXE)
    faults = []
    for scheme, rules in (("light", None), ("dark", ["color-contrast"])):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if rules is not None:
            options["runOnly"] = {"type": "rule", "values": rules}
        found = await page.evaluate("(options) => axe.run(document, options)", options)
        faults += [
            f"{scheme}: {one['id']}: {node['html'][:200]} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]
    size = page.viewport_size
    assert size is not None
    await page.set_viewport_size({"width": 360, "height": 740})
    wide = await page.evaluate("document.documentElement.scrollWidth")
    faults += [f"a phone cuts it off at {wide} pixels"] if wide > 360 else []
    faults += [f"a phone squeezes {text}" for text in await page.evaluate(_SQUEEZED)]
    await page.set_viewport_size(size)
    return faults
