"""Takes `--day-bytes` for each day of its micro-batch, which begins with `--days`, under a `--limit` on its address
space, and says so as the real program does. `--word` names the reason it gives for want of memory.
"""

import argparse
import json
import resource
from pathlib import Path

from proof import prove
from speech import Speech

speech = Speech()
parser = argparse.ArgumentParser()
parser.add_argument("--days", type=int, default=8)
parser.add_argument("--day-bytes", type=int, default=100_000_000)
parser.add_argument("--limit", type=int, default=500_000_000, help="bytes on top of what it has at the start")
parser.add_argument("--word", default="oom_host")
parser.add_argument("--unfit", action="store_true", help="say that it does not fit, as the preflight does")
options, _ = parser.parse_known_args(speech.rest)
out = Path(speech.arguments.out)
speech.start()
if options.unfit:
    memory = {"needed_bytes": 2_000_000, "free_bytes": 1_000_000, "fits": False}
    speech.say("evidence", body={"memory": memory})
    speech.say("failed", reason="oom_host", message="a micro-batch of 1 days needs more than is free")
    raise SystemExit(1)
days = min(options.days, speech.arguments.most_days or options.days)
speech.say("evidence", body={"micro_batch_days": days, "memory": {"needed_bytes": 1, "fits": True}})
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + options.limit,) * 2)
try:
    taken = bytearray(days * options.day_bytes)
except MemoryError as error:
    speech.say("failed", reason=options.word, message=f"the memory is full: {error!r}")
    raise SystemExit(1) from error
body = prove(json.loads((out / "spec.json").read_text()), "f00d") | {"micro_batch_days": days}
speech.say("evidence", body=body)
speech.say("finished")
