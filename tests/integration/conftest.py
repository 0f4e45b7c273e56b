"""A client of the API in this process, and the dataset that its jobs name."""

from collections.abc import AsyncIterator

import httpx
import pytest

from jobs.db.tables import Dataset
from jobs.settings import Settings
from tests.integration.api.application import Sessions, register, serving


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as client:
        yield client


@pytest.fixture
def dataset(sessions: Sessions) -> Dataset:
    return register(sessions)
