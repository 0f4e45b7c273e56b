"""Takes `--day-bytes` for each day of its micro-batch, which begins with `--days`, under a `--limit` on its address
space, and reports it as the real program does. `--failed-reason` is the reason given when out of memory.
"""

import argparse
import json
import resource
from pathlib import Path

from honest_evidence import honest_evidence
from protocol import Protocol

protocol = Protocol()
parser = argparse.ArgumentParser()
parser.add_argument("--days", type=int, default=8)
parser.add_argument("--day-bytes", type=int, default=100_000_000)
parser.add_argument("--limit", type=int, default=500_000_000, help="bytes on top of what it has at the start")
parser.add_argument("--failed-reason", default="oom_host")
parser.add_argument("--does-not-fit", action="store_true", help="say that it does not fit, as the preflight does")
options, _ = parser.parse_known_args(protocol.rest)
out = Path(protocol.arguments.out)
protocol.start()
if options.does_not_fit:
    memory = {"needed_bytes": 2_000_000, "free_bytes": 1_000_000, "fits": False}
    protocol.send("evidence", body={"memory": memory})
    protocol.send("failed", reason="oom_host", message="a micro-batch of 1 days needs more than is free")
    raise SystemExit(1)
days = min(options.days, protocol.arguments.most_days or options.days)
protocol.send("evidence", body={"micro_batch_days": days, "memory": {"needed_bytes": 1, "fits": True}})
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + options.limit,) * 2)
try:
    taken = bytearray(days * options.day_bytes)
except MemoryError as error:
    protocol.send("failed", reason=options.failed_reason, message=f"the memory is full: {error!r}")
    raise SystemExit(1) from error
body = honest_evidence(json.loads((out / "spec.json").read_text()), "f00d") | {"micro_batch_days": days}
protocol.send("evidence", body=body)
protocol.send("finished")
