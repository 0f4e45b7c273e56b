"""The list of jobs, and the curve of a running job, which grows without a reload."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Request, expect

from client.sdk.sync import Client
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
            problems.append(f"request to another origin: {request.url}")

    page.on("console", note_message)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", note_request)

    page.goto("/")
    job = service.submit("train", TRAIN | {"name": "seen-in-a-browser"})
    row = page.locator("#rows tr", has_text="seen-in-a-browser")
    expect(row).to_be_visible(timeout=20_000)  # the list refreshes itself
    row.locator("a").first.click()
    expect(page.locator("#name")).to_have_text("seen-in-a-browser")
    expect(page.locator("#curve svg")).to_be_visible(timeout=90_000)
    expect(page.locator("#state")).to_have_text("succeeded", timeout=120_000)
    expect(page.locator("#numbers")).to_contain_text("test rank_ic")
    expect(page.locator("#evidence")).to_contain_text("AdaBelief")
    assert service.job(job.id).state == "succeeded"
    expect(page.locator("#offline")).to_be_hidden()
    page.goto("/ui/jobs/" + job.id)  # a finished job has no stream, and its plots are drawn once
    expect(page.locator("#training svg").first).to_be_visible()
    expect(page.locator("#log")).to_contain_text("state succeeded")
    height = page.locator("#training figure").first.bounding_box()
    page.set_viewport_size({"width": 1280, "height": 1000})  # a resize redraws them
    page.wait_for_timeout(500)
    assert page.locator("#training figure").first.bounding_box() == height
    assert page.locator("#offline").is_hidden()
    assert problems == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_no_page_has_a_serious_accessibility_violation(
    browser: Browser, up: Up, service: Client, panel: str, colours: str
) -> None:
    job = service.jobs(kind="train").items[0] if service.jobs(kind="train").items else service.train(TRAIN)
    views = {
        "/": "#rows tr", f"/ui/jobs/{job.id}": "#facts dd", "/ui/datasets": "#rows tr",
        f"/ui/datasets/{panel}": "#checks",
        "/ui/workers": "#workers td", f"/ui/submit?from={job.id}": "#fields[data-ready]", "/ui/keys": "#make",
        "/ui/compare": "#none:visible",
    }  # fmt: skip
    page = browser.new_page(base_url=up.url, color_scheme=colours)  # type: ignore[arg-type]
    found = {}
    for view, sign in views.items():
        page.goto(view)
        page.locator(sign).first.wait_for(state="attached")
        wrong = Axe().run(page).response["violations"]
        found[view] = [
            (one["id"], one["nodes"][0]["html"]) for one in wrong if one["impact"] in ("serious", "critical")
        ]
    page.close()
    assert found == {view: [] for view in views}


def test_jobs_submitted_while_the_page_was_offline_are_all_listed(
    browser: Browser, up: Up, service: Client, panel: str
) -> None:
    """More new jobs than fit on a page: all between the newest and those shown before are listed."""
    service.train(TRAIN | {"name": "before"})
    page = browser.new_page(base_url=up.url)
    page.goto("/")
    expect(page.locator("#rows tr", has_text="before").first).to_be_visible()
    page.context.set_offline(True)
    for number in range(60):
        service.cancel(service.train(TRAIN | {"name": f"unseen {number}"}).id)
    page.context.set_offline(False)
    expect(page.locator("#rows tr", has_text="unseen 59")).to_be_visible(timeout=30_000)
    while page.locator("#more").is_visible():
        shown = page.locator("#rows tr").count()
        page.locator("#more").click()
        expect(page.locator("#rows tr")).not_to_have_count(shown)
    assert {f"unseen {number}" for number in range(60)} <= set(
        page.locator("#rows tr a:first-of-type").all_inner_texts()
    )
    page.close()
