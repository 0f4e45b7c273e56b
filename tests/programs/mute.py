"""Never says anything at all."""

import time

time.sleep(600)
