"""Prints `--bytes N` to stdout, then a last line, and finishes."""

import argparse

from speech import Speech

speech = Speech()
parser = argparse.ArgumentParser()
parser.add_argument("--bytes", type=int, default=200_000)
options, _ = parser.parse_known_args(speech.rest)
speech.start()
for _ in range(options.bytes // 100):
    print("x" * 99)
print("the very last line", flush=True)
speech.say("finished")
