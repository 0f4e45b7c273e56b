"""The pages of a server with API keys: they ask for a key, do not store it, and use the session cookie."""

import pytest
from playwright.sync_api import Browser, expect

from jobs.db.session import transaction
from jobs.record import submission
from jobs.settings import Settings
from jobs.states import JobKind
from tests.integration.api.application import SPEC, Sessions, register
from tests.integration.api.test_server import serving

pytestmark = pytest.mark.browser
ADMIN = "the-operators-own-admin-key"


def test_login_cancel_of_a_job_and_logout(browser: Browser, settings: Settings, sessions: Sessions) -> None:
    register(sessions)
    with transaction(sessions) as session:
        job = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec=SPEC, spec_digest="d", queue="cpu", name="mine")
        ).job
    with serving(settings, ATFT_ADMIN_KEY=ADMIN) as server:
        page = browser.new_page(base_url=server.url)
        page.goto("/")
        form, key = page.locator("#login"), page.get_by_label("API key")
        expect(form).to_be_visible()
        expect(page.locator("#logout")).to_be_hidden()
        key.fill("atft_wrong")
        key.press("Enter")
        expect(page.locator("#notice")).to_contain_text("unknown, revoked or expired")
        key.fill(ADMIN)
        key.press("Enter")
        expect(page.locator("#rows tr", has_text="mine")).to_be_visible()
        expect(form).to_be_hidden()
        assert ADMIN not in page.content()
        assert page.evaluate("document.cookie") == ""
        assert ADMIN not in str(page.evaluate("JSON.stringify(localStorage)"))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"/ui/jobs/{job.id}")
        page.locator("#cancel").click()  # an unsafe call by cookie
        expect(page.locator("#state")).to_have_text("cancelled")
        page.get_by_role("button", name="Log out").click()
        expect(form).to_be_visible()
        page.close()


def test_the_docs_page_works_under_its_content_security_policy(browser: Browser, settings: Settings) -> None:
    with serving(settings) as server:
        page = browser.new_page(base_url=server.url)
        broken: list[str] = []
        page.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
        page.goto("/docs")
        expect(page.locator(".opblock").first).to_be_visible(timeout=60_000)
        page.close()
    assert broken == []
