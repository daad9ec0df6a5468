"""What people see and do, in a real Chromium, against a real server and real hosts."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from pathlib import Path

import aiohttp
import jwt
import pytest
from playwright.async_api import Browser, expect

from tests.actors.fake_host import FakeHost, Gate, Reply, fails, passes, replies, says
from tests.faults.kit import continued, host_is, stopped
from tests.system.kit import (
    SECRET,
    Process,
    ask,
    execute,
    final,
    make,
    process,
    reference_host,
)
from vpt.model import Role

from .kit import faults_of, real_browser, token, visit

#: A PNG of one pixel.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
EVIL = "<img src=x onerror='window.evil=1'>\"</script><script>window.evil=1</script>"

SAYS = """(text) => document.body.textContent.includes(text)
    || [...document.querySelectorAll("input, textarea")].some((one) => one.value.includes(text))"""

pytestmark = [real_browser, pytest.mark.asyncio(loop_scope="module")]


# ---------------------------------------------------------------- signing in


async def test_one_signs_in_with_a_pasted_token_and_out_again(
    browser: Browser, vpt: Process
) -> None:
    async with visit(browser, vpt, None) as seen:
        page = seen.page
        seen.expected = ("401",)
        await page.get_by_label("Token").fill("nonsense")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert").filter(has_text="not valid")).to_be_visible()
        await page.get_by_label("Token").fill(token())
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Lab")).to_be_visible()
        await expect(page.locator("#live")).to_have_text("Live")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        assert await page.evaluate("sessionStorage.length") == 0


async def test_the_token_of_the_address_is_removed_at_once_and_kept_for_the_tab(
    browser: Browser, vpt: Process
) -> None:
    async with visit(browser, vpt) as seen:
        await expect(seen.page.get_by_role("heading", name="Lab")).to_be_visible()
        assert "token" not in seen.page.url
        await seen.page.reload()
        await expect(seen.page.locator("#live")).to_have_text("Live")


async def link(folder: Path, url: str, *options: str) -> str:
    """Make a link with `vpt token --link`, as somebody on the server's machine does."""
    settings = {"SECRET_KEY": SECRET, "VPT_DATA_DIR": folder, "SERVER_URL": url}
    command = ("-m", "vpt", "token", "--user", "beth", "--role", "admin", "--link", *options)
    async with process(folder, *command, **settings) as one:
        assert await one.ended() == 0, one.said()
    return one.said().strip()


async def test_a_link_signs_in_and_its_token_goes_nowhere_else(
    browser: Browser, vpt: Process, folder: Path
) -> None:
    url = await link(folder, vpt.url)
    beginning, _, secret = url.partition("token=")
    assert beginning == f"{vpt.url}/#"
    sent: list[str] = []
    async with visit(browser, vpt, None) as seen:
        seen.page.on("request", lambda one: sent.extend((one.url, one.headers.get("referer", ""))))
        await seen.page.goto("about:blank")
        await seen.page.goto(url)
        await expect(seen.page.locator("#who")).to_have_text("beth, admin")
        await expect(seen.page.locator("#live")).to_have_text("Live")
        assert seen.page.url == f"{vpt.url}/#/lab"
        await seen.page.get_by_role("link", name="Results").click()
        await seen.page.go_back()
        assert seen.page.url == f"{vpt.url}/#/lab"
    beside = [one.partition("#")[0] for one in sent]  # the browser's own view has the fragment
    assert beside
    assert not [one for one in beside if secret in one]
    assert secret not in vpt.said()


async def test_a_link_that_has_expired_asks_to_sign_in(
    browser: Browser, vpt: Process, folder: Path
) -> None:
    async with visit(browser, vpt, None) as seen:
        seen.expected = ("401",)
        await seen.page.goto("about:blank")
        await seen.page.goto(await link(folder, vpt.url, "--days", "1e-9"))
        await expect(seen.page.get_by_role("alert").filter(has_text="not valid")).to_be_visible()
        await expect(seen.page.get_by_text("vpt token --user me --link")).to_be_visible()
        assert "token=" not in seen.page.url


async def test_a_link_of_another_user_asks_before_it_replaces_who_is_signed_in(
    browser: Browser, vpt: Process
) -> None:
    async with visit(browser, vpt) as seen:
        page, who = seen.page, seen.page.locator("#who")
        await expect(page.locator("#live")).to_have_text("Live")
        await seen.go("/testcases/new")
        await page.get_by_label("Name").fill("Half done")
        await seen.go(f"token={token(Role.VIEWER, 'mallory')}")
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("mallory, viewer")
        assert "token" not in page.url
        assert await faults_of(page) == []
        await dialog.get_by_role("button", name="Stay ann").click()
        await expect(who).to_have_text("ann, operator")
        await seen.go("/testcases/new")
        await expect(page.get_by_label("Name")).to_have_value("Half done")

        await seen.go(f"token={token()}")  # a later link of the same user: nothing to ask
        await expect(page.get_by_role("heading", name="Lab")).to_be_visible()
        await expect(dialog).to_be_hidden()
        await seen.go("/testcases/new")
        await expect(page.get_by_label("Name")).to_have_value("Half done")

        await seen.go("token=nonsense")
        await expect(page.get_by_role("heading", name="Lab")).to_be_visible()
        await expect(who).to_have_text("ann, operator")

        forged = jwt.encode({"user_id": "ann", "role": "operator"}, "of somebody else" * 2)
        seen.expected = ("401",)
        async with page.expect_response(lambda one: one.status == 401):
            await seen.go(f"token={forged}")
        await expect(who).to_have_text("ann, operator")
        await expect(page.locator("#live")).to_have_text("Live")

        endless = "Ann\u202e\u0000 \u200b" + "n" * 10_000
        await seen.go(f"token={token(Role.VIEWER, endless)}")
        await expect(dialog).to_contain_text("nobody has checked it")
        shown = await dialog.inner_text()
        assert f"Sign in as Ann {'n' * 36}…" in shown
        assert len(shown) < 400
        await dialog.get_by_role("button", name="Stay ann").click()
        page.on("dialog", lambda one: one.accept())  # of the browser: changes are not saved
        await page.goto("about:blank")
        await page.goto(f"{vpt.url}/#token={token(Role.VIEWER, 'mallory')}")
        await expect(who).to_have_text("ann, operator")
        await expect(page.locator("#live")).to_have_text("Live")
        await dialog.get_by_role("button", name="Sign in as mallory").click()
        await expect(who).to_have_text("mallory, viewer")
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(dialog).to_be_hidden()


async def test_a_link_with_nonsense_leaves_a_page_that_works(
    browser: Browser, vpt: Process
) -> None:
    async with visit(browser, vpt, None) as seen:
        seen.expected = ("401",)
        for claims in ("5", "null", '"text"', "[]"):
            middle = base64.urlsafe_b64encode(claims.encode()).decode().rstrip("=")
            await seen.page.goto("about:blank")
            await seen.page.goto(f"{vpt.url}/#token=a.{middle}.c")
            await expect(
                seen.page.get_by_role("alert").filter(has_text="not valid")
            ).to_be_visible()


# ---------------------------------------------------------------- the lab


async def test_a_host_is_seen_to_come_to_go_and_to_come_back(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, folder: Path
) -> None:
    async with visit(browser, vpt) as seen:
        await expect(seen.page.locator("#live")).to_have_text("Live")
        card = seen.page.locator("[data-host=lab]")
        async with reference_host(vpt, folder) as host:
            await expect(card.locator(".pill").first).to_have_text("available")
            await expect(card.locator(".device .pill")).to_have_text("online")
            stopped(host)
            await expect(card.locator(".pill").first).to_have_text("lost")
            await expect(card).to_contain_text("does not answer its probes")
            continued(host)
            await expect(card.locator(".pill").first).to_have_text("available")
        await expect(card.locator(".pill").first).to_have_text("offline")
        await api.delete("/api/hosts/lab")


async def test_a_host_is_drained_and_a_device_leased_by_hand(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    await host_is(api, "tvs", "available")
    async with visit(browser, vpt) as seen:
        page, card = seen.page, seen.page.locator("[data-host=tvs]")
        await card.get_by_role("button", name="Drain tvs").click()
        await expect(card.locator(".pill").first).to_have_text("draining")
        await card.get_by_role("button", name="Resume tvs").click()
        await expect(card.locator(".pill").first).to_have_text("available")
        await card.get_by_role("button", name="Use tv1").click()
        await page.get_by_role("button", name="Lease", exact=True).click()
        device = card.locator("[data-device='tvs:tv1']")
        await expect(device).to_contain_text("Leased to ann")
        await expect(device.locator(".pill")).to_have_text("leased")
        await page.get_by_label("Action (JSON)").fill('{"command": "look"}')
        await page.get_by_role("button", name="Run this action").click()
        await expect(page.get_by_role("dialog")).to_contain_text("succeeded")
        await page.get_by_role("button", name="Release").click()
        await expect(device.locator(".pill")).to_have_text("online")
        assert "look" in tv.commands()


async def test_a_device_that_is_away_says_why_until_it_is_back(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    def told(**presence: object) -> dict[str, object]:
        return {"devices": {"tv2": presence}}

    path = "/api/hosts/tvs/heartbeat"
    async with visit(browser, vpt) as seen:
        row = seen.page.locator("[data-device='tvs:tv2']")
        await expect(row.locator(".pill")).to_have_text("online")
        facts = {"os": "14", "rooted": False}
        await ask(api, "POST", path, told(available=False, reason=EVIL, properties=facts))
        await expect(row).to_contain_text(f"Not available: {EVIL}")
        await expect(row.locator(".pill")).to_have_text("offline")
        await expect(row.get_by_role("button", name="Resume")).to_be_hidden()
        await seen.go("/hosts/tvs")
        await expect(row).to_contain_text(f"Not available: {EVIL}")
        await seen.page.reload()
        await row.get_by_role("button", name="Use tv2").click()
        dialog = seen.page.get_by_role("dialog")
        await expect(dialog).to_contain_text(f"It is offline. Not available: {EVIL}.")
        await expect(dialog.get_by_role("row", name="rooted false")).to_be_visible()
        await ask(api, "POST", path, told(available=True))
        await expect(row.locator(".pill")).to_have_text("online")
        await expect(row).not_to_contain_text("available")
        assert await seen.page.evaluate("window.evil") is None


async def test_a_device_that_is_held_back_says_why_until_when_and_is_resumed(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    tv.on("fail", replies(500, error="adb died"))
    test_case_id = await make(api, "fail", model="tv")
    ids = [await execute(api, test_case_id, device_id="tvs:tv2") for _ in range(3)]
    async with visit(browser, vpt) as seen:
        row = seen.page.locator("[data-device='tvs:tv2']")
        said = re.compile(r"Held back after errors until .+: The host answered 500: adb died")
        await expect(row).to_contain_text(said)
        await expect(row.locator(".pill")).to_have_text("offline")
        for execution_id in ids:
            await ask(api, "POST", f"/api/executions/{execution_id}/cancel")
        await row.get_by_role("button", name="Resume tv2").click()
        await expect(row.locator(".pill")).to_have_text("online")
        await expect(row).not_to_contain_text("Held back")
        await expect(row.get_by_role("button", name="Resume tv2")).to_be_hidden()


async def test_a_host_that_cannot_be_reached_says_why(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    well, tv.health = tv.health, replies(418)
    async with visit(browser, vpt) as seen:
        card = seen.page.locator("[data-host=tvs]")
        await expect(card).to_contain_text("answers 418", timeout=20_000)
        tv.health = well
        await expect(card).not_to_contain_text("answers 418", timeout=20_000)


async def test_a_viewer_sees_all_and_no_control_that_writes(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    made = await ask(api, "POST", "/api/devices", {"name": "On a shelf", "model": "tv"})
    async with visit(browser, vpt, Role.VIEWER) as seen:
        page = seen.page
        await expect(page.locator("[data-host=tvs] .device")).to_have_count(2)
        await expect(page.get_by_text("On a shelf")).to_be_visible()
        await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
        for fragment in ("/hosts/tvs", "/run", "/testcases", "/campaigns"):
            await seen.go(fragment)
            await expect(page.get_by_role("main").get_by_role("heading").first).to_be_visible()
            await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
    await api.delete(f"/api/devices/{made['id']}")


async def test_who_is_known_by_a_subject_gives_back_what_is_leased(
    browser: Browser, vpt: Process, tv: FakeHost
) -> None:
    claims = {"sub": "0b5e", "email": "ann@example.org", "exp": time.time() + 60}
    async with visit(browser, vpt, None) as seen:
        page = seen.page
        await page.goto(f"{vpt.url}/#token={jwt.encode(claims, SECRET)}")
        await page.get_by_role("button", name="Use tv1").click()
        await page.get_by_role("button", name="Lease").click()
        await page.get_by_role("button", name="Release").click()
        await expect(page.get_by_role("button", name="Lease")).to_be_visible()
        await expect(page.locator("#who")).to_have_text("ann@example.org, operator")


async def test_neither_a_wrong_clock_nor_a_proxy_without_web_sockets_hides_the_lab(
    browser: Browser, vpt: Process, tv: FakeHost
) -> None:
    async with visit(browser, vpt) as seen:
        page = seen.page
        seen.expected = ("WebSocket", "404")
        await page.add_init_script(
            """
            const now = Date.now;
            Date.now = () => now() + 5 * 3600 * 1000;
            window.WebSocket = class extends WebSocket {
                constructor(url, more) { super(url.replace("/socket.io/", "/nowhere/"), more); }
            };
            """
        )
        await page.goto(f"{vpt.url}/?anew#/lab?q=TVS&status=available")
        await expect(page.locator("#live")).to_have_text("Live")
        card = page.locator("[data-host=tvs]")
        await expect(card).to_contain_text("seen just now")
        await page.get_by_label("Host status").select_option("lost")
        await expect(card).to_be_hidden()
        assert page.url.endswith("#/lab?q=TVS&status=lost")


# ---------------------------------------------------------------- running


async def test_a_run_is_started_and_watched_step_by_step_to_its_verdict(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    first, second = Gate(), Gate()
    tv.on("tune", first.held(replies(success=True, output="channel 5", screenshot=PICTURE)))
    tv.on("look", second.held(fails("no picture")))
    await make(
        api, {"command": "tune", "params": {"to": "${channel}"}}, "look", model="tv", name="Zapping"
    )
    await make(api, "a", model="phone", name="Of another model")
    async with visit(browser, vpt) as seen:
        page = seen.page
        await page.get_by_role("button", name="Use tv2").click()
        await page.get_by_role("link", name="Run a test on it").click()
        await page.reload()
        await expect(page.get_by_label("Which").locator("option:checked")).to_have_text("Zapping")
        await expect(page.get_by_label("Device")).to_have_value("tvs:tv2")
        await page.get_by_label("Parameter channel").fill("5")
        await page.get_by_role("button", name="Run").dblclick()
        await expect(page.get_by_role("heading", name="Zapping")).to_be_visible()
        await first.reached()
        told = page.get_by_role("status").filter(has_text="Step")
        await expect(told).to_have_text("Step 1 of 2 runs on tvs:tv2.")
        first.open()
        steps = page.locator(".step")
        await expect(steps.nth(0).locator(".pill")).to_have_text("passed")
        await expect(steps.nth(0)).to_contain_text("channel 5")
        await expect(steps.nth(0).locator(".wish")).to_have_text("to 5")
        picture = steps.nth(0).locator("img")
        await expect(picture).to_have_js_property("naturalWidth", 1)
        await expect(told).to_have_text("Step 2 of 2 runs on tvs:tv2.")
        second.open()
        await expect(page.get_by_text("The test failed")).to_be_visible()
        await expect(steps.nth(1)).to_contain_text("no picture")
        await expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
        await page.get_by_role("button", name="Keep forever").click()
        await expect(page.get_by_role("button", name="Stop keeping")).to_be_visible()
        await picture.click()
        await expect(page.get_by_role("dialog").locator("img")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.get_by_role("link", name="Run again").click()
        await expect(page.get_by_role("heading", name="Run")).to_be_visible()
        await expect(page.get_by_label("Device")).to_have_value("tvs:tv2")
        await expect(page.get_by_label("Parameter channel")).to_have_value("5")
    assert tv.commands().count("tune") == 1
    assert tv.actions[-2].body["params"] == {"to": 5}


async def test_who_waits_is_told_why_and_may_cancel_it_and_what_runs(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    gate = Gate()
    tv.on("hold", gate.held())
    test_case_id = await make(api, "hold", model="tv", name="Holding")
    running = await execute(api, test_case_id, device_id="tvs:tv1")
    await gate.reached()
    waiting = await execute(api, test_case_id, device_id="tvs:tv1")
    last = await execute(api, await make(api, "b", model="tv", name="Last"), device_id="tvs:tv1")
    async with visit(browser, vpt) as seen:
        page = seen.page
        device = page.locator("[data-device='tvs:tv1']")
        await expect(device).to_contain_text("Holding step 1 of 1")
        await seen.go("/run")
        lines = page.get_by_role("listitem")
        await expect(lines).to_contain_text(
            [
                "running",
                "All matching devices are busy: tvs:tv1. Position 1 in the queue",
                "Position 2 in the queue",
            ]
        )
        await seen.go(f"/executions/{waiting}")
        await expect(page.get_by_text("Position 1 in the queue")).to_be_visible()
        read_out = page.get_by_role("status").filter(has_text="All matching")
        await expect(read_out).to_have_text("All matching devices are busy: tvs:tv1.")
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_text("Cancelled.")).to_be_visible()
        await seen.go(f"/executions/{running}")
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_text("Cancelled after")).to_be_visible()
        await final(api, last)
        await seen.go("/lab")
        await expect(device.locator(".pill")).to_have_text("online")
        await expect(device).not_to_contain_text("Holding")


async def test_a_long_output_and_a_long_error_are_shown_whole_by_keyboard(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    text = f"begins {'x' * 20_000} ends"
    tv.on("talk", replies(success=False, output=text, error=text))
    test_case_id = await make(api, "talk", model="tv", name="It talks")
    done = await final(api, await execute(api, test_case_id))
    async with visit(browser, vpt) as seen:
        page = seen.page
        seen.expected = ("404",)
        gone = "**/steps/1/error"
        await page.route(
            gone, lambda route: route.fulfill(status=404, json={"error": "It is gone."})
        )
        await seen.go(f"/executions/{done['execution_id']}")
        error, output = page.get_by_label("Error"), page.get_by_label("Output")
        show_all = page.get_by_role("button", name="Show all, 20 KiB")
        await show_all.first.press("Enter")
        await expect(page.get_by_role("alert").filter(has_text="It is gone.")).to_be_visible()
        await page.unroute(gone)
        await show_all.first.press("Enter")
        await expect(error).to_have_text(text)
        await expect(error).to_be_focused()
        await page.get_by_text("Output", exact=True).click()
        await show_all.press("Enter")
        await expect(output).to_have_text(text)
        await expect(output).to_be_focused()
        assert await faults_of(page) == []


async def test_a_campaign_is_followed_and_each_attempt_of_a_test_is_there(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    tv.on("shaky", says(Reply(500)), passes("good now"))
    cases = [await make(api, word, model="tv", name=f"A {word} one") for word in ("shaky", "firm")]
    body = {"name": "Evening", "test_cases": [{"test_case_id": one} for one in cases]}
    await ask(api, "POST", "/api/campaigns", body)
    async with visit(browser, vpt) as seen:
        page = seen.page
        await seen.go("/run")
        await page.get_by_label("What").select_option("A campaign")
        await page.get_by_label("Which").select_option("Evening")
        await page.get_by_role("button", name="Run").click()
        await expect(page.get_by_text("2 of 2 finished · 2 passed")).to_be_visible()
        await page.get_by_role("link", name="A shaky one").click()
        await page.get_by_role(
            "button", name="Attempt 1, error: its host sent an invalid response"
        ).click()
        await expect(page.locator(".step .pill")).to_have_text("error")
        await page.get_by_role("button", name="Attempt 2, completed").click()
        await expect(page.locator(".step")).to_contain_text("good now")


async def test_an_earlier_attempt_is_looked_at_while_the_next_one_runs(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    gate = Gate()
    tv.on("begin", passes())
    tv.on("retry", says(Reply(500)), gate.held())
    execution_id = await execute(api, await make(api, "begin", "retry", model="tv", name="Again"))
    await gate.reached()
    async with visit(browser, vpt) as seen:
        page = seen.page
        await seen.go(f"/executions/{execution_id}")
        told = page.get_by_role("status").filter(has_text="runs on")
        await expect(told).to_contain_text("Step 2 of 2")
        await page.get_by_role("button", name="Attempt 1").click()
        await expect(page.locator(".step .pill").nth(1)).to_have_text("error")
        await expect(told).to_contain_text("Attempt 2 runs on")
        gate.open()
        await expect(page.get_by_text("Passed after")).to_be_visible()


# ---------------------------------------------------------------- results


async def test_results_are_filtered_sorted_and_paged(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    tv.on("odd", passes(), fails("no"), passes())
    odd = await make(api, "odd", model="tv", name="Odd")
    even = await make(api, "even", model="tv", name="Even")
    for _ in range(3):
        await final(api, await execute(api, odd))
    many = [await execute(api, even) for _ in range(51)]
    await asyncio.gather(*(final(api, one) for one in many))
    async with visit(browser, vpt, Role.VIEWER) as seen:
        page, rows = seen.page, seen.page.locator("tbody tr:has(td[data-label])")
        await page.get_by_role("link", name="Results").click()
        await expect(page.get_by_text(re.compile("% of [0-9]+ verdicts"))).to_be_visible()
        await page.get_by_label("Test case").select_option("Even")
        await expect(rows).to_have_count(50)
        await page.get_by_role("button", name="Duration").click()
        await page.get_by_role("button", name="Older").click()
        await expect(rows).to_have_count(1)
        await rows.get_by_role("link").click()
        await expect(page.get_by_role("heading", name="Even")).to_be_visible()
        await page.go_back()
        await expect(rows).to_have_count(1)
        await expect(page.get_by_role("columnheader", name="Duration ↑")).to_be_visible()
        await page.get_by_role("button", name="Newer").click()
        await expect(rows).to_have_count(50)
        await page.get_by_label("Test case").select_option("Odd")
        await expect(rows).to_have_count(3)
        await expect(page.get_by_text("2 passed (66.7 %)")).to_be_visible()
        await expect(page.get_by_text("changed 2 times (flakiness 100 %)")).to_be_visible()
        await expect(page.get_by_role("list", name="Verdicts").get_by_role("link")).to_have_count(3)
        await expect(page.locator(".plot canvas")).to_be_visible()
        await page.get_by_role("button", name="Verdict").click()
        await expect(rows.nth(2).locator(".pill")).to_have_text("failed")
        await page.get_by_role("button", name="Verdict").click()
        await expect(rows.nth(0).locator(".pill")).to_have_text("failed")
        await page.get_by_label("Status").select_option("failed")
        await expect(rows).to_have_count(1)
        await page.get_by_label("Since").fill("2020-01-31T12:30")
        await page.reload()
        await expect(page.get_by_label("Since")).to_have_value("2020-01-31T12:30")
        await expect(rows).to_have_count(1)
        await rows.get_by_role("link").click()
        await expect(page.get_by_text("The test failed")).to_be_visible()


# ---------------------------------------------------------------- test cases and campaigns


async def test_a_test_case_is_made_changed_copied_and_deleted(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession
) -> None:
    async with visit(browser, vpt) as seen:
        page = seen.page
        seen.expected = ("409", "412")
        await page.get_by_role("link", name="Test cases").click()
        await page.get_by_role("link", name="New", exact=True).click()
        await expect(page.get_by_role("heading", name="New test case")).to_be_visible()
        await page.get_by_label("Name").fill("Made by hand")
        await page.get_by_label("Device model").fill("tv")
        steps = page.get_by_label("Steps (JSON)")
        await steps.fill('[{"command": "a", "retries": "x"}]')
        await expect(
            page.get_by_text("Step 1: retries must be a number, 0 or more.")
        ).to_be_visible()
        await steps.fill("[{]")
        await expect(page.get_by_text("The steps are not JSON")).to_be_visible()
        await steps.fill("[]")
        await page.get_by_role("button", name="a pause").click()
        await page.get_by_label("Tags").fill("nightly, tv")
        await page.get_by_role("button", name="Create").click()
        await expect(page.get_by_role("heading", name="Test case", exact=True)).to_be_visible()
        await page.get_by_label("Description").fill("It waits.")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_text("Saved as version 2.")).to_be_visible()
        test_case_id = page.url.rpartition("/")[2]
        item = await ask(api, "GET", f"/api/testcases/{test_case_id}")
        assert (item["tags"], item["steps"][0]["command"]) == (["nightly", "tv"], "wait")
        await ask(api, "PUT", f"/api/testcases/{test_case_id}", item)
        await page.get_by_role("button", name="Save").click()
        await expect(
            page.get_by_text("Somebody else changed this in the meantime.")
        ).to_be_visible()
        await page.get_by_role("link", name="Copy").click()
        await expect(page.get_by_label("Name")).to_have_value("Copy of Made by hand")
        await page.get_by_role("button", name="Create").click()
        await expect(page.get_by_role("heading", name="Test case", exact=True)).to_be_visible()
        body = {"name": "Uses it", "test_cases": [{"test_case_id": test_case_id}]}
        await ask(api, "POST", "/api/campaigns", body)
        await page.get_by_role("link", name="All test cases").click()
        await page.get_by_label("Find by name").fill("made by hand")
        await expect(page.get_by_role("listitem")).to_have_count(2)
        await page.reload()
        await expect(page.get_by_label("Find by name")).to_have_value("made by hand")
        await page.get_by_role("button", name="Delete Copy of Made by hand").click()
        await page.get_by_role("button", name="Delete it").click()
        await expect(page.get_by_role("listitem")).to_have_count(1)
        await expect(page.get_by_role("link", name="Made by hand", exact=True)).to_be_focused()
        await page.get_by_role("button", name="Delete Made by hand").click()
        await page.get_by_role("button", name="Delete it").click()
        await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("campaign")


async def test_a_campaign_is_made_reordered_and_deleted(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession
) -> None:
    for name in ("One", "Two"):
        await make(api, "a", model="tv", name=name)
    async with visit(browser, vpt) as seen:
        page = seen.page
        seen.expected = ("412",)
        await page.get_by_role("link", name="Campaigns").click()
        await page.get_by_role("link", name="New", exact=True).click()
        await expect(page.get_by_role("heading", name="New campaign")).to_be_visible()
        await page.get_by_label("Name").fill("Both")
        for name in ("One", "Two"):
            await page.get_by_label("Test case to add").select_option(name)
            await page.get_by_role("button", name="Add").click()
        await page.get_by_role("button", name="Move Two up").click()
        await page.get_by_label("Parallel tests").fill("2")
        await page.get_by_role("button", name="Create").click()
        await expect(page.get_by_role("heading", name="Campaign", exact=True)).to_be_visible()
        item = await ask(api, "GET", f"/api/campaigns/{page.url.rpartition('/')[2]}")
        names = [
            (await ask(api, "GET", f"/api/testcases/{entry['test_case_id']}"))["name"]
            for entry in item["test_cases"]
        ]
        assert (names, item["parallelism"]) == (["Two", "One"], 2)
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_text("Saved as version 2.")).to_be_visible()
        await ask(api, "PUT", f"/api/campaigns/{item['id']}", item)
        await page.get_by_role("button", name="Save").click()
        await expect(
            page.get_by_text("Somebody else changed this in the meantime.")
        ).to_be_visible()
        await page.get_by_role("link", name="All campaigns").click()
        await page.get_by_role("button", name="Delete Both").click()
        await page.get_by_role("button", name="Delete it").click()
        await expect(page.get_by_role("link", name="Both", exact=True)).to_have_count(0)


async def test_what_is_filled_in_outlives_the_token_and_a_look_elsewhere(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession
) -> None:
    body = {"name": "lent", "role": "operator"}
    first, second = [await ask(api, "POST", "/api/tokens", body) for _ in range(2)]
    async with visit(browser, vpt, None) as seen:
        page = seen.page
        seen.expected = ("401",)
        await seen.go(f"token={first['token']}")
        await expect(page.locator("#live")).to_have_text("Live")
        await seen.go("/testcases/new")
        await page.get_by_label("Device model").fill("tv")
        await page.get_by_label("Name").fill("Half done")
        await api.delete(f"/api/tokens/{first['id']}")
        # By script: the page may ask to sign in already, since the connection ended.
        await page.evaluate("document.querySelector('form .strong').click()")
        await expect(page.get_by_role("alert").filter(has_text="are kept")).to_be_visible()
        await page.get_by_label("Token").fill("nonsense")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert").filter(has_text="not valid")).to_be_visible()
        await expect(page.get_by_label("Token")).to_have_value("nonsense")
        await page.get_by_label("Token").fill(second["token"])
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="New test case")).to_be_focused()
        await expect(page.get_by_label("Name")).to_have_value("Half done")
        await expect(page.get_by_role("alert").filter(has_text="token")).to_have_count(0)

        await page.get_by_role("link", name="All test cases").click()
        await expect(page.get_by_label("Find by name")).to_be_visible()
        asked = asyncio.get_running_loop().create_future()
        page.once("dialog", lambda dialog: (asked.set_result(dialog.type), dialog.dismiss())[1])
        await page.evaluate("setTimeout(() => location.reload())")
        assert await asyncio.wait_for(asked, 10) == "beforeunload"
        await page.go_back()
        await expect(page.get_by_text("These are your unsaved changes")).to_be_visible()
        await expect(page.get_by_label("Name")).to_have_value("Half done")
        await expect(page.locator("#nav [aria-current]")).to_have_text("Test cases")
        await page.get_by_role("button", name="Create").click()
        await expect(page.get_by_role("heading", name="Test case", exact=True)).to_be_visible()
        await page.get_by_label("Description").fill("More")
        await page.get_by_role("link", name="History").click()
        await expect(page.get_by_text("It has not run yet.")).to_be_visible()
        await page.go_back()
        await page.get_by_role("button", name="Discard them").click()
        await expect(page.get_by_label("Description")).to_have_value("")
        await page.get_by_label("Description").fill("Saved behind one's back")
        await page.evaluate(
            "document.querySelector('form .strong').click(), (location.hash = '#/testcases')"
        )
        await expect(page.get_by_label("Find by name")).to_be_visible()
        await page.get_by_role("link", name="Half done", exact=True).click()
        await expect(page.get_by_label("Description")).to_have_value("Saved behind one's back")
        await expect(page.get_by_text("These are your unsaved changes")).to_have_count(0)
        await seen.go("/testcases/new")
        await expect(page.get_by_label("Device model")).to_have_value("")
    await api.delete(f"/api/tokens/{second['id']}")


# ---------------------------------------------------------------- what must not happen


async def test_no_view_keeps_anybody_out_in_light_or_dark_or_on_a_phone(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    tv.on("bad", replies(success=True, output="o" * 3000, screenshot=PICTURE), fails("no"))
    test_case_id = await make(api, "bad", "bad", model="tv", name="Bad " + "long" * 20)
    execution_id = (await final(api, await execute(api, test_case_id)))["execution_id"]
    body = {"name": "C", "test_cases": [{"test_case_id": test_case_id}]}
    campaign = await ask(api, "POST", "/api/campaigns", body)
    began = await ask(api, "POST", f"/api/campaigns/{campaign['id']}/execute")
    campaign_execution_id = began["campaign_execution_id"]
    await ask(api, "GET", f"/api/campaign-executions/{campaign_execution_id}?wait=30")
    views = {
        "/lab": "[data-host=tvs] .device",
        "/hosts/tvs": ".device",
        "/run": "option:text('Bad')",
        f"/executions/{execution_id}": ".step img",
        f"/campaign-executions/{campaign_execution_id}": ".step",
        "/results": "td[data-label]",
        f"/results?test_case_id={test_case_id}": ".strip",
        "/testcases": "li",
        f"/testcases/{test_case_id}": "textarea",
        "/campaigns": "li",
        f"/campaigns/{campaign['id']}": ".entry",
        "/nowhere": "h1",
    }
    faults = []
    async with visit(browser, vpt, Role.ADMIN) as seen:
        for fragment, there in views.items():
            await seen.go(fragment)
            await seen.page.locator(there).first.wait_for(state="attached")
            faults += [f"{fragment}: {one}" for one in await faults_of(seen.page)]
        await seen.go("/lab")
        await seen.page.get_by_role("button", name="Use tv1").click()
        faults += [f"dialog: {one}" for one in await faults_of(seen.page)]
        await seen.page.keyboard.press("Escape")
        await seen.page.get_by_role("button", name="Sign out").click()
        faults += [f"sign in: {one}" for one in await faults_of(seen.page)]
    assert faults == []


async def test_the_keyboard_is_enough(browser: Browser, vpt: Process, tv: FakeHost) -> None:
    async with visit(browser, vpt) as seen:
        page = seen.page
        await expect(page.locator("[data-host=tvs] .device")).to_have_count(2)
        await page.keyboard.press("Tab")
        await expect(page.locator("#skip")).to_be_focused()
        for _ in range(3):
            await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Run", exact=True)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Run")).to_be_focused()
        await page.go_back()
        await page.get_by_role("button", name="Use tv2").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await page.get_by_role("button", name="Lease").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Release")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Lease")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_be_hidden()
        await expect(page.get_by_role("button", name="Use tv2")).to_be_focused()
        drain = page.get_by_role("button", name="Drain tvs")
        await drain.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Resume tvs")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(drain).to_be_focused()


async def test_a_revoked_token_asks_to_sign_in_again_and_comes_back_to_the_same_view(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession
) -> None:
    made = await ask(api, "POST", "/api/tokens", {"name": "lent", "role": "viewer"})
    async with visit(browser, vpt, None) as seen:
        page = seen.page
        seen.expected = ("401",)
        await seen.go(f"token={made['token']}".removeprefix("/"))
        await expect(page.locator("#live")).to_have_text("Live")
        await seen.go("/testcases")
        await expect(page.get_by_label("Find by name")).to_be_visible()
        await api.delete(f"/api/tokens/{made['id']}")
        asked = page.get_by_role("alert").filter(has_text="Sign in with")
        await expect(asked).to_be_visible()
        await seen.go("/testcases?q=x")
        await expect(asked).to_be_visible()
        await page.get_by_label("Token").fill(token(Role.VIEWER))
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_label("Find by name")).to_have_value("x")


async def test_names_and_what_hosts_say_stay_text(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    tv.on(EVIL, fails(EVIL))
    test_case_id = await make(api, EVIL, model="tv", name=EVIL, description=EVIL, tags=[EVIL])
    execution_id = await execute(api, test_case_id)
    await final(api, execution_id)
    await ask(api, "PUT", "/api/devices/tvs:tv1", {"name": EVIL, "tags": [EVIL]})
    async with visit(browser, vpt) as seen:
        for fragment in (
            "/lab",
            "/hosts/tvs",
            "/run",
            f"/executions/{execution_id}",
            "/results",
            f"/results?test_case_id={test_case_id}",
            "/testcases",
            f"/testcases/{test_case_id}",
            "/campaigns/new",
        ):
            await seen.go(fragment)
            await seen.page.wait_for_function(SAYS, arg=EVIL)
        assert await seen.page.evaluate("window.evil") is None
    await ask(api, "PUT", "/api/devices/tvs:tv1", {"name": "tv1", "tags": []})
