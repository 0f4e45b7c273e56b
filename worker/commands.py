"""The command lines of the worker processes.

`python -m worker --queue cpu|gpu [--device N]` runs one job at a time; on queue gpu, N is the CUDA device.
`python -m worker --control` runs the sweeper and the studies. Both lock their slot, then replace themselves by Celery:

    celery -A worker.tasks worker -Q gpu -c 1 -n gpu-0@HOST …
    celery -A worker.tasks worker -Q control -c 1 -B -n control-0@HOST …
"""

import sys

from worker.slot import DeviceSlot


def worker_argv(slot: DeviceSlot, log_level: str = "INFO") -> list[str]:
    """Celery's command line for one worker process on one device."""
    return [
        sys.executable, "-m", "celery", "-A", "worker.tasks", "worker", "-Q", slot.queue, "-c", "1", "-n", slot.name,
        "-l", log_level, "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def control_argv(slot: DeviceSlot, log_level: str = "INFO") -> list[str]:
    """Celery's command line for queue control, with the beat scheduler embedded."""
    return [*worker_argv(slot, log_level), "-B", "--scheduler", "worker.clock:BeatScheduler"]
