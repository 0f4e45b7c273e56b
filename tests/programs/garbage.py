"""Says one good event, then none: `--line TEXT`, `--long` (a line without end), `--repeat` (a number used twice)."""

import argparse
import time

from speech import Speech

speech = Speech()
parser = argparse.ArgumentParser()
parser.add_argument("--line", default="loss: 0.3")
parser.add_argument("--long", action="store_true")
parser.add_argument("--repeat", action="store_true")
options, _ = parser.parse_known_args(speech.rest)
speech.start()
if options.long:
    while True:
        speech.write(b"x" * 1_000_000)
if options.repeat:
    speech._seq = 0
    speech.start()
speech.write(options.line.encode() + b"\n")
time.sleep(600)
