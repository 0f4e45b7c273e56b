"""A worker process's slot: queue, index and host, encoded in its Celery node name, such as `gpu-0@host`."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class DeviceSlot:
    """Queue, index and host of a worker process; `index` is the CUDA device on queue `gpu`."""

    queue: str
    index: int
    host: str

    @classmethod
    def parse(cls, node: str) -> Self:
        """The slot of a Celery node name. Raises ValueError for any other name."""
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
        """The child's CUDA_VISIBLE_DEVICES; None hides every GPU."""
        return str(self.index) if self.queue == "gpu" else None
