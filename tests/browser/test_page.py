"""The page as a person sees it: the jobs, and a running job's curve that grows without a reload."""

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Request, expect

from client.sdk import Client
from tests.acceptance.conftest import TRAIN, Up

pytestmark = pytest.mark.browser


def test_a_job_appears_and_its_curve_grows(browser: Browser, up: Up, service: Client, panel: str) -> None:
    page = browser.new_page(base_url=up.url)
    problems: list[str] = []

    def note_message(message: ConsoleMessage) -> None:
        if message.type == "error":
            problems.append(message.text)

    def note_request(request: Request) -> None:
        if not request.url.startswith((up.url, "data:")):
            problems.append(f"asked elsewhere: {request.url}")

    page.on("console", note_message)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", note_request)

    page.goto("/")
    job = service.submit("train", TRAIN | {"name": "seen-in-a-browser"})
    row = page.locator("#rows tr", has_text="seen-in-a-browser")
    expect(row).to_be_visible(timeout=20_000)  # the list follows by itself
    row.locator("a").first.click()
    expect(page.locator("#name")).to_have_text("seen-in-a-browser")
    expect(page.locator("#curve svg")).to_be_visible(timeout=90_000)
    expect(page.locator("#state")).to_have_text("succeeded", timeout=120_000)
    expect(page.locator("#numbers")).to_contain_text("test rank_ic")
    expect(page.locator("#evidence")).to_contain_text("AdaBelief")
    assert service.job(job.id).state == "succeeded"
    assert problems == []
