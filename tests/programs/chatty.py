"""Prints `--bytes N` to stdout, then a last line, and finishes."""

import argparse

from protocol import Protocol

protocol = Protocol()
parser = argparse.ArgumentParser()
parser.add_argument("--bytes", type=int, default=200_000)
options, _ = parser.parse_known_args(protocol.rest)
protocol.start()
for _ in range(options.bytes // 100):
    print("x" * 99)
print("the very last line", flush=True)
protocol.send("finished")
