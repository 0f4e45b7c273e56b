"""Measured time of an epoch's parts, and the process's use of CPU, GPU and memory."""

import contextlib
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
import psutil
import torch

from atft.spec.metric import (
    CPU_UTILIZATION,
    EPOCH_PARTS,
    GPU_MEMORY_BYTES,
    GPU_UTILIZATION,
    OS_THREADS_PEAK,
    RSS_BYTES,
    SYSTEM,
    TIME,
    full_name,
    part_seconds,
)

SAMPLE_SECONDS = 0.5


class Timers:
    """Seconds spent in each part since the last `take`.

    On CUDA each part ends with a synchronisation, else its kernels would count in the next part.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.seconds = dict.fromkeys(EPOCH_PARTS, 0.0)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._cuda:
                torch.cuda.synchronize()
            self.seconds[part] += time.perf_counter() - start

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count `seconds` measured inside part `source` as part `target`."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def take(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, dict.fromkeys(EPOCH_PARTS, 0.0)
        return {full_name(TIME, part_seconds(part)): seconds for part, seconds in taken.items()}


class SystemSampler:
    """A thread that samples this process (and its GPU) twice a second; `take` gives mean and 95th percentile since
    the last take.

    `cpu_utilization_ratio` is processor seconds per wall second per allowed thread.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self._process = psutil.Process()
        self._threads = threads
        self._gpu = _gpu_handle(device) if device.type == "cuda" else None
        self._samples: dict[str, list[float]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._last = (time.monotonic(), self._cpu_seconds())
        self._thread = threading.Thread(target=self._run, name="system-sampler", daemon=True)
        self.peak_threads = 0
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> dict[str, float | None]:
        self.look()
        with self._lock:
            samples, self._samples = self._samples, {}
        values: dict[str, float | None] = {}
        for name, series in samples.items():
            values[full_name(SYSTEM, name)] = float(np.mean(series))
            values[full_name(SYSTEM, f"{name}_p95")] = float(np.percentile(series, 95))
        values[full_name(SYSTEM, OS_THREADS_PEAK)] = float(self.peak_threads)
        return values

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.look()

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def look(self) -> None:
        """Take one sample now."""
        now, cpu = time.monotonic(), self._cpu_seconds()
        rss = int(self._process.memory_info().rss)
        values = {RSS_BYTES: float(rss)}
        if self._gpu is not None:
            values |= self._gpu.sample()
        with self._lock:
            then, before = self._last
            if now - then > 0.05:  # shorter spans are noise of the kernel's clock tick
                self._last = (now, cpu)
                values[CPU_UTILIZATION] = (cpu - before) / (now - then) / self._threads
            for name, value in values.items():
                self._samples.setdefault(name, []).append(value)
            self.peak_threads = max(self.peak_threads, self._process.num_threads())
            self.peak_bytes = max(self.peak_bytes, rss)


class _Gpu:
    def __init__(self, uuid: str) -> None:
        import pynvml  # noqa: PLC0415 - only where there is a GPU

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def sample(self) -> dict[str, float]:
        usage = self._nvml.nvmlDeviceGetUtilizationRates(self._handle)
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return {GPU_UTILIZATION: usage.gpu / 100, GPU_MEMORY_BYTES: float(memory.used)}


def _gpu_handle(device: torch.device) -> _Gpu:
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return _Gpu(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
