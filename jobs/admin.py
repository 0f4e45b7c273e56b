"""`python -m jobs.admin`: runs the operator's commands of `jobs.ops.admin`."""

import sys

from jobs.ops.admin import main

if __name__ == "__main__":
    sys.exit(main())
