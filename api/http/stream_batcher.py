"""Batches the database reads of all open streams of this process, so that a thousand streams cost a few statements a
second.

A read waits 10 ms for others, and while another batch is being read; then all waiting reads go as one, with each stream
position in it once. The rows of one batch are bounded whatever the number of streams, and so is the memory.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final
from uuid import UUID

from api.http.sse import JobUpdate
from jobs.errors import JobNotFound
from jobs.record.tailing import StreamPosition

BATCH_WINDOW_SECONDS: Final = 0.01
Read = Callable[[Collection[StreamPosition]], Awaitable[dict[StreamPosition, JobUpdate]]]


class StreamBatcher:
    """Combines concurrent calls of `read` into one call of the given function."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._waiting: list[tuple[Mapping[UUID, int], asyncio.Future[dict[UUID, JobUpdate]]]] = []
        self._task: asyncio.Task[None] | None = None

    async def read(self, after: Mapping[UUID, int]) -> dict[UUID, JobUpdate]:
        """The update of each job after its `seq`. Raises JobNotFound, and whatever the given function raises."""
        result: asyncio.Future[dict[UUID, JobUpdate]] = asyncio.get_running_loop().create_future()
        self._waiting.append((after, result))
        if self._task is None:
            self._task = asyncio.create_task(self._read_batches(), name="stream-batcher")
        return await result

    async def _read_batches(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(BATCH_WINDOW_SECONDS)
                waiting, self._waiting = self._waiting, []
                try:
                    found = await self._read({position for after, _ in waiting for position in after.items()})
                except Exception as error:  # noqa: BLE001 - raised in every caller that waits for this batch
                    for _, result in waiting:
                        if not result.done():
                            result.set_exception(error)
                    continue
                for after, result in waiting:
                    if not result.done():  # the client may have disconnected meanwhile
                        _resolve(result, after, found)
        finally:
            self._task = None
            for _, result in self._waiting:
                result.cancel()


def _resolve(
    result: asyncio.Future[dict[UUID, JobUpdate]],
    after: Mapping[UUID, int],
    found: Mapping[StreamPosition, JobUpdate],
) -> None:
    missing = [job_id for job_id, seq in after.items() if (job_id, seq) not in found]
    if missing:
        result.set_exception(JobNotFound(f"there is no job {missing[0]}"))
    else:
        result.set_result({job_id: found[job_id, seq] for job_id, seq in after.items()})
