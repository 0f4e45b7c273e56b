"""A fresh process, after `import torch`: our imports, opening the cache, the first day's windows; seconds as JSON."""

import json
import sys
import time

import torch

start = time.perf_counter()
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from atft.data.cache import Cache  # noqa: E402
from atft.data.windows import DayReader  # noqa: E402
from atft.spec.data import DataSpec  # noqa: E402

imported = time.perf_counter()
cache = Cache.open(Path(sys.argv[1]))
opened = time.perf_counter()
reader = DayReader(cache, DataSpec(window=60), None, torch.device("cpu"))
windows = reader.windows(np.array([len(cache.days) // 2]))
first = time.perf_counter()
print(json.dumps({"imports": imported - start, "open": opened - imported, "first_windows": first - opened}))
