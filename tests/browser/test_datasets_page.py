"""Datasets on the page: a file is checked, refused or registered; its build and profile are shown; it is deleted."""

import itertools
import math
import random
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from client.sdk.sync import Client
from tests.acceptance.conftest import Up

pytestmark = pytest.mark.browser


def write_prices(path: Path, more: str = "") -> Path:
    walk = random.Random(0)
    rows = ["Date,Ticker,Price"]
    for code in "ABCDEFGH":
        price = 100.0
        for month, day in itertools.product(range(1, 6), range(1, 21)):
            price *= math.exp(walk.gauss(0, 0.02))
            rows.append(f"2020-{month:02d}-{day:02d},{code},{price:.3f}")
    path.write_text("\n".join([*rows, more]))
    return path


def open_page(browser: Browser, up: Up, problems: list[str]) -> Page:
    page = browser.new_page(base_url=up.url)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(up.url) else problems.append(f"request to another origin: {request.url}")
        ),
    )
    return page


def test_a_file_becomes_a_dataset(browser: Browser, up: Up, service: Client, tmp_path: Path) -> None:
    problems: list[str] = []
    page = open_page(browser, up, problems)
    page.goto("/ui/datasets")
    page.get_by_label("Panel", exact=True).set_input_files(write_prices(tmp_path / "bad.csv", "2020-01-01,A,1"))
    expect(page.get_by_label("Name")).to_have_value("bad")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#refusal")).to_contain_text("repeat a (date, code), such as 2020-01-01 A", timeout=60_000)
    page.get_by_role("button", name="Register").click()
    expect(page.locator("#build-state")).to_have_text("failed", timeout=60_000)
    expect(page.locator("#build-message")).to_contain_text("keep one row for each")

    page.get_by_label("Panel", exact=True).set_input_files(write_prices(tmp_path / "good.csv"))
    page.get_by_label("Name").fill("seen")
    page.get_by_label("Horizons").fill("1, 5")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#plan")).to_contain_text("close from “Price”", timeout=60_000)
    assert [item["name"] for item in service.datasets()] == []
    page.get_by_role("button", name="Register").click()
    expect(page.locator("#build-state")).to_have_text("succeeded", timeout=60_000)
    expect(page.locator("#rows")).to_contain_text("seen")
    page.get_by_role("link", name="the dataset").click()

    expect(page.locator("#name")).to_have_text("seen, version 1")
    expect(page.locator("#facts")).to_contain_text("800")
    expect(page.locator("#versions")).to_contain_text("good.csv")
    page.get_by_label("Search").fill("return_5")
    expect(page.locator("#features tbody tr").first).to_contain_text("return_5")
    page.get_by_role("button", name="Delete…").first.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#empty")).to_be_visible()
    assert service.datasets() == []
    assert problems == []
    page.close()


def test_a_dataset_of_unfinished_jobs_is_not_deleted(browser: Browser, up: Up, service: Client) -> None:
    problems: list[str] = []
    page = open_page(browser, up, problems)
    page.goto("/ui/datasets")
    page.get_by_label("a planted panel").check()
    page.get_by_label("Name").fill("planted")
    page.get_by_label("Stocks").fill("12")
    page.get_by_label("Days", exact=True).fill("120")
    page.get_by_role("button", name="Register").click()
    expect(page.locator("#build-state")).to_have_text("succeeded", timeout=60_000)
    page.goto("/ui/datasets/planted@1")
    expect(page.locator("#versions")).to_contain_text("planted")
    spec = {
        "dataset": "planted",
        "data": {"window": 10, "horizons": [1], "min_names": 5},
        "split": {"val_days": 10, "test_days": 10, "embargo_days": 2},
        "resources": {"queue": "gpu"},  # which no worker watches
    }
    waiting = service.submit("train", spec)
    page.get_by_role("button", name="Delete…").first.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#confirm-problem")).to_contain_text(waiting.id)
    page.get_by_role("button", name="Keep").click()
    service.cancel(waiting.id)
    page.reload()
    expect(page.locator("#jobs")).to_contain_text("cancelled")
    page.goto("/ui/datasets/missing")
    expect(page.locator("#notice")).to_contain_text("there is no dataset")
    assert problems == []
    page.close()
