"""`python -m jobs.admin`: the operator's commands, which stand in `jobs.ops.admin`."""

import sys

from jobs.ops.admin import main

if __name__ == "__main__":
    sys.exit(main())
