"""The page at /api/docs: Swagger UI, from this server alone."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import shutil
from pathlib import Path

import pytest
from yarl import URL

from tests.conftest import Client, token
from tests.web.kit import refused
from vpt.model import Role
from vpt.web.docs import documents

FOLDER = Path(documents.__file__).parent / "swagger"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
real_browser = pytest.mark.skipif(
    not importlib.util.find_spec("playwright") or CHROMIUM is None,
    reason="needs Playwright and a Chromium",
)


async def test_the_page_and_its_files_come_without_a_token(nobody: Client) -> None:
    page = await nobody.get("/api/docs")
    assert (page.status, page.content_type) == (200, "text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    text = await page.text()
    for name, kind in (("start.js", "text/javascript"), ("swagger-ui.css", "text/css")):
        assert f"/api/docs/{name}" in text
        file = await nobody.get(f"/api/docs/{name}")
        assert (file.status, file.content_type) == (200, kind)
    assert "<script>" not in text
    assert "https://" not in text


async def test_a_file_is_hashed_and_unpacked_once(
    nobody: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, plain = "/api/docs/swagger-ui.css", {"Accept-Encoding": "identity"}
    first = await nobody.get(url, headers=plain)
    monkeypatch.setattr(documents, "gzip", None)
    monkeypatch.setattr(documents, "hashlib", None)
    second = await nobody.get(url, headers=plain)
    assert (second.status, await second.read()) == (200, await first.read())


async def test_the_bundle_is_the_published_one_packed_or_not(nobody: Client) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        url = f"/api/docs/{name}"
        packed = await nobody.get(url, headers={"Accept-Encoding": "gzip"})
        plain = await nobody.get(url, headers={"Accept-Encoding": "identity"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in plain.headers
        body = await plain.read()
        assert body == await packed.read() == gzip.decompress((FOLDER / f"{name}.gz").read_bytes())
        assert f"{hashlib.sha256(body).hexdigest()}  {name}" in readme
        known = await nobody.get(url, headers={"If-None-Match": packed.headers["ETag"]})
        assert known.status == 304


async def test_there_are_no_other_files(nobody: Client) -> None:
    for name in ("README.md", "LICENSE", "..%2fapp.py", "%2e%2e", "swagger-ui.css.gz", "x.js"):
        path = URL(f"/api/docs/{name}", encoded=True)
        assert (await refused(nobody, "GET", path))[0] in {401, 404}, name


@real_browser
async def test_people_see_every_route_and_try_one(nobody: Client) -> None:
    from playwright.async_api import async_playwright

    here = str(nobody.make_url("/"))
    asked: list[str] = []
    complaints: list[str] = []
    async with async_playwright() as player:
        browser = await player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        page.on("request", lambda one: asked.append(one.url))
        page.on("console", lambda one: complaints.append(f"{one.type}: {one.text}"))
        page.on("pageerror", lambda one: complaints.append(str(one)))
        await page.goto(f"{here}api/docs")
        await page.locator("#operations-tag-testcases").click()
        await page.locator("#operations-testcases-put_test_case .opblock-summary-control").click()
        await page.locator("#operations-testcases-put_test_case .example").first.wait_for()
        await page.get_by_role("button", name="Authorize").first.click()
        await page.locator(".auth-container").last.get_by_text("vpt token").wait_for()
        await page.keyboard.type(token(Role.VIEWER))  # the field for it has the focus
        await page.keyboard.press("Enter")
        await page.locator(".modal-ux .close-modal").click()
        await page.locator("#operations-testcases-list_test_cases .opblock-summary-control").click()
        row = page.locator("#operations-testcases-list_test_cases")
        await row.get_by_role("button", name="Try it out").click()
        await row.get_by_role("button", name="Execute").click()
        answer = row.locator(".live-responses-table .response .highlight-code")
        await answer.wait_for()
        assert "next_cursor" in await answer.inner_text()
        assert f"{here}api/testcases?limit=100" in asked  # no example was filled in as a filter
        document = await (await nobody.get("/api/openapi.json")).json()
        tags = {tag["name"] for tag in document["tags"]}
        assert await page.locator(".opblock-tag").count() == len(tags)
        await browser.close()
    assert [one for one in complaints if not one.startswith("verbose: ")] == []
    assert {url for url in asked if not url.startswith((here, "data:"))} == set()
