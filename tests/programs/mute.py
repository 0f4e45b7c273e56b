"""Never emits any event."""

import time

time.sleep(600)
