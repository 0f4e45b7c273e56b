"""The submit form: submit, a growing curve, cancel, and a page that reconnects after the API was unavailable."""

import signal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from client.sdk.sync import Client
from tests.acceptance.conftest import TRAIN, Up, wait_for

pytestmark = pytest.mark.browser
LONG = TRAIN | {"name": "long", "trainer": {"max_epochs": 500, "batch_size": 80, "early_stopping": None}}
SPACE = '{"optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": true}}'


def open_page(browser: Browser, up: Up, problems: list[str]) -> Page:
    page = browser.new_page(base_url=up.url)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((up.url, "data:"))
            else problems.append(f"request to another origin: {request.url}")
        ),
    )
    return page


def test_a_job_submitted_from_the_form_shows_a_growing_curve(
    browser: Browser, up: Up, service: Client, panel: str
) -> None:
    first = service.train(LONG | {"name": "first"})
    problems: list[str] = []
    page = open_page(browser, up, problems)

    page.goto(f"/ui/submit?from={first.id}")
    expect(page.get_by_label("dataset (required)")).to_have_value(panel)
    service.cancel(first.id)
    page.get_by_role("group", name="General").get_by_label("name").fill("from the form")
    expect(page.locator("#curl")).to_contain_text('"name": "from the form"')
    expect(page.locator("#python")).to_contain_text('"early_stopping": None')
    embargo = page.locator('[data-pointer="/split/embargo_days"]')
    embargo.fill("2")
    page.get_by_role("button", name="Show the plan").click()
    expect(embargo).to_have_attribute("aria-invalid", "true")
    expect(embargo).to_be_focused()
    expect(page.locator(".wrong:visible")).to_contain_text("shorter than the longest label")
    embargo.fill("6")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.locator("#plan")).to_contain_text("Epochs")
    assert [job.name for job in service.jobs().items if job.kind == "train"] == ["first"]
    page.get_by_role("button", name="Submit").click()

    expect(page.locator("#name")).to_have_text("from the form")
    expect(page.locator("#curve svg")).to_be_visible(timeout=120_000)
    before = page.locator("#curve path.line").first.get_attribute("d")
    expect(page.locator("#curve path.line").first).not_to_have_attribute("d", before or "", timeout=60_000)
    expect(page.locator("#curve path.band")).to_be_attached()

    [api] = up.find("uvicorn")
    api.send_signal(signal.SIGSTOP)  # unavailable: it accepts no request and closes no stream
    api.send_signal(signal.SIGKILL)
    expect(page.locator("#offline")).to_be_visible(timeout=30_000)
    wait_for("the API is back", lambda: any(found.pid != api.pid for found in up.find("uvicorn")), 60)
    expect(page.locator("#offline")).to_be_hidden(timeout=60_000)
    before = page.locator("#curve path.line").first.get_attribute("d")
    expect(page.locator("#curve path.line").first).not_to_have_attribute("d", before or "", timeout=60_000)

    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel job").click()
    expect(page.locator("#state")).to_have_text("cancelled", timeout=60_000)
    expect(page.get_by_role("button", name="Retry from its checkpoint")).to_be_visible()
    assert problems == []
    page.close()


def test_a_study_is_submitted_and_followed_on_its_page(browser: Browser, up: Up, service: Client, panel: str) -> None:
    problems: list[str] = []
    page = open_page(browser, up, problems)
    source = service.train(TRAIN)
    service.cancel(source.id)
    page.goto(f"/ui/submit?from={source.id}")
    expect(page.locator("#fields")).to_have_attribute("data-ready", "true", timeout=60_000)
    page.get_by_label("a study").check()
    for pointer, value in {"/space": SPACE, "/n_trials": "2", "/base/trainer/max_epochs": "2"}.items():
        page.locator(f'[data-pointer="{pointer}"]').fill(value)
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#trials tbody tr")).to_have_count(2, timeout=180_000)
    expect(page.locator("#state")).to_have_text("succeeded", timeout=180_000)
    for picture in ("history", "intermediate", "parallel", "slices", "timeline"):
        expect(page.locator(f"#{picture} svg").first).to_be_visible()
    expect(page.locator("#importance-section")).to_be_visible()
    assert [
        one["id"] for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")
    ] == []
    expect(page.locator("#study-text")).to_contain_text("2 of 2 trials: 2 succeeded")
    page.get_by_label("compare trial 0").check()
    page.get_by_label("compare trial 1").check()
    page.get_by_role("button", name="Compare 2").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(2, timeout=60_000)
    page.goto(f"/ui/submit?kind=pretrain&dataset={panel}")
    expect(page.locator("#fields")).to_have_attribute("data-ready", "true", timeout=60_000)
    expect(page.locator("#curl")).to_contain_text("/jobs/pretrain")
    expect(page.get_by_label("mask ratio")).to_be_attached()
    page.locator("input[value=ensemble]").check()
    expect(page.locator("#curl")).to_contain_text("/jobs/ensemble")
    expect(page.locator("#curl")).to_contain_text(f'"dataset": "{panel}"')
    expect(page.locator('[data-pointer="/seeds"]')).to_be_attached()
    assert problems == []
    page.close()
