"""Which worker process this is: queue, index and host, all in its Celery node name, such as `gpu-0@host`."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class DeviceSlot:
    """`index` is the CUDA device on queue `gpu`, a mere number on the others."""

    queue: str
    index: int
    host: str

    @classmethod
    def parse(cls, node: str) -> Self:
        """Raises ValueError for a node name that is not ours."""
        queue_index, _, host = node.partition("@")
        queue, _, index = queue_index.rpartition("-")
        if not (queue and index.isdecimal() and host):
            raise ValueError(f"worker name {node!r} is not QUEUE-INDEX@HOST: start workers with `python -m worker`")
        return cls(queue, int(index), host)

    @property
    def name(self) -> str:
        return f"{self.queue}-{self.index}@{self.host}"

    @property
    def device(self) -> str:
        """`cuda:N` or `cpu`."""
        return f"cuda:{self.index}" if self.queue == "gpu" else "cpu"

    @property
    def cuda_device(self) -> str | None:
        """CUDA_VISIBLE_DEVICES of a child; None hides every GPU."""
        return str(self.index) if self.queue == "gpu" else None
