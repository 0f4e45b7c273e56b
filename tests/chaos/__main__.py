"""Chaos test: `python -m tests.chaos --minutes 20` runs mixed work on a whole service while its processes are killed,
then checks every row and file. A seed fixes the work and the faults. Exit code 1: a guarantee was broken.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from client.sdk.sync import ServiceError
from tests.chaos import consistency
from tests.chaos.killer import DISK_BYTES, Killer
from tests.chaos.service import Service, up
from tests.chaos.workload import PANEL, Workload, unfinished

Json = dict[str, Any]
OWN_FAULT = ("internal", "worker_lost", "stalled", "evidence_mismatch", "data_changed", "timeout_queue")
MAX_GROWTH = 1.5
RELEASE_SECONDS = 10.0  # deadline for processes, sockets and memory to be released after the last job
SETTLE_SECONDS = 900.0  # deadline for accepted jobs to end after the faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--width", type=int, default=3, help="jobs at a time")
    parser.add_argument("--pause", type=float, default=6.0, help="seconds between two faults, at most")
    parser.add_argument("--calm", action="store_true", help="inject no faults")
    parser.add_argument("--out", type=Path, help="the report as JSON")
    parser.add_argument("--keep", action="store_true", help="keep databases, runs and logs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # run the clean-up of mounts and processes
    var = Path(tempfile.mkdtemp(prefix="atft-chaos-"))
    var.chmod(0o755)  # as root the servers run as another user
    try:
        with (
            own_file_system(var / "runs") as own,
            own_file_system(var / "servers") as own_too,
            up(var, var / "runs", workers=options.workers) as service,
        ):
            report = run_chaos(service, options, full_disk=own and own_too)
    finally:
        if not options.keep:
            shutil.rmtree(var, ignore_errors=True)
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1))
    print(table(report))
    return 1 if report["broken"] else 0


@contextmanager
def own_file_system(folder: Path) -> Iterator[bool]:
    """Mount a small tmpfs on the folder if this process may; yield whether it did. Disk-full faults need one."""
    folder.mkdir()
    mounted = os.getuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.call(["umount", "-l", str(folder)])


def run_chaos(service: Service, options: argparse.Namespace, *, full_disk: bool) -> Json:
    """Run the workload under faults, wait for every job to end, check all rows and files, and return the report."""
    began = time.monotonic()
    with service.client() as client:
        panel = client.add_dataset({"name": "panel", "horizons": [1, 5], "planted": PANEL})
        if client.wait(panel.id, 120).state != "succeeded":
            raise RuntimeError(client.job(panel.id))
        base = service.resource_usage()
        steady = min(61.0, options.minutes * 60 / 4)
        seed = random.Random(options.seed)
        killer = Killer(
            service, seed.getrandbits(32), pause_seconds=options.pause, steady_seconds=steady, full_disk=full_disk
        )
        workload = Workload(
            service, seed.getrandbits(32), until=time.monotonic() + options.minutes * 60, width=options.width
        )
        workload.accepted[panel.id] = "dataset"
        workload.start()
        if not options.calm:
            killer.start()
            time.sleep(options.minutes * 60)
            killer.stop()
        chaos_seconds = time.monotonic() - began
        late = _wait_for_end(client, workload)
        for viewer in workload.viewers:
            viewer.join(30)
            viewer.stop()
        after, children = _wait_for_release(service, base)
    broken = [f"every accepted job ends in time: {job_id} did not" for job_id in late]
    broken += [f"no valid request is refused: {message}" for message in workload.refused]
    broken += consistency.check(service.servers()["database_url"], service.runs, workload.accepted, workload.viewers)
    broken += _grown(base, after)
    broken += [f"no child process outlives its job: {children} do"] if children else []
    ends = consistency.outcomes(service.servers()["database_url"])
    lost = consistency.own_faults(service.servers()["database_url"], OWN_FAULT)
    broken += [f"no job is lost: {message}" for message in lost]
    return {
        "seed": options.seed,
        "minutes": options.minutes,
        "chaos_seconds": round(chaos_seconds, 1),
        "settle_seconds": round(time.monotonic() - began - chaos_seconds, 1),
        "jobs_accepted": len(workload.accepted),
        "jobs_in_all": sum(end["jobs"] for end in ends),
        "attempts": sum(end["attempts"] for end in ends),
        "faults": dict(sorted(killer.faults.items())),
        "kills": sum(killer.faults.values()),
        "failed_injections": killer.errors[:20],
        "lost": len(lost) + len(late),
        "duplicates": sum("G2" in message or "G10" in message for message in broken),
        "stale_writes_refused": _in_logs(service.var, "another attempt has the job; nothing was written"),
        "streams": len(workload.viewers),
        "streams_cut": sum(viewer.cuts for viewer in workload.viewers),
        "counts": dict(sorted(workload.counts.items())),
        "outcomes": ends,
        "held_before": base,
        "held_after": after,
        "broken": broken,
    }


def _wait_for_end(client: Any, workload: Workload, seconds: float = SETTLE_SECONDS) -> list[str]:
    """Wait for the accepted jobs to end; return those that have not by the deadline."""
    end = time.monotonic() + seconds
    workload.join(seconds)
    late = list(workload.accepted)
    while late and time.monotonic() < end:
        with suppress(ServiceError):
            late = unfinished(client, late)
        time.sleep(0.5)
    return late


def _wait_for_release(service: Service, base: Json, seconds: float = RELEASE_SECONDS) -> tuple[Json, int]:
    """Wait until usage is back to its base and no child runs; return usage and children then, or at the deadline."""
    end = time.monotonic() + seconds
    while True:
        after, children = service.resource_usage(), len(service.find("child"))
        if (not children and not _grown(base, after)) or time.monotonic() > end:
            return after, children
        time.sleep(0.2)


def _grown(base: Json, after: Json) -> list[str]:
    """One message for each resource of a role that did not return to about its value before the faults."""
    broken = []
    for role, held in base.items():
        for what, before in held.items():
            now = after.get(role, {}).get(what, 0)
            room = {"bytes": 60_000_000, "descriptors": 12, "connections": 12, "processes": 0}[what]
            if now > before * MAX_GROWTH + room:
                broken.append(f"resource usage returns to its base: {role} holds {now} {what}, {before} before")
    return broken


def _in_logs(var: Path, message: str) -> int:
    return sum(log.read_text(errors="replace").count(message) for log in (var / "log").glob("worker-*"))


def table(report: Json) -> str:
    """The report as text."""
    lines = [
        f"chaos of {report['minutes']:g} minutes, seed {report['seed']}: "
        f"{report['jobs_accepted']} jobs accepted ({report['jobs_in_all']} with trials, {report['attempts']} "
        f"attempts), {report['kills']} faults, {report['streams_cut']} streams cut",
        f"lost {report['lost']}, duplicates {report['duplicates']}, "
        f"stale writes refused {report['stale_writes_refused']}",
        "",
        *(f"{count:5}  {name}" for name, count in report["faults"].items()),
        "",
        *(f"{end['jobs']:5}  {end['kind']} {end['state']} {end['reason'] or ''}" for end in report["outcomes"]),
        "",
    ]
    promises = [f"BROKEN  {message}" for message in report["broken"]]
    return "\n".join(lines + (promises or ["every guarantee was kept"]))


if __name__ == "__main__":
    sys.exit(main())
