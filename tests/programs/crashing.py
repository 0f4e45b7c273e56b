"""Starts and crashes without a final event: `--signal NAME` or `--code N`; `--failed-reason` emits `failed` first;
with `--nul` its messages contain a NUL.
"""

import argparse
import os
import signal
import sys

from protocol import Protocol

protocol = Protocol()
parser = argparse.ArgumentParser()
parser.add_argument("--signal")
parser.add_argument("--code", type=int, default=3)
parser.add_argument("--failed-reason")
parser.add_argument("--last-words", default="last words on stderr")
parser.add_argument("--nul", action="store_true")
options, _ = parser.parse_known_args(protocol.rest)
protocol.start()
protocol.progress()
print(options.last_words, file=sys.stderr, flush=True)
if options.nul:
    print("x\0y", file=sys.stderr, flush=True)
    protocol.send("log", message="a\0b")
    protocol.send("failed", reason="invalid_params", message="column 'a\0b'")
if options.failed_reason:
    protocol.send("failed", reason=options.failed_reason, message="reported by the child")
if options.signal:
    os.kill(os.getpid(), signal.Signals[options.signal])
sys.exit(options.code)
