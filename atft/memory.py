"""Free and total memory of the machine, or of the cgroup (a container's limit) where that is less."""

from pathlib import Path
from typing import Final

import psutil

_CGROUP: Final = Path("/sys/fs/cgroup")


def free_and_total() -> tuple[int, int]:
    """Free and total bytes of the machine, or of this process's cgroup (v2) where its limit is lower."""
    machine = psutil.virtual_memory()
    group = own_cgroup()
    try:
        limit = int((group / "memory.max").read_text())
        stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = int(stats.get("active_file", 0)) + int(
            stats.get("inactive_file", 0)
        )  # page cache, which the kernel can reclaim
        used = int((group / "memory.current").read_text()) - files
    except (OSError, ValueError):  # no such file, or "max"
        return int(machine.available), int(machine.total)
    return min(int(machine.available), max(0, limit - used)), min(int(machine.total), limit)


def own_cgroup() -> Path:
    """This process's folder of cgroup files (v2)."""
    try:
        line = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1]
    except FileNotFoundError:  # not Linux
        return _CGROUP
    return _CGROUP / line.rpartition(":")[2].lstrip("/")
