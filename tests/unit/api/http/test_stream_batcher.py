"""Looks of many viewers become one read; each gets its own answer, or its own error."""

import asyncio
from collections.abc import Collection
from uuid import UUID, uuid4

import pytest

from api.http.errors import Unavailable
from api.http.sse import News
from api.http.stream_batcher import Lookout
from jobs.errors import JobNotFound
from jobs.record.tailing import StreamPosition
from jobs.states import JobState

HERE, GONE = uuid4(), uuid4()


class Record:
    def __init__(self) -> None:
        self.reads: list[set[StreamPosition]] = []
        self.away = False

    async def read(self, places: Collection[StreamPosition]) -> dict[StreamPosition, News]:
        self.reads.append(set(places))
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable
        return {
            place: News(lines=[], whole=True, state=JobState.RUNNING, reason=None, last_seq=place[1], progress=None)
            for place in places
            if place[0] == HERE
        }


def test_looks_at_once_are_one_read_of_each_place_once() -> None:
    async def run() -> None:
        record = Record()
        lookout = Lookout(record.read)
        wanted: list[dict[UUID, int]] = [{HERE: 3}, {HERE: 3}, {HERE: 5}]
        found = await asyncio.gather(*(lookout.look(one) for one in wanted))
        assert [news[HERE].last_seq for news in found] == [3, 3, 5]
        assert record.reads == [{(HERE, 3), (HERE, 5)}]
        await lookout.look({HERE: 6})  # what comes later is a read of its own
        assert record.reads[1:] == [{(HERE, 6)}]

    asyncio.run(run())


def test_a_missing_job_and_a_viewer_that_has_gone_trouble_nobody_else() -> None:
    async def run() -> None:
        lookout = Lookout(Record().read)
        well, lost, left = (asyncio.ensure_future(lookout.look(one)) for one in ({HERE: 1}, {GONE: 1}, {HERE: 2}))
        await asyncio.sleep(0)
        left.cancel()
        assert (await well)[HERE].last_seq == 1
        with pytest.raises(JobNotFound, match=str(GONE)):
            await lost
        with pytest.raises(asyncio.CancelledError):
            await left

    asyncio.run(run())


def test_an_absent_database_is_told_to_everyone_and_the_next_look_tries_again() -> None:
    async def run() -> None:
        record = Record()
        record.away = True
        lookout = Lookout(record.read)
        found = await asyncio.gather(*(lookout.look({HERE: n}) for n in range(3)), return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in found)
        record.away = False
        assert (await lookout.look({HERE: 9}))[HERE].last_seq == 9

    asyncio.run(run())
