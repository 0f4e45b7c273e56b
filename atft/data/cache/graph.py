"""The day graph: edges between stocks that move together, from returns up to the refresh day only. Built once per
GraphSpec and stored beside the cache.

Edges of a refresh day: each stock's `neighbours` largest |corr| at or above `threshold`, and, with `sector_edges`, a
third as many of its nearest in the same sector whatever their correlation; both made symmetric by union. The
correlation is exponentially weighted (weighted mean removed), shrunk to 0; neighbours are chosen by it or by the
correlation left when the market's mean return is taken out (`neighbours_by`). Attributes: (corr + 1)/2; sector (1 for a
correlated pair of one sector, `sector_weight` for a pair joined by its sector alone, else 0); exp(-|Δvolatility|/σ), σ
the day's spread of volatilities; the correlation without the market.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from atft.checksums import is_sealed, seal
from atft.data.cache.reader import Cache, MappedFile
from atft.data.files import METADATA_KEY, write_arrow
from atft.events import Event, Progress
from atft.spec.base import digest
from atft.spec.model import EDGE_SIZE, GraphSpec

GRAPH_VERSION = 2
SECTOR_SHARE = 3  # a third as many sector neighbours: a graph of industries alone has hurt in published ablations
NOT_A_CANDIDATE = np.float32(-2)
MIN_DAYS = 10


class DayGraph:
    """Edges by refresh day; a day has those of the latest refresh day up to it."""

    def __init__(
        self,
        num_codes: int,
        days: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        source: npt.NDArray[np.int32],
        target: npt.NDArray[np.int32],
        attributes: npt.NDArray[np.float32],
    ) -> None:
        self.days = days  # [D] increasing refresh days
        self._offsets = offsets  # [D+1]
        self._source, self._target = source, target  # [E] code numbers
        self._attributes = attributes  # [E, 4]
        self._num_codes = num_codes

    def has_edges(self, days: npt.NDArray[np.int64]) -> bool:
        """Whether any of these days has an edge."""
        at = np.unique(np.searchsorted(self.days, days, side="right")) - 1
        at = at[at >= 0]
        return bool((self._offsets[at] < self._offsets[at + 1]).any())

    def edges(
        self, day: int, codes: Int[np.ndarray, " stock"]
    ) -> tuple[Int[np.ndarray, "2 edge"], Float[np.ndarray, "edge 4"]]:
        """The subgraph induced by `codes` (distinct code numbers), its nodes numbered by their position in `codes`;
        empty before the first refresh day.
        """
        at = int(np.searchsorted(self.days, day, side="right")) - 1
        if at < 0:
            return np.zeros((2, 0), np.int64), np.zeros((0, EDGE_SIZE), np.float32)
        part = slice(self._offsets[at], self._offsets[at + 1])
        local = np.full(self._num_codes, -1, np.int64)
        local[codes] = np.arange(len(codes))
        source, target = local[self._source[part]], local[self._target[part]]
        both = (source >= 0) & (target >= 0)
        return np.stack([source[both], target[both]]), self._attributes[part][both]


def graph_digest(spec: GraphSpec) -> str:
    """Digest of the graph's settings and version, which names its file."""
    return digest({"graph": spec.model_dump(mode="json"), "version": GRAPH_VERSION})


def day_graph(cache: Cache, spec: GraphSpec, emit: Callable[[Event], None]) -> DayGraph:
    """The cache's day graph from `graphs/{digest}.arrow`, built first if the file is missing, damaged or of another
    cache.
    """
    path = cache.path / "graphs" / f"{graph_digest(spec)}.arrow"
    mapped = _open(path, cache)
    if mapped is None:
        path.parent.mkdir(exist_ok=True)
        _build(cache, spec, path, emit)
        mapped = MappedFile(path, None)
    source, target, attributes = mapped.column("source"), mapped.column("target"), mapped.column("attributes")
    edges = len(source.values)
    days = mapped.array(mapped.column("day"), np.int64)
    return DayGraph(
        len(cache.codes),
        days,
        mapped.array(source.offsets, np.int64) if len(days) else np.zeros(1, np.int64),
        mapped.array(source.values, np.int32),
        mapped.array(target.values, np.int32),
        mapped.array(attributes.values.values, np.float32).reshape(edges, EDGE_SIZE),
    )


def _open(path: Path, cache: Cache) -> MappedFile | None:
    """The file of a graph of this cache, with the bytes that were written; else None."""
    if not is_sealed(path):
        return None
    mapped = MappedFile(path, None)
    return mapped if json.loads(mapped.metadata[METADATA_KEY])["fingerprint"] == cache.fingerprint else None


def _build(cache: Cache, spec: GraphSpec, path: Path, emit: Callable[[Event], None]) -> None:
    T, C = len(cache.days), len(cache.codes)
    returns = np.full((T, C), np.nan, np.float32)
    returns[cache.day_index, cache.code_index] = cache.returns
    # A halted day has a row only if the stock trades again, which is not known on that day, so halts do not count.
    traded = np.zeros((T, C), np.bool_)
    traded[cache.day_index, cache.code_index] = cache.valid
    sectors = np.full((T, C), -1, np.int32)
    sectors[cache.day_index, cache.code_index] = cache.sector_index
    days = np.arange(spec.refresh_days - 1, T, spec.refresh_days, dtype=np.int64)
    parts: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]] = []
    for n, day in enumerate(days):
        codes = np.flatnonzero(traded[day])
        past = returns[max(0, day - spec.correlation_window + 1) : day + 1, codes]
        edges, attributes = day_edges(past, sectors[day, codes], spec)
        parts.append((codes[edges[0]].astype(np.int32), codes[edges[1]].astype(np.int32), attributes))
        emit(Progress(phase="graph", step=n + 1, steps=len(days), ratio=(n + 1) / len(days)))
    offsets = np.concatenate([[0], np.cumsum([len(p[0]) for p in parts])]).astype(np.int64)
    joined = [np.concatenate([p[k] for p in parts]) if parts else np.zeros(0) for k in range(2)]
    values = np.concatenate([p[2] for p in parts]) if parts else np.zeros((0, EDGE_SIZE), np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1).astype(np.float32)), EDGE_SIZE)
    columns = {
        "date": pa.array(cache.days[days].astype(np.int32)).cast(pa.date32()),
        "day": pa.array(days),
        "source": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(joined[0].astype(np.int32))),
        "target": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(joined[1].astype(np.int32))),
        "attributes": pa.LargeListArray.from_arrays(pa.array(offsets), lists),
    }
    metadata = {
        METADATA_KEY: json.dumps(
            {"fingerprint": cache.fingerprint, "graph": spec.model_dump(mode="json"), "version": GRAPH_VERSION}
        ).encode()
    }
    write_arrow(path, columns, metadata)
    seal(path)


def correlations(
    returns: Float[np.ndarray, "day stock"], half_life: int, shrinkage: float
) -> tuple[Float[np.ndarray, "stock stock"], Float[np.ndarray, " stock"], Bool[np.ndarray, " stock"]]:
    """Exponentially weighted correlation (unknown returns are left out), volatility, and which stocks have half of the
    days known and some variance.
    """
    known = np.isfinite(returns)
    age = np.arange(len(returns))[::-1]
    weight = (0.5 ** (age / half_life)).astype(np.float32)[:, None] * known
    total = np.maximum(weight.sum(axis=0), 1e-12)
    filled = np.where(known, returns, np.float32(0))
    centred = np.where(known, filled - (weight * filled).sum(axis=0) / total, np.float32(0))
    variance = (weight * centred**2).sum(axis=0) / total
    enough = (known.sum(axis=0) >= max(2, len(returns) / 2)) & (variance > 1e-12)
    scaled = np.sqrt(weight) * centred / np.sqrt(np.maximum(variance * total, 1e-30))
    corr = np.clip(scaled.T @ scaled, -1, 1) * (1 - shrinkage)
    corr[~enough] = 0
    corr[:, ~enough] = 0
    np.fill_diagonal(corr, 0)
    return corr.astype(np.float32), np.sqrt(variance).astype(np.float32), enough


def day_edges(
    returns: Float[np.ndarray, "day stock"], sectors: Int[np.ndarray, " stock"], spec: GraphSpec
) -> tuple[Int[np.ndarray, "2 edge"], Float[np.ndarray, "edge 4"]]:
    """Both directions of each edge, from the returns of one window that ends at the refresh day. Fewer than MIN_DAYS
    days give no correlation edges.
    """
    corr, volatility, enough = correlations(returns, spec.half_life, spec.shrinkage)
    if len(returns) < MIN_DAYS:
        corr[:], enough[:] = 0, False
    mean = _day_mean(returns)
    residual = correlations(_regression_residuals(returns, mean), spec.half_life, spec.shrinkage)[0]
    closeness = corr if spec.neighbours_by == "correlation" else residual
    strong = (np.abs(closeness) >= spec.threshold) & (closeness != 0) & enough & enough[:, None]
    joined = _nearest(np.where(strong, np.abs(closeness), NOT_A_CANDIDATE), spec.neighbours)
    joined |= joined.T
    same = (sectors[:, None] == sectors[None, :]) & (sectors >= 0)[:, None]
    np.fill_diagonal(same, val=False)
    pairs = joined
    if spec.sector_edges:
        nearest = _nearest(np.where(same, closeness, NOT_A_CANDIDATE), max(1, spec.neighbours // SECTOR_SHARE))
        pairs = joined | nearest | nearest.T
    source, target = np.nonzero(pairs)
    correlated = joined[source, target]
    alike = same[source, target]
    spread = float(volatility[enough].std()) if enough.any() else 0.0
    distance = np.abs(volatility[source] - volatility[target]) / max(spread, 1e-12)
    attributes = (
        np.stack(
            [
                (corr[source, target] + 1) / 2,
                np.where(alike, np.where(correlated, 1.0, spec.sector_weight), 0.0),
                np.exp(-distance),
                residual[source, target],
            ],
            axis=1,
        )
        .astype(np.float32)
        .reshape(-1, EDGE_SIZE)
    )
    return np.stack([source, target]).astype(np.int64), attributes


def _nearest(strength: Float[np.ndarray, "stock stock"], neighbours: int) -> Bool[np.ndarray, "stock stock"]:
    """For each row its `neighbours` largest entries; NOT_A_CANDIDATE marks pairs that may not be chosen."""
    stocks = len(strength)
    chosen = np.zeros((stocks, stocks), np.bool_)
    if stocks == 0:
        return chosen
    k = min(neighbours, stocks)
    columns = np.argpartition(-strength, k - 1, axis=1)[:, :k]
    rows = np.arange(stocks)[:, None]
    chosen[rows, columns] = strength[rows, columns] > NOT_A_CANDIDATE
    return chosen


def _day_mean(returns: Float[np.ndarray, "day stock"]) -> Float[np.ndarray, " day"]:
    known = np.isfinite(returns)
    mean = np.where(known, returns, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.asarray(mean, dtype=np.float32)


def _regression_residuals(
    returns: Float[np.ndarray, "day stock"], factor: Float[np.ndarray, " day"]
) -> Float[np.ndarray, "day stock"]:
    """Residuals of each stock's regression on `factor` over its known days."""
    known = np.isfinite(returns)
    count = np.maximum(known.sum(axis=0), 1)
    f = np.where(known, factor[:, None], 0)
    r = np.where(known, returns, 0)
    f = np.where(known, f - f.sum(axis=0) / count, 0)
    r = np.where(known, r - r.sum(axis=0) / count, 0)
    slope = (f * r).sum(axis=0) / np.maximum((f**2).sum(axis=0), 1e-20)
    return np.where(known, r - slope * f, np.nan).astype(np.float32)
