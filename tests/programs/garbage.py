"""Emits one valid event, then garbage: `--line TEXT`, `--long` (an endless line), `--repeat` (a number used twice)."""

import argparse
import time

from protocol import Protocol

protocol = Protocol()
parser = argparse.ArgumentParser()
parser.add_argument("--line", default="loss: 0.3")
parser.add_argument("--long", action="store_true")
parser.add_argument("--repeat", action="store_true")
options, _ = parser.parse_known_args(protocol.rest)
protocol.start()
if options.long:
    while True:
        protocol.write(b"x" * 1_000_000)
if options.repeat:
    protocol._seq = 0
    protocol.start()
protocol.write(options.line.encode() + b"\n")
time.sleep(600)
