"""The status page in a real Chromium, on a real daemon with a troubled fleet."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Request, Route, async_playwright, expect

from tests.support.processes import until
from tests.support.programs import needs
from tests.support.scenes import Fleet, at_work, fleet
from tests.support.stages import Stage

pytestmark = pytest.mark.real_time

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = needs("chromium", "apt-get install chromium")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """A page that is open, and everything that it has asked for or complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._note)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, request: Request) -> None:
        self.asked.append(request.url)


@asynccontextmanager
async def visit(browser: Browser, address: str, **options: Any) -> AsyncIterator[Visit]:
    page = await browser.new_page(**options)
    seen = Visit(page)
    try:
        await page.goto(address)
        yield seen
    finally:
        await page.close()


@pytest.fixture(scope="module")
def browser(module_stage: Stage) -> Browser:
    return module_stage.open(chromium())


@pytest.fixture(scope="module")
def busy(module_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """The troubled fleet, for who only looks at it."""
    return module_stage.open(at_work(tmp_path_factory.mktemp("busy")))


async def violations(page: Page) -> list[str]:
    await page.evaluate(AXE)
    found = await page.evaluate("async () => (await axe.run()).violations")
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]


async def test_the_fleet_at_a_glance(busy: Fleet, browser: Browser) -> None:
    async with visit(browser, busy.url) as seen:
        page = seen.page
        await expect(page.locator("#state h1")).to_have_text("3 things need you")
        problems = page.locator("#state li")
        await expect(problems.filter(has_text="db-01")).to_contain_text(
            ["5 of 5 snapshots, 5 not made by snaprotd", "no completed snapshot of ours"]
        )
        await expect(problems.filter(has_text="db-02").first).to_contain_text("ended as `failed`")
        late = problems.filter(has_text="mail-01")
        await expect(late).to_contain_text("older than the schedule allows")
        await expect(late.locator("code").last).to_have_text("snaprotd now mail-01")
        job = page.locator(".job")
        await expect(job).to_contain_text("web-01")
        await expect(job.locator("[aria-current=step]")).to_have_text("wait")
        await expect(job).to_contain_text("off because of us since")
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(8)
        await expect(rows.nth(0)).to_contain_text("✕ act")
        await expect(rows.filter(has_text="app-01")).to_contain_text("paused")
        slots = rows.filter(has_text="web-02").locator(".dots")
        await expect(slots).to_have_attribute("aria-label", "3 ours, 1 of others, 1 free")
        await expect(rows.filter(has_text="web-02").locator(".timeline title")).to_have_count(4)
        assert seen.complaints == []


async def test_a_server_has_a_page_with_its_policy_its_snapshots_and_its_rotations(
    busy: Fleet, browser: Browser
) -> None:
    async with visit(browser, busy.url) as seen:
        page = seen.page
        await page.get_by_role("row").get_by_role("link", name="mail-02").click()
        await expect(page.locator("h1")).to_contain_text("mail-02")
        history = page.get_by_role("table").nth(1)
        await expect(history).to_contain_text("success")
        await expect(history).to_contain_text(re.compile(r"look \d s, make room \d s"))
        kept = page.get_by_role("table").nth(0)
        await expect(kept).to_contain_text("keep: last 1 of 3")
        await expect(kept).to_contain_text("delete: over keep 3")
        policy = page.get_by_role("table").last
        await expect(policy.get_by_role("row", name="keep 3 servers[6]")).to_be_visible()
        await expect(policy.get_by_role("row", name="when_full replace default")).to_be_visible()


async def test_a_server_that_is_not_configured_is_not_found(busy: Fleet, browser: Browser) -> None:
    async with visit(browser, busy.url) as seen:
        answer = await seen.page.goto(f"{busy.url}/servers/999")
        assert answer is not None
        assert answer.status == 404
        await expect(seen.page.locator("h1")).to_have_text("Not found")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_used_with_a_screen_reader(scheme: Any, busy: Fleet, browser: Browser) -> None:
    for address in ("/", "/servers/12346", "/servers/999", "/?q=nothing"):
        # The page's own policy forbids to evaluate text; the checker needs just that.
        async with visit(browser, busy.url + address, color_scheme=scheme, bypass_csp=True) as seen:
            assert await violations(seen.page) == [], address


async def test_it_can_be_used_with_the_keyboard_alone(busy: Fleet, browser: Browser) -> None:
    async with visit(browser, busy.url) as seen:
        page = seen.page
        await page.keyboard.press("Tab")
        await expect(page.locator(":focus")).to_have_text("Skip to the servers")
        await page.get_by_role("searchbox").focus()
        await page.keyboard.type("db-02")
        await expect(page.locator("tbody tr")).to_have_count(1)
        await page.get_by_role("row").get_by_role("link", name="db-02").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_contain_text("db-02")


async def test_nothing_is_asked_of_another_host(busy: Fleet, browser: Browser) -> None:
    async with visit(browser, busy.url) as seen:
        await seen.page.get_by_role("row").get_by_role("link", name="web-02").click()
        await expect(seen.page.locator("#policy-title")).to_be_visible()
        assert {address.split("/")[2] for address in seen.asked} == {busy.url.split("/")[2]}
        policy = (await seen.page.request.get(busy.url)).headers["content-security-policy"]
        assert "default-src 'none'" in policy


async def test_it_is_whole_without_javascript(busy: Fleet, browser: Browser) -> None:
    async with visit(browser, busy.url, java_script_enabled=False) as seen:
        page = seen.page
        await page.get_by_label("Show").select_option("problems")
        await page.get_by_role("searchbox").fill("mail")
        await page.get_by_role("button", name="Filter").click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody tr")).to_contain_text("mail-01")
        await page.get_by_role("link", name="Newest snapshot").click()
        await expect(page).to_have_url(f"{busy.url}/?q=mail&show=problems&sort=newest")


async def test_it_shows_what_has_changed_by_itself(tmp_path: Path, browser: Browser) -> None:
    async with (
        fleet(tmp_path, troubled=False) as told,
        visit(browser, told.url) as seen,
    ):
        page = seen.page
        await expect(page.locator("#state h1")).to_have_text(
            "All is well", timeout=20_000
        )  # when the account is listed
        await page.evaluate("window.stayed = true")
        settings = told.config.read_text()
        told.config.write_text(settings.replace('"keep": 3', '"kepe": 3'))
        await expect(page.locator("#state h1")).to_have_text("1 thing needs you", timeout=20_000)
        await expect(page.locator("#state")).to_contain_text("the configuration file is refused")
        assert await page.evaluate("window.stayed")


async def test_it_says_so_when_the_daemon_does_not_answer(tmp_path: Path, browser: Browser) -> None:
    async with (
        fleet(tmp_path, troubled=False) as told,
        visit(browser, told.url) as seen,
    ):
        await expect(seen.page.locator("#lost")).to_be_hidden()
        await told.daemon.kill()
        await expect(seen.page.locator("#lost")).to_be_visible(timeout=20_000)
        await expect(seen.page.locator("#lost")).to_contain_text("snaprotd does not answer")


async def test_an_answer_that_is_no_page_is_not_shown_as_one(busy: Fleet, browser: Browser) -> None:
    """Where the ledger cannot be read, say. What was shown last stays, and is said to be old."""
    async with visit(browser, f"{busy.url}/servers/12345") as seen:
        page = seen.page
        title, lost = await page.title(), page.locator("#lost")

        async def fail(route: Route) -> None:
            await route.fulfill(status=503, content_type="text/plain", body="the ledger cannot be used\n")

        look_again = "document.dispatchEvent(new Event('visibilitychange'))"
        await page.route("**/servers/*", fail)
        await page.evaluate(look_again)
        await expect(lost).to_be_visible(timeout=20_000)
        assert await page.title() == title
        await expect(page.locator("h1")).to_contain_text("web-01")
        await page.unroute("**/servers/*")
        await page.evaluate(look_again)
        await expect(lost).to_be_hidden(timeout=20_000)


async def test_five_hundred_servers_are_found_and_sorted(tmp_path: Path, browser: Browser) -> None:
    async with (
        fleet(tmp_path, servers=500, troubled=False) as told,
        visit(browser, told.url) as seen,
    ):
        page = seen.page
        await expect(page.locator("tbody tr")).to_have_count(250)
        await page.get_by_role("navigation", name="Pages").get_by_role("link", name="2").click()
        await expect(page.locator("tbody tr")).to_have_count(250)
        await page.get_by_role("searchbox").fill("mail-12")
        await expect(page.locator("tbody tr")).to_have_count(7)
        await expect(page.get_by_role("status")).to_have_text("7 of 500 servers")
        await page.get_by_role("searchbox").fill("no such server")
        await expect(page.locator("#servers")).to_contain_text("No server fits")


async def test_a_name_is_text_and_never_markup(tmp_path: Path, browser: Browser) -> None:
    async with fleet(tmp_path, troubled=False) as told:
        entries = json.loads(told.config.read_text().split("servers: ")[1])
        entries[0]["name"] = "<script>document.title='taken'</script>"
        head = told.config.read_text().split("servers: ")[0]
        told.config.write_text(f"{head}servers: {json.dumps(entries)}\n")
        await until(lambda: "is in force" in told.daemon.said, what="the reload")
        async with visit(browser, told.url) as seen:
            await expect(seen.page.get_by_role("row").get_by_role("link", name="<script>")).to_be_visible()
            await asyncio.sleep(0)
            assert "taken" not in await seen.page.title()
