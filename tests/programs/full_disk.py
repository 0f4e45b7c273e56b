"""`python -m atft` on a disk that has no room for a build: every allocation of scratch space finds it full."""

import errno
import os
import sys

from atft.__main__ import main


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


os.posix_fallocate = full  # type: ignore[assignment]
sys.exit(main(sys.argv[1:]))
