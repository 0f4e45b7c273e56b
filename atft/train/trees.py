"""LightGBM on the filter bank: gradient-boosted trees over every training day, binned as they are read. To import it
loads the system's libgomp, which may be absent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import lightgbm
import numpy as np
from jaxtyping import Bool, Float, Int64

from atft.linear.columns import Columns
from atft.metrics.rank import daily_rank_ic

PARAMS: Final[dict[str, object]] = {
    "objective": "regression",
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "max_bin": 63,
    "seed": 0,
    "deterministic": True,
    "force_col_wise": True,
    "metric": "none",
    "verbosity": -1,
}
GRID: Final = tuple({"num_leaves": leaves, "learning_rate": rate} for leaves, rate in product((7, 15, 31), (0.05, 0.1)))
NAMES_OF_GRID: Final = 10  # the grid is searched on one name in so many
MAX_TREES: Final = 100
PATIENCE: Final = 20  # trees without a better RankIC
EVALUATED_EVERY: Final = 5  # trees
ROWS_PER_TREE: Final = 100_000
STOP_SHARE: Final = 0.2  # of the training days, at their end: they say how many trees there are
MAX_CELLS: Final = 4_000_000_000  # of a byte each
Beat = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trees:
    """One model a horizon, fitted on all rows; `params` and `num_trees` were chosen on the last training days."""

    boosters: tuple[lightgbm.Booster, ...]
    params: dict[str, float]
    num_trees: tuple[int, ...]

    def scores(self, own: Float[np.ndarray, "stock own"]) -> Float[np.ndarray, "stock horizon"]:
        """Scores of one day's samples."""
        return np.stack([np.asarray(booster.predict(own)) for booster in self.boosters], axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRows:
    """What the trees are fitted on, but for the columns: for each row its day, code and ranks, in the order of days."""

    day: Int64[np.ndarray, " row"]
    code: Int64[np.ndarray, " row"]
    ranks: Float[np.ndarray, "row horizon"]


def fit_trees(
    columns: Columns, rows: TrainingRows, *, gap: int, min_names: int, threads: int, beat: Beat
) -> Trees | str:
    """The trees, or why there are none. `gap`: days left out before those that say how many trees there are."""
    if len(rows.day) == 0:
        return "no training sample has all targets known"
    if len(rows.day) * columns.num_own > MAX_CELLS:
        return (
            f"{len(rows.day):,} rows of {columns.num_own:,} columns are more than {MAX_CELLS:,} cells: "
            "select fewer data.features"
        )
    fit = _Fit(columns, rows, threads, beat)
    days = np.unique(rows.day)
    first_judged = days[min(len(days) - 1, int(len(days) * (1.0 - STOP_SHARE)))]
    early, judged = rows.day < first_judged - gap, rows.day >= first_judged
    few = rows.code % NAMES_OF_GRID == 0
    middle = rows.ranks.shape[1] // 2
    searched = [
        (fit.grown(params, middle, early & few, judged & few, max(2, min_names // NAMES_OF_GRID)), params)
        for params in GRID
    ]
    known = [(grown.rank_ic, params) for grown, params in searched if grown is not None]
    chosen = max(known, key=lambda one: one[0])[1] if known else GRID[len(GRID) // 2]
    boosters, counts = [], []
    for h in range(rows.ranks.shape[1]):
        grown = fit.grown(chosen, h, early, judged, min_names)
        counts.append(grown.num_trees if grown is not None else MAX_TREES)
        boosters.append(fit.final(chosen, h, counts[-1]))
    return Trees(boosters=tuple(boosters), params=chosen, num_trees=tuple(counts))


@dataclass(frozen=True, slots=True)
class _Grown:
    num_trees: int
    rank_ic: float


class _Fit:
    def __init__(self, columns: Columns, rows: TrainingRows, threads: int, beat: Beat) -> None:
        self._rows, self._beat = rows, beat
        self._params = PARAMS | {"num_threads": threads}
        starts = np.concatenate([[0], np.flatnonzero(np.diff(rows.day)) + 1])
        lengths = np.diff([*starts, len(rows.day)])
        self._done, self._total = 0, (len(GRID) + 2 * rows.ranks.shape[1]) * MAX_TREES
        reader = _OneDay(columns, lambda: self._advance(0))
        sequences = [_DayRows(reader, int(rows.day[a]), int(n)) for a, n in zip(starts, lengths, strict=True)]
        self._data = lightgbm.Dataset(sequences, params=self._params).construct()

    def grown(
        self,
        params: dict[str, float],
        horizon: int,
        fitted: Bool[np.ndarray, " row"],
        judged: Bool[np.ndarray, " row"],
        min_names: int,
    ) -> _Grown | None:
        """The number of trees with the highest mean daily RankIC on the judged rows; None where no day has one."""
        if not fitted.any() or not judged.any():
            self._advance(MAX_TREES)
            return None
        ranks = self._rows.ranks[:, horizon]
        days, number = np.unique(self._rows.day[judged], return_inverse=True)

        def rank_ic(scores: Any, _: lightgbm.Dataset) -> tuple[str, float, bool]:
            series = daily_rank_ic(
                np.asarray(scores, np.float64), ranks[judged], number, num_days=len(days), min_names=min_names
            )
            known = series[np.isfinite(series)]
            return "rank_ic", float(known.mean()) if len(known) else float("nan"), True

        booster = lightgbm.Booster(self._tree_params(params, int(fitted.sum())), self._subset(fitted, ranks))
        booster.add_valid(self._subset(judged, ranks), "judged")
        best: _Grown | None = None
        for tree in range(1, MAX_TREES + 1):
            booster.update()
            self._advance(1)
            if tree > 1 and tree % EVALUATED_EVERY:
                continue
            value = float(booster.eval_valid(rank_ic)[-1][2])
            if np.isfinite(value) and (best is None or value > best.rank_ic):
                best = _Grown(tree, value)
            elif tree - (best.num_trees if best is not None else 0) >= PATIENCE:
                self._advance(MAX_TREES - tree)
                break
        return best

    def final(self, params: dict[str, float], horizon: int, num_trees: int) -> lightgbm.Booster:
        """So many trees on all rows."""
        self._data.set_label(np.ascontiguousarray(self._rows.ranks[:, horizon]))
        booster = lightgbm.Booster(self._tree_params(params, len(self._rows.day)), self._data)
        for _ in range(num_trees):
            booster.update()
            self._advance(1)
        self._advance(MAX_TREES - num_trees)
        return booster

    def _subset(self, chosen: Bool[np.ndarray, " row"], ranks: Float[np.ndarray, " row"]) -> lightgbm.Dataset:
        return self._data.subset(np.flatnonzero(chosen).tolist()).set_label(ranks[chosen])

    def _tree_params(self, params: dict[str, float], num_rows: int) -> dict[str, object]:
        bagging = {"bagging_fraction": min(1.0, ROWS_PER_TREE / num_rows), "bagging_freq": 1}
        return self._params | params | bagging

    def _advance(self, trees: int) -> None:
        self._done += trees
        self._beat(self._done, self._total)


class _OneDay:
    """Reads a day's columns, and keeps those of the last one. `on_read` is called for each day."""

    def __init__(self, columns: Columns, on_read: Callable[[], None]) -> None:
        self._columns, self._on_read = columns, on_read
        self._held: tuple[int, Float[np.ndarray, "row own"]] = (-1, np.zeros((0, 0)))

    def rows(self, number: int) -> Float[np.ndarray, "row own"]:
        if self._held[0] != number:
            self._on_read()
            (day,) = self._columns.days(np.array([number]))
            self._held = number, day.own[day.known]
        return self._held[1]


class _DayRows(lightgbm.Sequence):
    """The rows of one day, read when LightGBM asks for them."""

    def __init__(self, reader: _OneDay, number: int, length: int) -> None:
        self._reader, self._number, self._length = reader, number, length
        self.batch_size = max(1, length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice | list[int]) -> Float[np.ndarray, "..."]:
        return np.asarray(self._reader.rows(self._number)[index])
