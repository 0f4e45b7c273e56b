"""Reads consecutive trading days of a cache as batches. A sample of day t is a valid row whose stock has W trading days
up to t.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int

from atft.data.cache.batch import Batch
from atft.data.cache.graph import DayGraph
from atft.data.cache.labels import day_labels
from atft.data.cache.reader import Cache
from atft.data.cache.row_store import MappedRows, ResidentRows, choose_row_store, device_budget, to_device
from atft.data.cache.splits import consecutive_runs
from atft.data.schema import DataError, format_names
from atft.spec.data import DataSpec
from atft.spec.model import EDGE_SIZE


class DayReader:
    """Reads batches of a cache for one DataSpec; the labels of a day are computed once and cached.

    Raises DataError for features or horizons that the cache lacks, and if no stock ever has a full window.
    """

    def __init__(self, cache: Cache, data: DataSpec, graph: DayGraph | None, device: torch.device) -> None:
        self.cache, self.data, self.graph, self.device = cache, data, graph, device
        columns, market = _select(cache, data)
        self.feature_names = (*(cache.feature_names[j] for j in columns), *(cache.market_names[j] for j in market))
        self.num_features = len(self.feature_names)
        self.num_stock_features = len(columns)  # the first ones; the others are of the market, equal for all stocks
        self._mapped = MappedRows(cache, columns, market, device)
        self.row_store: MappedRows | ResidentRows = self._mapped
        missing = [h for h in data.horizons if h not in cache.horizons]
        if missing:
            raise DataError(f"the dataset has no targets for horizons {missing}; it has {list(cache.horizons)}")
        self._horizons = np.array([cache.horizons.index(h) for h in data.horizons])
        sample = cache.valid.copy()
        incomplete = cache.code_offsets[:-1, None] + np.arange(data.window - 1)  # rows without a full window
        sample[np.minimum(incomplete, cache.code_offsets[1:, None] - 1)[np.diff(cache.code_offsets) > 0]] = False
        kept = sample[cache.day_rows]
        self._rows = cache.day_rows[kept]  # samples, by day
        self._offsets = np.concatenate([[0], np.cumsum(kept)])[cache.day_offsets].astype(np.int64)
        counts = np.diff(self._offsets)
        if not counts.any():
            raise DataError(
                f"no stock has {data.window} trading days in a row: the window is longer than every listed span; "
                "use a shorter data.window"
            )
        self.median_stocks_per_day = int(np.median(counts[counts > 0]))
        self._labels: dict[int, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = {}

    def num_stocks(self, day: int) -> int:
        """Number of stocks with a sample on day number `day`."""
        return int(self._offsets[day + 1] - self._offsets[day])

    def make_resident(
        self,
        days: Int[np.ndarray, " day"],
        *,
        allow_bfloat16: bool,
        budget_bytes: int | None = None,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Copy the windows of `days` to the device if they fit into `budget_bytes` (None: `device_budget`); afterwards
        only these days can be read. `row_store.kind` and `row_store.dtype` hold the choice.

        `allow_bfloat16`: store bfloat16 if float32 does not fit. `on_progress(share copied)` is called while copying.
        """
        budget = device_budget(self.device) if budget_bytes is None else budget_bytes
        if budget <= 0:
            return
        ends = np.concatenate([self._rows[self._offsets[d] : self._offsets[d + 1]] for d in np.unique(days)])
        needed, _ = gather_windows(ends, self.data.window)
        self.row_store = choose_row_store(
            self._mapped,
            needed,
            len(self.cache.day_index),
            budget_bytes=budget,
            allow_bfloat16=allow_bfloat16,
            on_progress=on_progress,
        )

    def days_per_step(self, batch_size: int) -> int:
        """Days whose samples come nearest to `batch_size`."""
        return max(1, round(batch_size / self.median_stocks_per_day))

    def runs(
        self, days: npt.NDArray[np.int64], days_per_step: int, seed: int, epoch: int
    ) -> list[npt.NDArray[np.int64]]:
        """`days` cut into runs of `days_per_step` consecutive days, from a random first cut, and shuffled; each day
        occurs once. Depends on (seed, epoch) only.
        """
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
        cuts: list[npt.NDArray[np.int64]] = []
        for stretch in consecutive_runs(days):
            offset = int(rng.integers(1, days_per_step + 1))
            cuts += [part for part in np.split(stretch, range(offset, len(stretch), days_per_step)) if len(part)]
        filled = [cut for cut in cuts if self._offsets[cut[-1] + 1] > self._offsets[cut[0]]]
        return [filled[i] for i in rng.permutation(len(filled))]

    def windows(self, days: Int[np.ndarray, " days"]) -> Float[torch.Tensor, "stock window feature"]:
        """The window of each sample of consecutive days as a tensor of its own, unlike `batch`, which shares rows."""
        return self.row_store.windows(
            self._rows[self._offsets[days[0]] : self._offsets[days[-1] + 1]], self.data.window
        )

    def batch(self, days: Int[np.ndarray, " days"]) -> Batch:
        """The samples of consecutive day numbers. Raises DataError if there are none."""
        rows = self._rows[self._offsets[days[0]] : self._offsets[days[-1] + 1]]
        if len(days) != days[-1] - days[0] + 1:
            raise ValueError(f"days {days[0]} … {days[-1]} are not consecutive")
        if len(rows) == 0:
            raise DataError(
                f"no stock has a full window of {self.data.window} days on "
                f"{self.cache.days[days[0]]} … {self.cache.days[days[-1]]}"
            )
        counts = np.diff(self._offsets[days[0] : days[-1] + 2])
        union, last = gather_windows(rows, self.data.window)
        windows = to_device(last, self.device)[:, None] + torch.arange(1 - self.data.window, 1, device=self.device)
        labelled = [self._day(int(d)) for d in days]
        edges, attributes = self._edges(days, rows, counts)
        ranked = self.cache.in_universe[rows]  # samples are valid
        return Batch(
            x=self.row_store(union),
            windows=windows,
            targets=to_device(self.cache.targets[rows][:, self._horizons], self.device),
            labels=to_device(np.concatenate([x[0] for x in labelled]), self.device),
            ranks=to_device(np.concatenate([x[1] for x in labelled]), self.device),
            ranked=to_device(ranked, self.device),
            day=to_device(np.repeat(np.arange(len(days)), counts), self.device),
            num_days=len(days),
            edges=to_device(edges, self.device),
            edge_attributes=to_device(attributes, self.device),
            day_numbers=np.asarray(days, dtype=np.int64),
            rows=rows,
        )

    def _day(self, day: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        if day not in self._labels:
            rows = self._rows[self._offsets[day] : self._offsets[day + 1]]
            cache = self.cache
            self._labels[day] = day_labels(
                cache.targets[rows][:, self._horizons],
                cache.in_universe[rows],
                cache.sector_index[rows],
                cache.beta[rows],
                self.data.target,
            )
        return self._labels[day]

    def _edges(
        self, days: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self.graph is None:
            return np.zeros((2, 0), np.int64), np.zeros((0, EDGE_SIZE), np.float32)
        starts = np.concatenate([[0], np.cumsum(counts)])
        codes = self.cache.code_index[rows].astype(np.int64)
        parts = [self.graph.edges(int(day), codes[starts[n] : starts[n + 1]]) for n, day in enumerate(days)]
        return np.concatenate([edges + starts[n] for n, (edges, _) in enumerate(parts)], axis=1), np.concatenate(
            [a for _, a in parts]
        )


def gather_windows(
    rows: Int[np.ndarray, " stock"], window: int
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " stock"]]:
    """The sorted union of the windows that end at panel rows `rows` (distinct), and the position in it of each window's
    last row; the window is the `window` positions up to there.

    A stock's rows are consecutive in the panel, so that a window is `window` consecutive rows; windows of two stocks
    never overlap.
    """
    order = np.argsort(rows, kind="stable")
    ends = rows[order]
    starts = np.maximum(ends - window + 1, np.concatenate([[-1], ends[:-1]]) + 1)
    lengths = ends - starts + 1
    stops = np.cumsum(lengths)
    union = np.repeat(starts - (stops - lengths), lengths) + np.arange(stops[-1])
    position = np.empty(len(rows), np.int64)
    position[order] = stops - 1
    return union, position


def _select(cache: Cache, data: DataSpec) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Column numbers of the selected stock features and market columns; all of them when the spec lists none."""
    if data.features is None:
        return np.arange(len(cache.feature_names)), np.arange(len(cache.market_names))
    missing = [n for n in data.features if n not in cache.feature_names and n not in cache.market_names]
    if missing:
        raise DataError(
            f"missing features {missing}: the dataset has "
            f"{format_names([*cache.feature_names, *cache.market_names], 40)}"
        )
    return (
        np.array([cache.feature_names.index(n) for n in data.features if n in cache.feature_names], dtype=np.int64),
        np.array([cache.market_names.index(n) for n in data.features if n in cache.market_names], dtype=np.int64),
    )
