"""LRU cache of comparisons. A key contains the version of every job, so that an entry is never out of date."""

from typing import Annotated, Final, TypeAlias
from uuid import UUID

from cachetools import LRUCache
from fastapi import Depends, Request

from api.comparisons.schemas import Comparison

SIZE: Final = 64
Key: TypeAlias = tuple[tuple[tuple[UUID, int], ...], str, tuple[str, ...]]  # jobs and versions, metric, baselines
Cache: TypeAlias = LRUCache[Key, Comparison]


async def cache(request: Request) -> Cache:
    """The application's cache of comparisons, made at first use."""
    state = request.app.state
    if not hasattr(state, "comparisons"):
        state.comparisons = LRUCache(SIZE)
    found: Cache = state.comparisons
    return found


CacheDep = Annotated[Cache, Depends(cache)]
