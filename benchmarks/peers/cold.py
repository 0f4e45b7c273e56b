"""Cold start after `import torch`: seconds for our imports, opening the cache and the first windows, as JSON."""

import json
import sys
import time

import torch

start, cpu = time.perf_counter(), time.process_time()
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from atft.data.cache.reader import Cache  # noqa: E402
from atft.data.cache.windows import DayReader  # noqa: E402
from atft.spec.data import DataSpec  # noqa: E402

imported, cpu_imported = time.perf_counter(), time.process_time()
cache = Cache.open(Path(sys.argv[1]))
opened = time.perf_counter()
reader = DayReader(cache, DataSpec(window=60), None, torch.device("cpu"))
windows = reader.windows(np.array([len(cache.days) // 2]))
first = time.perf_counter()
seconds = {"imports": imported - start, "open": opened - imported, "first_windows": first - opened}
cpu_seconds = {"imports_cpu": cpu_imported - cpu, "open_and_first_cpu": time.process_time() - cpu_imported}
print(json.dumps(seconds | cpu_seconds))
