"""Concurrent reads become one batch; each gets its own result, or its own error."""

import asyncio
from collections.abc import Collection
from uuid import UUID, uuid4

import pytest

from api.http.errors import Unavailable
from api.http.sse import JobUpdate
from api.http.stream_batcher import StreamBatcher
from jobs.errors import JobNotFound
from jobs.record.tailing import StreamPosition
from jobs.states import JobState

HERE, GONE = uuid4(), uuid4()


class Record:
    def __init__(self) -> None:
        self.reads: list[set[StreamPosition]] = []
        self.away = False

    async def read(self, positions: Collection[StreamPosition]) -> dict[StreamPosition, JobUpdate]:
        self.reads.append(set(positions))
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable
        return {
            position: JobUpdate(
                events=[], complete=True, state=JobState.RUNNING, reason=None, last_seq=position[1], progress=None
            )
            for position in positions
            if position[0] == HERE
        }


def test_concurrent_reads_are_one_batch_with_each_position_once() -> None:
    async def run() -> None:
        record = Record()
        batcher = StreamBatcher(record.read)
        wanted: list[dict[UUID, int]] = [{HERE: 3}, {HERE: 3}, {HERE: 5}]
        found = await asyncio.gather(*(batcher.read(one) for one in wanted))
        assert [update[HERE].last_seq for update in found] == [3, 3, 5]
        assert record.reads == [{(HERE, 3), (HERE, 5)}]
        await batcher.read({HERE: 6})  # a later read is a batch of its own
        assert record.reads[1:] == [{(HERE, 6)}]

    asyncio.run(run())


def test_a_missing_job_or_a_cancelled_read_does_not_affect_other_reads() -> None:
    async def run() -> None:
        batcher = StreamBatcher(Record().read)
        well, lost, left = (asyncio.ensure_future(batcher.read(one)) for one in ({HERE: 1}, {GONE: 1}, {HERE: 2}))
        await asyncio.sleep(0)
        left.cancel()
        assert (await well)[HERE].last_seq == 1
        with pytest.raises(JobNotFound, match=str(GONE)):
            await lost
        with pytest.raises(asyncio.CancelledError):
            await left

    asyncio.run(run())


def test_an_error_is_raised_in_every_read_of_the_batch_and_the_next_batch_tries_again() -> None:
    async def run() -> None:
        record = Record()
        record.away = True
        batcher = StreamBatcher(record.read)
        found = await asyncio.gather(*(batcher.read({HERE: n}) for n in range(3)), return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in found)
        record.away = False
        assert (await batcher.read({HERE: 9}))[HERE].last_seq == 9

    asyncio.run(run())
