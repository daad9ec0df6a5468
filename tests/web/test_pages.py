"""The page's files: what is served, how it is kept, and that all of it ships."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import urljoin

from tests.conftest import ClientFactory

ROOT = Path(__file__).parents[2]


async def test_the_page_is_asked_for_anew_and_its_files_are_kept_for_ever(
    client: ClientFactory,
) -> None:
    nobody = await client(None)
    front = await nobody.get("/")
    text, headers = await front.text(), front.headers
    assert headers["Cache-Control"] == "no-cache"
    assert (await nobody.get("/", headers={"If-None-Match": headers["ETag"]})).status == 304
    assert (await nobody.get("/", headers={"If-None-Match": '"older"'})).status == 200
    [script] = re.findall(r'src="([^"]+)"', text)
    module = await nobody.get(script)
    assert module.content_type == "text/javascript"
    assert "immutable" in module.headers["Cache-Control"]
    old = await nobody.get(re.sub("/console/[0-9a-f]+/", "/console/older/", script))
    assert (old.status, old.headers["Cache-Control"]) == (200, "no-cache")


async def test_every_file_that_the_page_names_is_served_with_its_type(
    client: ClientFactory,
) -> None:
    nobody = await client(None)
    links = set(re.findall(r'(?:src|href)="(/[^"]+)"', await (await nobody.get("/")).text()))
    scripts = {link for link in links if link.endswith(".js")}
    todo = list(scripts)
    while todo:
        script = todo.pop()
        response = await nobody.get(script)
        assert (response.status, response.content_type) == (200, "text/javascript"), script
        named = re.findall(r'(?:from |import\()"(\.[^"]+)"', await response.text())
        found = {urljoin(script, name) for name in named}
        todo += found - scripts
        scripts |= found
    served = {path.rpartition("/")[2] for path in scripts}
    there = {path.name for path in (ROOT / "vpt/web/console").rglob("*.js")}
    assert served == there
    for link in links - scripts:
        response = await nobody.get(link)
        assert response.status == 200, link
        assert response.content_type in {"text/css", "image/svg+xml"}


async def test_no_page_may_run_what_is_not_a_file_of_ours(client: ClientFactory) -> None:
    nobody = await client(None)
    for path in ("/", "/console/x/page.js", "/console/x/vendor/socket.io.esm.min.js"):
        headers = (await nobody.get(path)).headers
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    text = await (await nobody.get("/")).text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


async def test_nothing_but_the_pages_files_is_served(client: ClientFactory) -> None:
    nobody = await client(None)
    for path in ("x/../pages.py", "x/%2e%2e/pages.py", "x/vendor/README.md", "x/", "x/none.js"):
        assert (await nobody.get(f"/console/{path}")).status == 404, path


def test_every_file_of_the_page_ships_in_the_wheel() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    globs = setup["options.package_data"]["vpt.web"].replace(",", " ").split()
    shipped = {path for one in globs for path in (ROOT / "vpt/web").glob(one) if path.is_file()}
    there = {path for path in (ROOT / "vpt/web/console").rglob("*") if path.is_file()}
    assert there - shipped == set()


def test_no_text_becomes_markup() -> None:
    ours = [
        path for path in (ROOT / "vpt/web/console").rglob("*.js") if path.parent.name != "vendor"
    ]
    assert ours
    for path in ours:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
