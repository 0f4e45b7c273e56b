"""Jobs that are selected in the list are compared on the page."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Browser, expect

from api.app import create_app
from client.sdk.sync import Client
from jobs.settings import Settings
from tests.integration.api.application import SPEC, Sessions, register
from tests.integration.api.test_comparisons import end

pytestmark = pytest.mark.browser


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_ticked_jobs_are_compared(browser: Browser, settings: Settings, sessions: Sessions) -> None:
    register(sessions)
    with serving(settings) as url, Client(url) as service:
        for name, optimizer, mean in (("plain", "adamw", 0.0), ("belief", "adabelief", 0.08)):
            job = service.submit("train", SPEC | {"name": name, "optimizer": {"name": optimizer}})
            end(sessions, job.id, len(name), mean)
        page = browser.new_page(base_url=url)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto("/")
        expect(page.locator("#compare")).to_be_disabled()
        page.get_by_label("compare plain").check()
        page.get_by_label("compare belief").check()
        page.get_by_role("button", name="Compare 2").click()
        expect(page.locator("#fair")).to_have_text("fair", timeout=60_000)  # the first one loads statsmodels
        expect(page.locator("#pairs")).to_contain_text("belief is better than plain")
        expect(page.locator("#differences")).to_contain_text("optimizer.name")
        expect(page.locator("#curve svg")).to_be_visible()
        expect(page.locator("#jobs tbody tr")).to_have_count(2)
        page.get_by_label("Metric").fill("val/rank_ic@1d")
        page.get_by_label("Baseline").select_option("ridge")
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#fair")).to_have_text("not fair", timeout=60_000)  # the confidence set of three sides
        expect(page.locator("#reasons")).to_contain_text("selected on these validation days")
        expect(page.locator("#jobs tbody tr")).to_have_count(3)
        assert problems == []
        page.get_by_label("Metric").fill("val/loss")
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#notice")).to_contain_text("rank_ic, ic and long_short can")
        expect(page.locator("#busy")).to_be_hidden()
        page.close()
