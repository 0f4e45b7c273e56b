"""`python -m jobs.embedded`: runs Postgres and Valkey with their data under one folder, until SIGINT or SIGTERM."""

import sys

from jobs.embedded.servers import main

if __name__ == "__main__":
    sys.exit(main())
