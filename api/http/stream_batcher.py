"""The looks at the record of every stream of this process, gathered: a thousand viewers are a few statements a second.

A look waits a hundredth of a second for others, and while one is under way; then all that wait go as one, each job and
place in it once. What comes of it is bounded whatever the number of viewers, so that one look cannot fill the memory.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final
from uuid import UUID

from api.http.sse import News
from jobs.errors import JobNotFound
from jobs.record.tailing import StreamPosition

GATHER_SECONDS: Final = 0.01
Read = Callable[[Collection[StreamPosition]], Awaitable[dict[StreamPosition, News]]]


class Lookout:
    def __init__(self, read: Read) -> None:
        self._read = read
        self._waiting: list[tuple[Mapping[UUID, int], asyncio.Future[dict[UUID, News]]]] = []
        self._looking: asyncio.Task[None] | None = None

    async def look(self, wanted: Mapping[UUID, int]) -> dict[UUID, News]:
        """What follows each job's seq. Raises JobNotFound, and whatever the read raises."""
        answer: asyncio.Future[dict[UUID, News]] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, answer))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_all(), name="lookout")
        return await answer

    async def _look_for_all(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(GATHER_SECONDS)
                waiting, self._waiting = self._waiting, []
                try:
                    found = await self._read({place for wanted, _ in waiting for place in wanted.items()})
                except Exception as error:  # noqa: BLE001 - handed to everyone who waits for this look
                    for _, answer in waiting:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for wanted, answer in waiting:
                    if not answer.done():  # a viewer may have gone meanwhile
                        _tell(answer, wanted, found)
        finally:
            self._looking = None
            for _, answer in self._waiting:
                answer.cancel()


def _tell(
    answer: asyncio.Future[dict[UUID, News]], wanted: Mapping[UUID, int], found: Mapping[StreamPosition, News]
) -> None:
    missing = [job_id for job_id, after in wanted.items() if (job_id, after) not in found]
    if missing:
        answer.set_exception(JobNotFound(f"there is no job {missing[0]}"))
    else:
        answer.set_result({job_id: found[job_id, after] for job_id, after in wanted.items()})
