"""`python -m jobs.embedded`: Postgres and Valkey under one folder, until it is told to stop."""

import sys

from jobs.embedded.servers import main

if __name__ == "__main__":
    sys.exit(main())
