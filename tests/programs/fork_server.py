"""`fork-server`: a fork server without imports. Otherwise runs the program that is its first argument, as its children
do.
"""

import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from atft import fork_server  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


if sys.argv[1:2] == ["fork-server"] and "REFUSE" in os.environ:
    sys.exit(1)
if sys.argv[1:2] == ["fork-server"] and "HANG" in os.environ:
    time.sleep(60)
sys.exit(fork_server.serve(main, ()) if sys.argv[1:2] == ["fork-server"] else main(sys.argv[1:]))
