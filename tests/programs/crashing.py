"""Starts and dies without telling why: `--signal NAME` or `--code N`; `--word` lets it first say `failed`;
with `--nul` there is a NUL in all its words.
"""

import argparse
import os
import signal
import sys

from speech import Speech

speech = Speech()
parser = argparse.ArgumentParser()
parser.add_argument("--signal")
parser.add_argument("--code", type=int, default=3)
parser.add_argument("--word")
parser.add_argument("--nul", action="store_true")
options, _ = parser.parse_known_args(speech.rest)
speech.start()
speech.progress()
print("last words on stderr", file=sys.stderr, flush=True)
if options.nul:
    print("x\0y", file=sys.stderr, flush=True)
    speech.say("log", message="a\0b")
    speech.say("failed", reason="invalid_params", message="column 'a\0b'")
if options.word:
    speech.say("failed", reason=options.word, message="it said so")
if options.signal:
    os.kill(os.getpid(), signal.Signals[options.signal])
sys.exit(options.code)
