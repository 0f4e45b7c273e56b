"""Web page performance in headless Chromium: a job with 10⁵ points, a list of 10⁴ jobs, half an hour of events.

    python benchmarks/bench_page.py [--points 100000 --jobs 10000 --events 18000 --seconds 60 --rounds 5]

(a) Job view: time to the first curve and to all curves, and the bytes loaded; (b) job list: first rows, loading of
older rows, search, frame times while scrolling; (c) a Job view left open for 30 minutes' worth of events (ten a second)
sent faster: bytes per update, live memory and DOM nodes before and after, longest task.
A real API on an embedded Postgres; no worker runs, and events are written with the functions of jobs.record.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import numpy as np
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright
from sqlalchemy import insert, text, update
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from atft.events import AnyEvent, Log, Metrics, Progress
from jobs.db.migrate import migrate
from jobs.db.session import sync_engine, sync_sessions, transaction
from jobs.db.tables import Job, Metric
from jobs.embedded import servers as embedded
from jobs.record import history, lifecycle, submission
from jobs.settings import Settings
from jobs.states import JobKind

HERE = Path(__file__).resolve().parent
GOALS = {"first_curve_ms": 500.0}
HORIZONS = (1, 5, 10, 20)
STEP_NAMES = ("step/loss", "step/lr", "step/grad_norm")
MARKS = """
window.marks = {}; window.tasks = [];
const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((task) => task.duration)));
observer.observe({ type: "longtask", buffered: true });
const seen = {
  curve: "#curve svg path.line", training: "#training figure[data-name=grad] svg path.line", rows: "#rows tr",
};
new MutationObserver(() => {
  for (const [name, selector] of Object.entries(seen)) {
    if (marks[name] || !document.querySelector(selector)) continue;
    requestAnimationFrame(() => { marks[name] ??= performance.now(); });
  }
}).observe(document, { childList: true, subtree: true });
"""


@dataclass(frozen=True)
class Service:
    url: str
    sessions: sessionmaker[Session]
    settings: Settings


@contextmanager
def running_service(folder: Path) -> Iterator[Service]:
    """Start Postgres, Valkey and one API server."""
    with embedded.start(folder / "servers") as servers, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        roots = {"data_root": folder / "data", "run_root": folder / "runs"}
        settings = Settings(database_url=servers.database_url, redis_url=servers.redis_url, **roots)
        for root in roots.values():
            root.mkdir()
        migrate(settings)
        names = {"ATFT_DATABASE_URL": servers.database_url, "ATFT_REDIS_URL": servers.redis_url}
        names |= {f"ATFT_{name.upper()}": str(root) for name, root in roots.items()}
        command = [sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", "--port", str(port)]
        api = subprocess.Popen([*command, "--log-level", "error"], env=os.environ | names)
        url, engine = f"http://127.0.0.1:{port}", sync_engine(settings)
        try:
            while api.poll() is None and not ready(url):
                time.sleep(0.2)
            yield Service(url, sync_sessions(engine), settings)
        finally:
            engine.dispose()
            api.terminate()
            api.wait()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=1).is_success
    except httpx.TransportError:
        return False


# -- data


def start_job(session: Session, name: str) -> UUID:
    spec = {"dataset": "panel", "trainer": {"max_epochs": 500}}
    job = submission.submit(
        session, submission.NewJob(kind=JobKind.TRAIN, spec=spec, spec_digest="d", queue="cpu", name=name)
    ).job
    assert lifecycle.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=3600) is not None
    return job.id


def running_job(service: Service, points: int) -> UUID:
    """Insert a running job: 500 epochs of validation metrics by horizon, and step metrics for the rest of `points`."""
    draw = np.random.default_rng(0)
    metrics = [
        f"val/{name}{horizon}" for name in ("rank_ic", "rank_ic_t") for horizon in ("", *(f"@{h}d" for h in HORIZONS))
    ]
    epochs = min(500, points // 4 // len(metrics))
    with transaction(service.sessions) as session:
        job_id = start_job(session, f"{points:,} points")
        rows = [(name, step) for name in metrics for step in range(1, epochs + 1)]
        updates = (points - len(rows)) // len(STEP_NAMES)
        rows += [(name, step) for name in STEP_NAMES for step in range(1, updates + 1)]
        values = draw.normal(0.03, 0.01, len(rows))
        keys = ("name", "step", "value")
        made = [dict(zip(keys, (*row, value), strict=True)) for row, value in zip(rows, values.tolist(), strict=True)]
        for start in range(0, len(made), 10_000):
            session.execute(insert(Metric).values(job_id=job_id, attempt=1), made[start : start + 10_000])
        history.append(session, job_id, 1, [Metrics(child_seq=1, step=epochs + 1, values={"val/rank_ic": 0.03})])
    return job_id


def finished_jobs(service: Service, count: int) -> None:
    now = datetime.now(UTC)
    rows = [
        {"id": uuid7(), "kind": JobKind.TRAIN, "name": f"job {number}", "queue": "cpu", "spec": {}, "spec_digest": "d",
         "dataset": "panel", "tags": {"desk": "tokyo"}, "metrics": {"val/rank_ic": 0.03},
         "created_at": now - timedelta(hours=2, seconds=number)}
        for number in range(count)
    ]  # fmt: skip
    with transaction(service.sessions) as session:
        for start in range(0, count, 1000):
            session.execute(insert(Job), rows[start : start + 1000])
        ended = update(Job).where(Job.state == "queued")  # a job starts queued and ends after it has run
        session.execute(ended.values(state="running", attempt=1, started_at=now, lease_until=now))
        session.execute(
            update(Job).where(Job.name.like("job %")).values(state="succeeded", finished_at=now, lease_until=None)
        )
        session.execute(text("ANALYZE"))


# -- measurements


@contextmanager
def open_page(browser: Browser, service: Service) -> Iterator[tuple[Page, CDPSession, list[int]]]:
    """Open a page without cached files; the list collects the bytes received over the network."""
    # the page's policy forbids the strings that Playwright would evaluate
    context = browser.new_context(base_url=service.url, viewport={"width": 1440, "height": 900}, bypass_csp=True)
    page = context.new_page()
    page.add_init_script(MARKS)
    protocol, received = context.new_cdp_session(page), list[int]()
    protocol.send("Network.enable")
    protocol.on(
        "Network.dataReceived", lambda event: received.append(event["encodedDataLength"] or event["dataLength"])
    )
    yield page, protocol, received
    context.close()


def mark(page: Page, name: str) -> float:
    page.wait_for_function(f"window.marks.{name}", timeout=60_000)
    found: float = page.evaluate(f"window.marks.{name}")
    return round(found, 1)


def measure_job_view(browser: Browser, service: Service, job_id: UUID, rounds: int) -> dict[str, object]:
    first, all_of_them, sizes = [], [], []
    for _ in range(rounds + 1):
        with open_page(browser, service) as (page, _protocol, received):
            page.goto(f"/ui/jobs/{job_id}")
            first.append(mark(page, "curve"))
            all_of_them.append(mark(page, "training"))
            sizes.append(sum(received))
    return {
        "first_curve_ms": {"median": statistics.median(first[1:]), "each": first[1:], "cold_server": first[0]},
        "all_curves_ms": {"median": statistics.median(all_of_them[1:]), "each": all_of_them[1:]},
        "bytes": statistics.median(sizes),
    }


FRAMES = """async () => {
  const gaps = []; let last = performance.now();
  for (let i = 0; i < 120; i += 1) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    gaps.push(now - last);
    last = now;
    window.scrollBy(0, 200);
  }
  return gaps.sort((a, b) => a - b);
}"""


def measure_job_list(browser: Browser, service: Service, jobs: int, rounds: int) -> dict[str, object]:
    shown, older, found, gaps = [], [], [], []
    for _ in range(rounds):
        with open_page(browser, service) as (page, _protocol, _received):
            page.goto("/")
            shown.append(mark(page, "rows"))
            for _ in range(20):
                rows, start = page.locator("#rows tr").count(), time.perf_counter()
                page.locator("#more").click()
                page.wait_for_function(f"document.querySelectorAll('#rows tr').length > {rows}")
                older.append((time.perf_counter() - start) * 1000)
            gaps += page.evaluate(FRAMES)[5:]
            start = time.perf_counter()
            page.get_by_label("Name or id").fill(f"job {jobs - 7}")
            page.wait_for_function("document.querySelectorAll('#rows tr').length == 1")
            found.append((time.perf_counter() - start) * 1000)
    return {
        "jobs": jobs,
        "first_rows_ms": statistics.median(shown),
        "older_page_ms": {"median": round(statistics.median(older), 1), "most": round(max(older), 1)},
        "search_of_one_ms": round(statistics.median(found), 1),
        "rows_while_scrolling": 21 * 50,
        "frame_ms": {"median": round(statistics.median(gaps), 1), "p95": round(sorted(gaps)[int(len(gaps) * 0.95)], 1)},
    }


def child_events(number: int, epochs: float) -> list[AnyEvent]:
    """The events a child process sends in a tenth of a second, at times with the end of an epoch."""
    seq = number * 4 + 1
    values: dict[str, float | None] = dict.fromkeys(STEP_NAMES, 0.01 + number % 97 / 1000)
    progress = Progress(
        child_seq=seq, phase="train", epoch=1 + int(number / epochs), epochs=90, step=number, steps=18_000, ratio=0.5
    )
    events: list[AnyEvent] = [progress, Metrics(child_seq=seq + 1, step=number + 1, values=values)]
    if number % int(epochs) == int(epochs) - 1:
        epoch = 1 + int(number / epochs)
        values = {f"val/{name}@{h}d": 0.02 + number % 31 / 3000 for name in ("rank_ic", "rank_ic_t") for h in HORIZONS}
        events += [
            Metrics(child_seq=seq + 2, step=epoch, values=values),
            Log(child_seq=seq + 3, message=f"epoch {epoch} is over"),
        ]
    return events


def measure_open_view(browser: Browser, service: Service, events: int, seconds: float) -> dict[str, object]:
    """Measure an open Job view that receives `events` metrics events and as many progress events; 200 to an epoch."""
    with transaction(service.sessions) as session:
        job_id = start_job(session, "left open")
        history.append(session, job_id, 1, child_events(0, 200))
    with open_page(browser, service) as (page, protocol, received):
        page.goto(f"/ui/jobs/{job_id}")
        page.wait_for_function("document.querySelector('#training svg')")
        measured = [page_memory(protocol)]
        before, start = sum(received), time.perf_counter()
        batch = max(1, round(events / seconds / 10))
        for number in range(1, events, batch):
            with transaction(service.sessions) as session:
                for one in range(number, min(number + batch, events)):
                    history.append(session, job_id, 1, child_events(one, 200))
            page.wait_for_timeout(max(0.0, start + number / events * seconds - time.perf_counter()) * 1000)
            if number * 4 // events != (number + batch) * 4 // events:
                measured.append(page_memory(protocol))
        page.wait_for_function(f"document.getElementById('log').textContent.includes('epoch {events // 200} is over')")
        page.wait_for_timeout(3000)
        took, after = time.perf_counter() - start, page_memory(protocol)
        tasks = page.evaluate("window.tasks")
    return {
        "events": events,
        "seconds": round(took, 1),
        "bytes": sum(received) - before,
        "bytes_an_event": round((sum(received) - before) / events, 1),
        "before": measured[0],
        "meanwhile": measured[1:],
        "after": after,
        "longest_task_ms": round(max(tasks, default=0.0), 1),
        "tasks_over_50_ms": len(tasks),
    }


def page_memory(protocol: CDPSession) -> dict[str, int]:
    """JavaScript heap, DOM nodes and event listeners of the page after garbage collection."""
    protocol.send("HeapProfiler.collectGarbage")
    protocol.send("Performance.enable")
    figures = {one["name"]: one["value"] for one in protocol.send("Performance.getMetrics")["metrics"]}
    return {
        "heap_bytes": int(figures["JSHeapUsedSize"]),
        "elements": int(figures["Nodes"]),
        "listeners": int(figures["JSEventListeners"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=18_000, help="ten a second for half an hour")
    parser.add_argument("--seconds", type=float, default=60.0, help="in which they are sent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("job", "list", "open"), action="append")
    options = parser.parse_args()
    wanted = options.only or ["job", "list", "open"]
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        parser.exit(1, "no Chromium on this machine\n")
    folder = Path(tempfile.mkdtemp(prefix="atft-bench-page-"))
    folder.chmod(0o755)  # as root the servers run as another user
    result: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "load_before": os.getloadavg()[0], "python": platform.python_version()},
        "goals": GOALS,
    }
    try:
        with running_service(folder) as service, sync_playwright() as playwright:
            arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=program, args=arguments)
            if "job" in wanted:
                result["job"] = {"points": options.points} | measure_job_view(
                    browser, service, running_job(service, options.points), options.rounds
                )
            if "list" in wanted:
                finished_jobs(service, options.jobs)
                result["list"] = measure_job_list(browser, service, options.jobs, options.rounds)
            if "open" in wanted:
                result["left_open"] = measure_open_view(browser, service, options.events, options.seconds)
            browser.close()
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=1))
    if options.only:
        return  # a partial run does not replace a full result
    path = HERE / "results" / f"{datetime.now(UTC):%Y-%m-%d}-page.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path.relative_to(HERE.parent)}", file=sys.stderr)


if __name__ == "__main__":
    main()
